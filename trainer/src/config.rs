//! Experiments: one small TOML file each, changed by `--set key=value`, resolved before anything runs and stored with the result.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use swr_core::detector::Timing;
use swr_core::frontend::Frontend;
use swr_core::{FrontendSettings, GainSettings};

use crate::architecture::{Architecture, WINDOW_FRAMES};
use crate::augment::Augment;
use crate::base::AlsoSettings;
use crate::baselines::Method;
use crate::loss::LossSettings;
use crate::models::Pipeline;
use crate::reparam::Level;
use crate::reparam::policy::{Form, Input, Penalty};
use crate::scene::SceneSettings;
use crate::train::Schedule;

/// How a base is trained.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaseConfig {
    /// Seed of everything random.
    pub seed: u64,
    /// The network.
    pub architecture: Architecture,
    /// The slow gain of the front end, taken away by `--set gain=none`; without it, a quiet word has other features than a loud one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gain: Option<GainSettings>,
    /// Frames over which logits are averaged, in training and on a device.
    pub window_frames: usize,
    /// How posteriors become events.
    pub timing: Timing,
    /// What scenes are made of.
    pub scenes: SceneSettings,
    /// Variation of sound.
    pub augment: Augment,
    /// The parts of the loss.
    pub loss: LossSettings,
    /// What is learned from further languages.
    pub also: AlsoSettings,
    /// The one stage.
    pub schedule: Schedule,
}

/// How a language is added: SWR as reconstructed from arXiv 2302.13435, staged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdaptConfig {
    /// Seed of everything random.
    pub seed: u64,
    /// What selects; `swr` unless something is to be compared with it.
    pub method: Method,
    /// Training holds this many times the unknown clips that an epoch draws from them.
    pub unknown_pool: usize,
    /// Bytes of a budget in bytes that are kept free, for thresholds that are calibrated later.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub calibration_bytes: usize,
    /// What scenes are made of.
    pub scenes: SceneSettings,
    /// Variation of sound.
    pub augment: Augment,
    /// The parts of the loss.
    pub loss: LossSettings,
    /// The classifier's start: a linear probe on the base's features.
    pub probe: Probe,
    /// Stage 1: all deltas, all gates open.
    pub dense: Schedule,
    /// Stage 2: the policy learns which units to change.
    pub select: Schedule,
    /// What shares a gate.
    pub units: UnitSettings,
    /// The gates of stage 2.
    pub gates: GateSettings,
    /// The policy of stage 2, where the published method is asked for.
    pub policy: PolicySettings,
    /// Stage 3: the chosen units alone. Where norms are gated, its epochs are added to the next stage's.
    pub tune: Schedule,
    /// Stage 4: the same on the grids of the file.
    pub quantise: Schedule,
    /// These grids.
    pub grids: GridSettings,
    /// Settings of methods that SWR is compared with.
    pub baselines: BaselineSettings,
}

/// A linear probe, trained with Adam on features of clips as they are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Probe {
    /// Passes over the features.
    pub epochs: usize,
    /// Features a step.
    pub batch: usize,
    /// Learning rate.
    pub learning_rate: f64,
}

/// What shares a gate, in methods that choose among weights: SWR, and those it is compared with; the published method and others choose among layers.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UnitSettings {
    /// In convolutions.
    pub convolutions: Level,
    /// In norms, whose scale and shift share gates in any case; where the budget is of convolution weights, they always change.
    pub norms: Level,
    /// Under a budget in bytes, norms always change where the file has room for so many bytes for each of their weights, beside half a byte for each of
    /// the classifier.
    pub open_norms_bytes: f64,
    /// In the classifier, under a budget in bytes; else it always changes.
    pub classifier: Level,
}

/// Gates held at the budget in every step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GateSettings {
    /// Adam's learning rate of the scores.
    pub learning_rate: f64,
    /// Width of the gates' sigmoid when the stage begins, in deviations of the scores they start with; it falls geometrically.
    pub first_temperature: f64,
    /// Width when it ends.
    pub last_temperature: f64,
}

/// The published policy, as far as it is known; see [`crate::reparam::policy`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySettings {
    /// What the policy sees.
    pub input: Input,
    /// What a layer that changes becomes.
    pub form: Form,
    /// Adam's learning rate of its variables.
    pub learning_rate: f64,
    /// Probability of change that every unit starts with.
    pub initial_probability: f64,
    /// Gumbel-Softmax temperature when the stage begins; it falls geometrically.
    pub first_temperature: f64,
    /// Temperature when it ends.
    pub last_temperature: f64,
    /// Shape of the penalty on the expected cost.
    pub penalty: Penalty,
    /// Its factor; of the dual penalty, the learning rate of the multiplier.
    pub penalty_weight: f64,
    /// Draws of the gates that share a batch; as many as it has clips: one per clip.
    pub draws: usize,
    /// Whether the deltas go on training beside the policy, or stay as the dense stage left them.
    pub train_deltas: bool,
    /// Whether all convolutions of a block share a gate.
    pub by_block: bool,
}

/// Settings of methods that SWR is compared with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BaselineSettings {
    /// Rank of low-rank differences, of the published method too if it is asked for that form.
    pub rank: usize,
    /// Factor of the gates' mean size in the loss of TAPS.
    pub taps_penalty: f64,
}

/// The grids that differences are stored on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GridSettings {
    /// Steps of a changed weight, in the median, under a budget in bytes that not everything fits into.
    pub levels: f64,
    /// The same under a budget in weights, where bytes do not count.
    pub fine_levels: f64,
    /// Last epochs in which grids stay; before, they are set anew with every epoch, such that the file keeps to its budget.
    pub settle_epochs: usize,
}

impl BaseConfig {
    /// What lies before and behind the network.
    pub fn pipeline(&self) -> Pipeline {
        Pipeline {
            frontend: FrontendSettings {
                gain: self.gain,
                ..FrontendSettings::default()
            },
            window_frames: self.window_frames,
            timing: self.timing,
        }
    }

    /// Refuses values that training could not run with.
    pub fn check(&self) -> Result<()> {
        ensure!(
            (0.5..=16.0).contains(&self.architecture.tau),
            "architecture.tau = {}: expected 0.5 to 16",
            self.architecture.tau
        );
        ensure!(
            (1..=WINDOW_FRAMES).contains(&self.window_frames),
            "window_frames = {}: expected 1 to {WINDOW_FRAMES}",
            self.window_frames
        );
        Frontend::new(&self.pipeline().frontend)?;
        self.scenes.check()?;
        self.augment.check()?;
        self.loss.check()?;
        self.also.check()?;
        self.schedule.check("schedule")
    }
}

impl AdaptConfig {
    /// Refuses values that training could not run with.
    pub fn check(&self) -> Result<()> {
        self.scenes.check()?;
        self.augment.check()?;
        self.loss.check()?;
        ensure!(self.probe.batch > 0, "probe.batch = 0: expected at least 1");
        ensure!(
            self.unknown_pool > 0,
            "unknown_pool = 0: expected at least 1"
        );
        for (name, schedule) in [
            ("dense", &self.dense),
            ("select", &self.select),
            ("tune", &self.tune),
            ("quantise", &self.quantise),
        ] {
            schedule.check(name)?;
        }
        let p = self.policy.initial_probability;
        ensure!(
            p > 0.0 && p < 1.0,
            "policy.initial_probability = {p}: expected between 0 and 1"
        );
        ensure!(
            self.policy.draws > 0,
            "policy.draws = 0: expected at least 1"
        );
        for (name, value) in [
            ("policy.first_temperature", self.policy.first_temperature),
            ("policy.last_temperature", self.policy.last_temperature),
            ("gates.first_temperature", self.gates.first_temperature),
            ("gates.last_temperature", self.gates.last_temperature),
            ("grids.levels", self.grids.levels),
            ("grids.fine_levels", self.grids.fine_levels),
        ] {
            ensure!(
                value > 0.0 && value.is_finite(),
                "{name} = {value}: expected above 0"
            );
        }
        for (name, value) in [
            ("gates.learning_rate", self.gates.learning_rate),
            ("policy.learning_rate", self.policy.learning_rate),
            ("policy.penalty_weight", self.policy.penalty_weight),
            ("baselines.taps_penalty", self.baselines.taps_penalty),
            ("units.open_norms_bytes", self.units.open_norms_bytes),
        ] {
            ensure!(
                value >= 0.0 && value.is_finite(),
                "{name} = {value}: expected at least 0"
            );
        }
        ensure!(
            self.baselines.rank > 0,
            "baselines.rank = 0: expected at least 1"
        );
        Ok(())
    }
}

/// What an evaluation measures.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvaluateConfig {
    /// Clips to use.
    pub split: EvaluateSplit,
    /// Clips computed together.
    pub batch: usize,
}

/// The clips of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum EvaluateSplit {
    /// What settings were chosen on
    Dev,
    /// What nothing was chosen on
    Test,
    /// Both together
    #[value(name = "dev+test")]
    #[serde(rename = "dev+test")]
    DevTest,
}

/// The configuration that `swr-train base` uses without `--config`.
pub const BASE_DEFAULT: &str = include_str!("../configs/base.toml");
/// The configuration that `swr-train adapt` uses without `--config`.
pub const ADAPT_DEFAULT: &str = include_str!("../configs/adapt.toml");
/// The configuration that `swr-train evaluate` uses without `--config`.
pub const EVALUATE_DEFAULT: &str = include_str!("../configs/evaluate.toml");

/// Reads a configuration: the file, or `default`, with `changes` such as `schedule.epochs=5` applied.
pub fn resolve<T: DeserializeOwned>(
    file: Option<&Path>,
    default: &str,
    changes: &[String],
) -> Result<T> {
    let (text, origin) = match file {
        Some(path) => (
            std::fs::read_to_string(path)
                .with_context(|| format!("{}: could not be read", path.display()))?,
            path.display().to_string(),
        ),
        None => (
            default.to_string(),
            "the built-in configuration".to_string(),
        ),
    };
    let mut table: toml::Table = text
        .parse()
        .with_context(|| format!("{origin}: not TOML"))?;
    for change in changes {
        set(&mut table, change).with_context(|| format!("--set {change}"))?;
    }
    toml::Value::Table(table)
        .try_into()
        .with_context(|| format!("{origin}: does not fit"))
}

fn set(table: &mut toml::Table, change: &str) -> Result<()> {
    let (key, value) = change
        .split_once('=')
        .context("expected key=value, such as schedule.epochs=5")?;
    let value: toml::Value = match format!("v = {value}")
        .parse::<toml::Table>()
        .ok()
        .and_then(|mut t| t.remove("v"))
    {
        Some(value) => value,
        None => toml::Value::String(value.to_string()),
    };
    if key == "gain" && value.as_str() == Some("none") {
        table.remove(key);
        return Ok(());
    }
    let mut parts: Vec<&str> = key.split('.').collect();
    let last = parts.pop().unwrap_or_default();
    let mut table = table;
    for part in parts {
        table = match table.get_mut(part) {
            Some(toml::Value::Table(inner)) => inner,
            _ => bail!("the configuration has no section `{part}`"),
        };
    }
    let Some(old) = table.get_mut(last) else {
        bail!("the configuration has no key `{last}` there")
    };
    // A whole number where a fraction stands is meant as one.
    *old = match (&*old, value) {
        (toml::Value::Float(_), toml::Value::Integer(i)) => toml::Value::Float(i as f64),
        (_, value) => value,
    };
    Ok(())
}

fn is_zero(bytes: &usize) -> bool {
    *bytes == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gain_is_changed_and_taken_away() {
        let resolved = |changes: &[&str]| {
            let changes: Vec<String> = changes.iter().map(|c| (*c).to_owned()).collect();
            resolve::<BaseConfig>(None, BASE_DEFAULT, &changes)
        };
        assert_eq!(resolved(&[]).unwrap().gain, Some(GainSettings::default()));
        assert_eq!(resolved(&["gain=none"]).unwrap().gain, None);
        let changed = resolved(&["gain.target=100"]).unwrap();
        assert_eq!(
            changed.pipeline().frontend.gain.map(|g| g.target),
            Some(100.0)
        );
        let message = resolved(&["gain.smoothing=2"])
            .unwrap()
            .check()
            .unwrap_err();
        assert!(message.to_string().contains("gain.smoothing"), "{message}");
    }

    #[test]
    fn built_in_configurations_resolve_and_take_changes() {
        let base: BaseConfig = resolve(None, BASE_DEFAULT, &[]).unwrap();
        let changed: BaseConfig = resolve(
            None,
            BASE_DEFAULT,
            &["schedule.epochs=3".into(), "architecture.tau=3".into()],
        )
        .unwrap();
        assert_eq!(
            (changed.schedule.epochs, changed.architecture.tau),
            (3, 3.0)
        );
        assert_eq!(base.augment, changed.augment);
        resolve::<AdaptConfig>(None, ADAPT_DEFAULT, &["policy.penalty=hinge".into()]).unwrap();
        let split = ["split=dev+test".into()];
        let evaluate: EvaluateConfig = resolve(None, EVALUATE_DEFAULT, &split).unwrap();
        assert_eq!(evaluate.split, EvaluateSplit::DevTest);
    }

    #[test]
    fn every_key_of_a_built_in_configuration_has_its_comment() {
        for text in [BASE_DEFAULT, ADAPT_DEFAULT, EVALUATE_DEFAULT] {
            let lines: Vec<&str> = text.lines().collect();
            let keys = lines.windows(2).filter(|pair| pair[1].contains(" = "));
            let bare: Vec<&str> = keys
                .filter(|pair| !pair[0].starts_with("# ") && !pair[1].starts_with('#'))
                .map(|pair| pair[1])
                .collect();
            assert!(bare.is_empty(), "no comment before {bare:?}");
        }
    }

    #[test]
    fn unknown_keys_are_refused() {
        let error =
            resolve::<BaseConfig>(None, BASE_DEFAULT, &["schedule.epoch=3".into()]).unwrap_err();
        assert!(format!("{error:#}").contains("epoch"), "{error:#}");
    }
}
