//! The shape of BC-ResNet at any width: its blocks, the names and shapes of its tensors, and what they cost.
//!
//! Enters: the width factor tau and the kind of padding in time. Leaves: tables that the network, the fused kernels, the
//! ONNX export and the budget read. Nothing here computes with weights.
//! Source: Kim et al., "Broadcasted Residual Learning for Efficient Keyword Spotting", arXiv 2106.04140, section 3 and table 1.

use alloc::{format, string::String, vec, vec::Vec};

use serde::{Deserialize, Serialize};

use super::NetworkError;
use crate::package::Tensors;
pub use crate::settings::{CONTEXT_FRAMES, MEL_BINS, WINDOW_FRAMES};

/// Sub-bands of every sub-spectral norm.
pub const SUB_BANDS: usize = 5;
/// How the temporal convolutions see their neighbours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimePadding {
    /// Only past frames: streaming equals training.
    Causal,
    /// Past and future frames, as in the paper; for comparison with the literature.
    Symmetric,
}

impl TimePadding {
    /// Frames of zero padding on the left for a kernel that spans `span` frames beyond its own.
    pub fn left(self, span: usize) -> usize {
        match self {
            TimePadding::Causal => span,
            TimePadding::Symmetric => span / 2,
        }
    }
}

/// A BC-ResNet, without its weights.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Architecture {
    /// Width factor: 1, 1.5, 2, 3, 6 or 8 in the paper; the first stage has `8 * tau` channels.
    pub tau: f64,
    /// Padding in time.
    pub padding: TimePadding,
}

/// One residual block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Prefix of its tensors, `block00` to `block11`.
    pub name: String,
    /// Channels that enter.
    pub inputs: usize,
    /// Channels that leave.
    pub width: usize,
    /// Frequency bands that enter.
    pub bands_in: usize,
    /// Frequency bands that leave: `bands_in / stride`.
    pub bands_out: usize,
    /// Stride of the frequency convolution.
    pub stride: usize,
    /// Dilation of the temporal convolution, in frames.
    pub dilation: usize,
}

impl Block {
    /// A block that changes the width starts with a 1x1 convolution and has no residual connection.
    pub fn has_entry(&self) -> bool {
        self.inputs != self.width
    }
}

impl Architecture {
    /// A causal network of width `tau`.
    pub fn causal(tau: f64) -> Self {
        Self {
            tau,
            padding: TimePadding::Causal,
        }
    }

    /// The name under which a manifest knows it, such as `bcresnet-causal tau=1`.
    pub fn name(&self) -> String {
        let padding = match self.padding {
            TimePadding::Causal => "causal",
            TimePadding::Symmetric => "symmetric",
        };
        format!("bcresnet-{padding} tau={}", self.tau)
    }

    /// The reverse of [`Architecture::name`].
    ///
    /// # Errors
    /// If the name is not of a network that this trainer builds.
    pub fn from_name(name: &str) -> Result<Self, NetworkError> {
        let parse = || {
            let (padding, tau) = name.strip_prefix("bcresnet-")?.split_once(" tau=")?;
            let padding = match padding {
                "causal" => TimePadding::Causal,
                "symmetric" => TimePadding::Symmetric,
                _ => return None,
            };
            let tau: f64 = tau.parse().ok()?;
            (0.5..=16.0).contains(&tau).then_some(Self { tau, padding })
        };
        parse().ok_or_else(|| NetworkError::UnknownName { name: name.into() })
    }

    /// The causal network that has these tensors, with any number of classes.
    ///
    /// # Errors
    /// If no width has exactly these: the error names a tensor that is missing, superfluous or of another shape.
    pub fn of(tensors: &Tensors) -> Result<Self, NetworkError> {
        let head = tensors
            .get("head.conv.weight")
            .map_or(0, |head| head.rows());
        let architecture = Self::causal(head as f64 / 16.0);
        architecture.check(tensors)?;
        Ok(architecture)
    }

    /// Refuses what are not exactly this network's tensors with any number of classes.
    pub(super) fn check(&self, tensors: &Tensors) -> Result<(), NetworkError> {
        let classes = tensors.get("classifier.bias").map_or(0, |bias| bias.rows());
        let mut expected = self.body_tensors();
        expected.extend(self.classifier_tensors(classes));
        for (name, shape) in &expected {
            let found = tensors.get(name);
            let found = found.ok_or_else(|| NetworkError::Missing { name: name.clone() })?;
            if found.shape != *shape {
                return Err(NetworkError::Shape {
                    name: name.clone(),
                    expected: shape.clone(),
                    found: found.shape.clone(),
                });
            }
        }
        let known = |name: &String| expected.iter().any(|(known, _)| known == name);
        match tensors.keys().find(|name| !known(name)) {
            Some(name) => Err(NetworkError::Superfluous { name: name.clone() }),
            None => Ok(()),
        }
    }

    fn base_width(&self) -> usize {
        libm::round(8.0 * self.tau) as usize
    }

    /// Channels after the head.
    pub fn head_width(&self) -> usize {
        2 * self.base_width()
    }

    /// Channels after the tail, which the classifier sees.
    pub fn tail_width(&self) -> usize {
        4 * self.base_width()
    }

    /// The twelve blocks, in order.
    pub fn blocks(&self) -> Vec<Block> {
        let c = self.base_width();
        let mut inputs = self.head_width();
        let mut bands = MEL_BINS / 2;
        let mut blocks = Vec::with_capacity(12);
        for (width, count, first_stride, dilation) in [
            (c, 2, 1, 1),
            (c * 3 / 2, 2, 2, 2),
            (2 * c, 4, 2, 4),
            (c * 5 / 2, 4, 1, 8),
        ] {
            for i in 0..count {
                let stride = if i == 0 { first_stride } else { 1 };
                blocks.push(Block {
                    name: format!("block{:02}", blocks.len()),
                    inputs,
                    width,
                    bands_in: bands,
                    bands_out: bands / stride,
                    stride,
                    dilation,
                });
                inputs = width;
                bands /= stride;
            }
        }
        blocks
    }

    /// Names and shapes of all tensors but the classifier, in the network's order.
    pub fn body_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let mut tensors = Vec::new();
        let mut add = |name: String, shape: &[usize]| tensors.push((name, shape.to_vec()));
        let norm = |add: &mut dyn FnMut(String, &[usize]), name: &str, shape: &[usize]| {
            add(format!("{name}.norm.scale"), shape);
            add(format!("{name}.norm.shift"), shape);
        };
        let h = self.head_width();
        add("head.conv.weight".into(), &[h, 1, 5, 5]);
        norm(&mut add, "head", &[h]);
        let mut last = h;
        for b in self.blocks() {
            let (n, w) = (&b.name, b.width);
            if b.has_entry() {
                add(format!("{n}.entry.conv.weight"), &[w, b.inputs, 1, 1]);
                norm(&mut add, &format!("{n}.entry"), &[w]);
            }
            add(format!("{n}.frequency.conv.weight"), &[w, 1, 3, 1]);
            norm(&mut add, &format!("{n}.frequency"), &[w, SUB_BANDS]);
            add(format!("{n}.time.conv.weight"), &[w, 1, 1, 3]);
            norm(&mut add, &format!("{n}.time"), &[w]);
            add(format!("{n}.point.conv.weight"), &[w, w, 1, 1]);
            last = w;
        }
        add("tail.depthwise.conv.weight".into(), &[last, 1, 5, 5]);
        add(
            "tail.point.conv.weight".into(),
            &[self.tail_width(), last, 1, 1],
        );
        norm(&mut add, "tail", &[self.tail_width()]);
        tensors
    }

    /// Names and shapes of the classifier's tensors.
    pub fn classifier_tensors(&self, classes: usize) -> Vec<(String, Vec<usize>)> {
        vec![
            (
                "classifier.weight".into(),
                vec![classes, self.tail_width(), 1, 1],
            ),
            ("classifier.bias".into(), vec![classes]),
        ]
    }

    /// All weights of a network with `classes` labels; running statistics fold into scale and shift and do not count.
    pub fn parameters(&self, classes: usize) -> usize {
        let count = |tensors: Vec<(String, Vec<usize>)>| {
            tensors
                .iter()
                .map(|(_, s)| s.iter().product::<usize>())
                .sum::<usize>()
        };
        count(self.body_tensors()) + count(self.classifier_tensors(classes))
    }

    /// Weights of the convolutions, which a budget in per cent counts.
    pub fn conv_weights(&self) -> usize {
        let convs = self
            .body_tensors()
            .into_iter()
            .filter(|(name, _)| is_conv(name));
        convs
            .map(|(_, shape)| shape.iter().product::<usize>())
            .sum()
    }

    /// Multiply-adds of all convolutions over `frames` frames, classifier once per clip (arXiv 2106.04140, table 1 counts
    /// norms and activations too and is a little higher).
    pub fn multiply_adds(&self, frames: usize, classes: usize) -> usize {
        let mut per_frame = self.head_width() * 25 * MEL_BINS / 2;
        for b in self.blocks() {
            if b.has_entry() {
                per_frame += b.width * b.inputs * b.bands_in;
            }
            per_frame += b.width * 3 * b.bands_out + b.width * 3 + b.width * b.width;
        }
        let last = self.base_width() * 5 / 2;
        per_frame += last * 25 + last * self.tail_width();
        per_frame * frames + self.tail_width() * classes
    }
}

/// Whether a tensor is a convolution's weight: these are what a policy gates and a per cent budget counts.
pub fn is_conv(name: &str) -> bool {
    name.ends_with(".conv.weight")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// arXiv 2106.04140, table 1 (9.2k, 27.3k, 54.2k, 188k, 321k parameters), exact values computed from the authors' code.
    #[test]
    fn counts_equal_the_published_table() {
        for (tau, parameters, conv_weights, mega_multiply_adds) in [
            (1.0, 9_232, 6_420, 2.48),
            (1.5, 17_154, 12_942, 4.61),
            (2.0, 27_284, 21_672, 7.32),
            (3.0, 54_168, 45_756, 14.52),
            (6.0, 187_812, 171_000, 50.28),
            (8.0, 321_068, 298_656, 85.92),
        ] {
            for padding in [TimePadding::Causal, TimePadding::Symmetric] {
                let network = Architecture { tau, padding };
                assert_eq!(network.parameters(12), parameters, "tau {tau}");
                assert_eq!(network.conv_weights(), conv_weights, "tau {tau}");
                let mega = network.multiply_adds(101, 12) as f64 / 1e6;
                assert!(
                    (mega - mega_multiply_adds).abs() < 0.006,
                    "tau {tau}: {mega} M multiply-adds"
                );
                assert_eq!(
                    network
                        .body_tensors()
                        .iter()
                        .filter(|(name, _)| is_conv(name))
                        .count(),
                    43
                );
            }
        }
    }
}
