//! A base made to be changed: trained on further languages under the budget of a delta. Between its own batches it hears theirs, with weights that differ
//! from its own by what a delta may store: a classifier, norms, and the largest differences of convolution weights. What it learns from them is its own
//! weights; theirs are thrown away. Base and differences are learned together, to first order: no gradient is taken of a gradient.

use anyhow::{Result, ensure};
use candle_core::Tensor;
use serde::{Deserialize, Serialize};
use swr_core::package::Group;

use crate::config::BaseConfig;
use crate::examples::Language;
use crate::learner::{Learner, Rule};
use crate::network::{Weights, initial_weights};
use crate::reparam::choose::ranking;

/// How a base learns from further languages.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AlsoSettings {
    /// Share of the batches that is theirs.
    pub share: f64,
    /// Share of the convolution weights in which each of them may differ from the base.
    pub change: f64,
}

impl AlsoSettings {
    /// Refuses values that training could not run with.
    pub(crate) fn check(&self) -> Result<()> {
        ensure!(
            self.share > 0.0 && self.share < 1.0,
            "also.share = {}: expected between 0 and 1",
            self.share
        );
        ensure!(
            (0.0..=1.0).contains(&self.change),
            "also.change = {}: expected 0 to 1",
            self.change
        );
        Ok(())
    }
}

/// The name of what `code` has of its own, of the tensor that the base calls `name`.
fn own(code: &str, name: &str) -> String {
    format!("{code}/{name}")
}

/// Adds what each further language has of its own: a random classifier, the base's norms as they are now, and no difference.
pub(super) fn add(
    learner: &mut Learner,
    config: &BaseConfig,
    languages: &[Language],
) -> Result<()> {
    let base = learner.weights();
    for language in languages {
        let classes = language.labels.len();
        let random = initial_weights(&config.architecture, classes, config.seed)?;
        for (name, value) in &base {
            let (own, zeros) = (own(&language.code, name), value.zeros_like()?);
            match Group::of(name) {
                Group::Classifier => {
                    let anchor = random[name].zeros_like()?;
                    learner.add(&own, &random[name], Rule::Sgd { anchor })?;
                }
                Group::Norm => learner.add(&own, value, Rule::Sgd { anchor: zeros })?,
                Group::Convolution => {
                    let anchor = zeros.clone();
                    learner.add(&own, &zeros, Rule::Sgd { anchor })?;
                }
                Group::Other => {}
            }
        }
    }
    Ok(())
}

/// The base's own weights, of all that is learned.
pub(super) fn of_the_base(learned: &Weights) -> Weights {
    let base = learned.iter().filter(|(name, _)| !name.contains('/'));
    base.map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// The weights of a further language, through which gradients flow to the base's and to its own: of its differences, only the largest count, as many as it
/// may have, but all of them learn.
pub(super) fn of_a_language(learned: &Weights, code: &str, change: f64) -> Result<Weights> {
    let mut weights = of_the_base(learned);
    let convolutions: Vec<String> = weights
        .keys()
        .filter(|name| Group::of(name) == Group::Convolution)
        .cloned()
        .collect();
    let mut sizes = Vec::new();
    for name in &convolutions {
        sizes.extend::<Vec<f32>>(learned[&own(code, name)].abs()?.flatten_all()?.to_vec1()?);
    }
    let kept = (sizes.len() as f64 * change) as usize;
    let mut open = vec![0f32; sizes.len()];
    ranking(&sizes)[..kept]
        .iter()
        .for_each(|at| open[*at] = 1.0);

    let mut next = 0;
    for name in &convolutions {
        let difference = &learned[&own(code, name)];
        let count = difference.elem_count();
        let open = Tensor::from_slice(
            &open[next..next + count],
            difference.shape(),
            difference.device(),
        )?;
        next += count;
        // The value of what is open, and the gradient of all.
        let difference = (difference - (difference.detach() * (1.0 - open)?)?)?;
        let changed = (&weights[name] + difference)?;
        weights.insert(name.clone(), changed);
    }
    for (name, value) in &mut weights {
        if let Group::Norm | Group::Classifier = Group::of(name) {
            *value = learned[&own(code, name)].clone();
        }
    }
    Ok(weights)
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::{Device, Var};

    /// The value of a language's convolutions differs from the base's in as many weights as it may, the largest; all differences have a gradient.
    #[test]
    fn the_largest_differences_count_and_all_learn() {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).expect("a vector");
        let var = Var::from_tensor(&tensor(&[0.1, -0.5, 0.0, 0.4])).expect("a variable");
        let learned = Weights::from([
            ("a.conv.weight".to_string(), tensor(&[1.0, 1.0, 1.0, 1.0])),
            ("a.norm.scale".to_string(), tensor(&[1.0])),
            ("classifier.bias".to_string(), tensor(&[1.0, 2.0])),
            ("xx/a.conv.weight".to_string(), var.as_tensor().clone()),
            ("xx/a.norm.scale".to_string(), tensor(&[3.0])),
            ("xx/classifier.bias".to_string(), tensor(&[5.0, 6.0, 7.0])),
        ]);
        for (change, expected) in [
            (0.0, [1.0, 1.0, 1.0, 1.0]),
            (0.5, [1.0, 0.5, 1.0, 1.4]),
            (1.0, [1.1, 0.5, 1.0, 1.4]),
        ] {
            let weights = of_a_language(&learned, "xx", change).expect("weights");
            let names: Vec<&str> = weights.keys().map(String::as_str).collect();
            assert_eq!(names, ["a.conv.weight", "a.norm.scale", "classifier.bias"]);
            let values = |name: &str| weights[name].to_vec1::<f32>().expect("a vector");
            assert_eq!(values("a.conv.weight"), expected, "{change}");
            assert_eq!(values("a.norm.scale"), [3.0]);
            assert_eq!(values("classifier.bias"), [5.0, 6.0, 7.0]);
            let sum = weights["a.conv.weight"].sum_all().expect("a sum");
            let gradients = sum.backward().expect("gradients");
            let gradient = gradients.get(var.as_tensor()).expect("a gradient");
            assert_eq!(gradient.to_vec1::<f32>().expect("a vector"), [1.0; 4]);
        }
    }
}
