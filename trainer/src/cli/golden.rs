//! The command `swr-train golden`: a recording of one keyword becomes the golden clip by which a device tries a model before it trusts it.

use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use swr_core::audio::decode_16k_mono;
use swr_core::frontend::log_mel;
use swr_core::golden::Golden;
use swr_core::network::Network;
use swr_dataset::{fit_one_second, nfc};

use crate::files::{read, write_package};
use crate::models::{merged, read_base};

#[derive(Args)]
#[command(after_help = "Example:
  espeak-ng -v de -w licht.wav licht
  swr-train golden --lang de --label licht licht.wav     writes models/small/de.golden

A release carries it beside the delta (`swr-train index`, `swr-train sign`). A device runs it on the new model and goes back to the old one if the keyword is not
heard with half the posterior that it has here.")]
pub(super) struct GoldenClip {
    /// Recording of the keyword, in any format that is read; of more than a second, the loudest
    #[arg(value_name = "AUDIO")]
    audio: PathBuf,
    /// Language of the model
    #[arg(long, value_name = "L")]
    lang: String,
    /// The keyword spoken
    #[arg(long, value_name = "WORD")]
    label: String,
    /// Folder of models
    #[arg(long, value_name = "DIR", default_value = "models/small")]
    models: PathBuf,
}

impl GoldenClip {
    pub(super) fn run(&self, out: &mut dyn Write) -> Result<()> {
        let base = read_base(&self.models)?;
        let (language, tensors) = merged(&base, &self.models, &self.lang)?;
        let network = Network::new(&tensors).context(
        "a golden clip is run by the device's own pass of the causal BC-ResNet, which this model is not",
    )?;
        let named = || self.audio.display().to_string();
        let samples = decode_16k_mono(&read(&self.audio)?).with_context(named)?;
        let frames = log_mel(&language.frontend, &fit_one_second(&samples)).with_context(named)?;
        // As the model spells it.
        let typed = nfc(&self.label);
        let spelt = language.labels.iter().find(|label| nfc(label) == typed);
        let label = spelt.unwrap_or(&self.label);
        let weakest = Golden::new(&self.lang, label, 1, &frames)?;
        let posterior = weakest
            .check(&network, &language.labels)
            .with_context(named)?;
        // Half of it: another processor rounds otherwise, and a later model of the language may be less sure.
        let least = (50.0 * posterior).max(1.0) as u8;
        let golden = Golden::new(&self.lang, label, least, &frames)?;
        let name = match self.lang == base.manifest().language {
            true => "base",
            false => &self.lang,
        };
        let path = self.models.join(format!("{name}.golden"));
        write_package(&path, &golden.write())?;
        writeln!(
            out,
            "{}: {:?} has a posterior of {posterior:.2}, at least {:.2} is asked for",
            path.display(),
            self.label,
            f32::from(least) / 100.0
        )?;
        Ok(())
    }
}
