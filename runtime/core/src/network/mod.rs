//! Causal BC-ResNet as one pass over its merged tensors: log-mel frames come in, logits leave, and an explicit state is carried between calls.
//!
//! It computes what [`graph::streaming_graph`] describes, with the norms folded into weights, and runs where no inference engine goes. Frames
//! may come in steps of any size: the logits have the same bits. On x86-64 with AVX2 and FMA, and on aarch64, sums of products are rounded once;
//! elsewhere twice, so logits differ in their last bits between kinds of CPU.

pub mod architecture;
pub mod graph;
mod kernels;

use alloc::{format, string::String, vec, vec::Vec};

use multiversion::multiversion;

use crate::package::{Tensor, Tensors};
use architecture::{Architecture, MEL_BINS, SUB_BANDS};
use kernels::{Dense, lanes, lanes_mut, padded, silu, weighted_sum};

/// Why tensors are not a network that can be computed here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NetworkError {
    /// A tensor is not there.
    #[error("tensor {name}: expected in the network, found none")]
    Missing {
        /// Its name.
        name: String,
    },
    /// A tensor has another shape than the architecture says.
    #[error(
        "tensor {name}: expected shape {expected:?}, found {found:?}; give the tau that the network was trained with"
    )]
    Shape {
        /// Its name.
        name: String,
        /// The architecture's shape.
        expected: Vec<usize>,
        /// The shape that was found.
        found: Vec<usize>,
    },
    /// A tensor that the architecture has not.
    #[error("tensor {name}: expected no such tensor in the network, found one")]
    Superfluous {
        /// Its name.
        name: String,
    },
    /// A name that is not of an architecture of this project.
    #[error("architecture \"{name}\": expected a name such as \"bcresnet-causal tau=1\"")]
    UnknownName {
        /// The name.
        name: String,
    },
    /// Values that do not fill whole frames.
    #[error("{found} values, expected frames of {MEL_BINS}")]
    FrameLength {
        /// Number of values.
        found: usize,
    },
}

/// Kernel of head and tail, in bands and in frames.
const KERNEL: usize = 5;
/// Zeros around a frame's mel bins.
const MARGIN: usize = KERNEL / 2;
/// A frame with its margins.
const MEL_ROW: usize = MEL_BINS + 2 * MARGIN;
/// Frames that are computed together; a longer step is several of these.
const CHUNK: usize = 10;

/// A network's weights, norms folded, in the order in which they are used.
#[derive(Clone, Debug)]
pub struct Network {
    head: Dense,
    blocks: Vec<Block>,
    /// `[5 frames][5 bands][width]`.
    tail: Vec<f32>,
    tail_width: usize,
    tail_point: Dense,
    classifier: Dense,
    classes: usize,
}

#[derive(Clone, Debug)]
struct Block {
    /// The 1x1 convolution in front of a block that changes the width.
    entry: Option<Dense>,
    /// Channels, padded.
    width: usize,
    bands_in: usize,
    bands_out: usize,
    stride: usize,
    dilation: usize,
    /// Taps along frequency, of every band that leaves, `[bands_out][3][width]`: the norm differs between sub-bands.
    frequency: Vec<f32>,
    /// `[bands_out][width]`.
    frequency_shift: Vec<f32>,
    /// `[3][width]`.
    time: Vec<f32>,
    time_shift: Vec<f32>,
    point: Dense,
}

/// What a network remembers between calls, and the space it computes in.
#[derive(Clone, Debug)]
pub struct State {
    /// The last frames with their margins, and behind them those of the chunk under way.
    mel: Vec<f32>,
    /// The same of every block's mean over frequency.
    times: Vec<Vec<f32>>,
    /// The same of the last block's output.
    tail: Vec<f32>,
    scratch: Scratch,
}

#[derive(Clone, Debug)]
struct Scratch {
    /// The head's input, a row of 25 values for every frame and band.
    columns: Vec<f32>,
    /// A block's input, what its entry makes of it, and its frequency branch: `[frames][bands][width]`.
    input: Vec<f32>,
    entered: Vec<f32>,
    auxiliary: Vec<f32>,
    /// The time branch, `[frames][width]`.
    branch: Vec<f32>,
    pointed: Vec<f32>,
    /// `[frames][classes]`, padded.
    logits: Vec<f32>,
    zeros: Vec<f32>,
}

impl Network {
    /// The network with these tensors.
    ///
    /// # Errors
    /// If they are not exactly those of a causal BC-ResNet.
    pub fn new(tensors: &Tensors) -> Result<Self, NetworkError> {
        let architecture = Architecture::of(tensors)?;
        let tensor = |name: &str| -> &Tensor { &tensors[name] };
        let norm = |name: &str| {
            let part = |part| tensor(&format!("{name}.norm.{part}")).data.as_slice();
            (part("scale"), part("shift"))
        };
        let normed = |name: &str, inputs: usize, weight: &str| {
            let ((scale, shift), weight) = (norm(name), tensor(weight));
            let of = |channel: usize, input: usize| {
                scale[channel] * weight.data[channel * inputs + input]
            };
            Dense::new(weight.rows(), inputs, of, |channel| shift[channel])
        };
        // The head's kernel is stored band before frame and used frame before band.
        let head = {
            let ((scale, shift), weight) = (norm("head"), tensor("head.conv.weight"));
            let taps = KERNEL * KERNEL;
            let of = |channel: usize, tap: usize| {
                let (frame, band) = (tap / KERNEL, tap % KERNEL);
                scale[channel] * weight.data[channel * taps + band * KERNEL + frame]
            };
            Dense::new(weight.rows(), taps, of, |channel| shift[channel])
        };
        let blocks: Vec<Block> = architecture
            .blocks()
            .iter()
            .map(|block| {
                let name = |part: &str| format!("{}.{part}", block.name);
                let entry = block
                    .has_entry()
                    .then(|| normed(&name("entry"), block.inputs, &name("entry.conv.weight")));
                let width = padded(block.width);
                let taps = tensor(&name("frequency.conv.weight"));
                let (scale, shift) = norm(&name("frequency"));
                let mut frequency = vec![0.0; block.bands_out * 3 * width];
                let mut frequency_shift = vec![0.0; block.bands_out * width];
                for band in 0..block.bands_out {
                    let sub_band = band * SUB_BANDS / block.bands_out;
                    for channel in 0..block.width {
                        let place = channel * SUB_BANDS + sub_band;
                        frequency_shift[band * width + channel] = shift[place];
                        for tap in 0..3 {
                            frequency[(band * 3 + tap) * width + channel] =
                                scale[place] * taps.data[channel * 3 + tap];
                        }
                    }
                }
                let taps = tensor(&name("time.conv.weight"));
                let (scale, shift) = norm(&name("time"));
                let (mut time, mut time_shift) = (vec![0.0; 3 * width], vec![0.0; width]);
                for channel in 0..block.width {
                    time_shift[channel] = shift[channel];
                    for tap in 0..3 {
                        time[tap * width + channel] = scale[channel] * taps.data[channel * 3 + tap];
                    }
                }
                let weight = tensor(&name("point.conv.weight"));
                let of = |channel: usize, input: usize| weight.data[channel * block.width + input];
                Block {
                    entry,
                    width,
                    bands_in: block.bands_in,
                    bands_out: block.bands_out,
                    stride: block.stride,
                    dilation: block.dilation,
                    frequency,
                    frequency_shift,
                    time,
                    time_shift,
                    point: Dense::new(block.width, block.width, of, |_| 0.0),
                }
            })
            .collect();
        let taps = tensor("tail.depthwise.conv.weight");
        let tail_width = padded(taps.rows());
        let mut tail = vec![0.0; KERNEL * SUB_BANDS * tail_width];
        for channel in 0..taps.rows() {
            for (band, frame) in (0..SUB_BANDS).flat_map(|b| (0..KERNEL).map(move |f| (b, f))) {
                tail[(frame * SUB_BANDS + band) * tail_width + channel] =
                    taps.data[channel * SUB_BANDS * KERNEL + band * KERNEL + frame];
            }
        }
        let tail_point = normed("tail", taps.rows(), "tail.point.conv.weight");
        let (weight, bias) = (tensor("classifier.weight"), tensor("classifier.bias"));
        let (classes, inputs) = (weight.rows(), architecture.tail_width());
        let of = |class: usize, input: usize| weight.data[class * inputs + input];
        Ok(Self {
            head,
            blocks,
            tail,
            tail_width,
            tail_point,
            classifier: Dense::new(classes, inputs, of, |class| bias.data[class]),
            classes,
        })
    }

    /// Logits of one frame.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The state before the first frame: all that was is silence of the network's own kind, zeros.
    pub fn state(&self) -> State {
        let largest = |size: &dyn Fn(&Block) -> usize| self.blocks.iter().map(size).max();
        let rows = |size: &dyn Fn(&Block) -> usize| CHUNK * largest(size).unwrap_or(0);
        let head = CHUNK * MEL_BINS / 2;
        State {
            mel: vec![0.0; (KERNEL - 1 + CHUNK) * MEL_ROW],
            times: self
                .blocks
                .iter()
                .map(|block| vec![0.0; (2 * block.dilation + CHUNK) * block.width])
                .collect(),
            tail: vec![0.0; (KERNEL - 1 + CHUNK) * SUB_BANDS * self.tail_width],
            scratch: Scratch {
                columns: vec![0.0; head * KERNEL * KERNEL],
                input: vec![0.0; (head * self.head.width).max(rows(&|b| b.bands_out * b.width))],
                entered: vec![0.0; rows(&|b| b.bands_in * b.width)],
                auxiliary: vec![0.0; rows(&|b| b.bands_out * b.width)],
                branch: vec![0.0; rows(&|b| b.width).max(CHUNK * self.tail_width)],
                pointed: vec![0.0; rows(&|b| b.width).max(CHUNK * self.tail_point.width)],
                logits: vec![0.0; CHUNK * self.classifier.width],
                zeros: vec![0.0; rows(&|b| b.width) / CHUNK],
            },
        }
    }

    /// Takes frames, `[frames][40]` log-mel values, and appends `[frames][classes]` logits.
    ///
    /// # Errors
    /// [`NetworkError::FrameLength`] if `frames` are not whole frames; nothing has happened then.
    pub fn step(
        &self,
        state: &mut State,
        frames: &[f32],
        logits: &mut Vec<f32>,
    ) -> Result<(), NetworkError> {
        if !frames.len().is_multiple_of(MEL_BINS) {
            let found = frames.len();
            return Err(NetworkError::FrameLength { found });
        }
        logits.reserve(frames.len() / MEL_BINS * self.classes);
        for chunk in frames.chunks(CHUNK * MEL_BINS) {
            run(self, state, chunk);
            let computed = state.scratch.logits.chunks_exact(self.classifier.width);
            for row in computed.take(chunk.len() / MEL_BINS) {
                logits.extend_from_slice(&row[..self.classes]);
            }
        }
        Ok(())
    }
}

impl State {
    /// As before the first frame.
    pub fn reset(&mut self) {
        self.mel.fill(0.0);
        self.times.iter_mut().for_each(|rows| rows.fill(0.0));
        self.tail.fill(0.0);
    }
}

impl Block {
    /// Computes the block on the rows of `scratch.input`, which its output replaces.
    #[inline(always)]
    fn pass<const FUSED: bool>(
        &self,
        scratch: &mut Scratch,
        time: &mut [f32],
        input_width: usize,
        count: usize,
    ) {
        let Scratch {
            input,
            entered,
            auxiliary,
            branch,
            pointed,
            zeros,
            ..
        } = scratch;
        let width = self.width;
        let (rows_in, rows_out) = (count * self.bands_in, count * self.bands_out);
        let x = match &self.entry {
            Some(entry) => {
                let x = &input[..rows_in * input_width];
                entry.apply::<FUSED>(x, input_width, &mut entered[..rows_in * width], true);
                &*entered
            }
            None => &*input,
        };

        let history = 2 * self.dilation;
        let share = 1.0 / self.bands_out as f32;
        let means = time[history * width..].chunks_exact_mut(width);
        for (frame, mean) in means.take(count).enumerate() {
            mean.fill(0.0);
            for band_out in 0..self.bands_out {
                let place = frame * self.bands_out + band_out;
                let out = &mut auxiliary[place * width..][..width];
                let middle = frame * self.bands_in + band_out * self.stride;
                let above = match band_out {
                    0 => &zeros[..width],
                    _ => band(x, middle - 1, width),
                };
                let below = match band_out * self.stride + 1 {
                    next if next == self.bands_in => &zeros[..width],
                    _ => band(x, middle + 1, width),
                };
                weighted_sum::<FUSED, 3>(
                    out,
                    band(&self.frequency_shift, band_out, width),
                    [above, band(x, middle, width), below],
                    core::array::from_fn(|tap| band(&self.frequency, band_out * 3 + tap, width)),
                );
                add(mean, out);
            }
            mean.iter_mut().for_each(|mean| *mean *= share);
        }

        for frame in 0..count {
            let out = &mut branch[frame * width..][..width];
            weighted_sum::<FUSED, 3>(
                out,
                &self.time_shift,
                core::array::from_fn(|tap| band(time, frame + tap * self.dilation, width)),
                core::array::from_fn(|tap| band(&self.time, tap, width)),
            );
            silu::<FUSED>(out);
        }
        keep(time, count, history, width);
        let pointed = &mut pointed[..count * width];
        self.point
            .apply::<FUSED>(&branch[..count * width], width, pointed, false);

        let residual = self.entry.is_none();
        for row in 0..rows_out {
            let frame = row / self.bands_out;
            let out = lanes_mut(&mut input[row * width..][..width]);
            let auxiliary = lanes(band(auxiliary, row, width));
            let pointed = lanes(band(pointed, frame, width));
            for ((out, a), b) in out.iter_mut().zip(auxiliary).zip(pointed) {
                for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                    let sum = a + b;
                    *out = if residual { sum + *out } else { sum }.max(0.0);
                }
            }
        }
    }
}

/// Row `index` of rows of `width` values.
#[inline(always)]
fn band(rows: &[f32], index: usize, width: usize) -> &[f32] {
    &rows[index * width..][..width]
}

#[inline(always)]
fn add(sum: &mut [f32], row: &[f32]) {
    for (sum, value) in sum.iter_mut().zip(row) {
        *sum += value;
    }
}

/// Makes the last `history` of `history + count` rows the first.
#[inline(always)]
fn keep(rows: &mut [f32], count: usize, history: usize, width: usize) {
    rows.copy_within(count * width..(count + history) * width, 0);
}

/// Computes a chunk of frames; their logits are in the scratch space.
#[multiversion(targets("x86_64+avx2+fma"))]
fn run(network: &Network, state: &mut State, frames: &[f32]) {
    const FUSED: bool = cfg!(target_arch = "aarch64")
        || multiversion::target::target_cfg_f!(target_feature = "fma");
    pass::<FUSED>(network, state, frames);
}

#[inline(always)]
fn pass<const FUSED: bool>(network: &Network, state: &mut State, frames: &[f32]) {
    let count = frames.len() / MEL_BINS;
    let scratch = &mut state.scratch;

    let new = state.mel[(KERNEL - 1) * MEL_ROW..].chunks_exact_mut(MEL_ROW);
    for (row, frame) in new.zip(frames.chunks_exact(MEL_BINS)) {
        row[MARGIN..][..MEL_BINS].copy_from_slice(frame);
    }
    let bands = MEL_BINS / 2;
    let columns = scratch.columns.chunks_exact_mut(KERNEL * KERNEL);
    for (place, column) in columns.take(count * bands).enumerate() {
        let (frame, band) = (place / bands, place % bands);
        for (tap, values) in column.chunks_exact_mut(KERNEL).enumerate() {
            let start = (frame + tap) * MEL_ROW + 2 * band;
            values.copy_from_slice(&state.mel[start..start + KERNEL]);
        }
    }
    let rows = count * bands;
    network.head.apply::<FUSED>(
        &scratch.columns[..rows * KERNEL * KERNEL],
        KERNEL * KERNEL,
        &mut scratch.input[..rows * network.head.width],
        true,
    );
    keep(&mut state.mel, count, KERNEL - 1, MEL_ROW);

    let mut input_width = network.head.width;
    for (block, time) in network.blocks.iter().zip(&mut state.times) {
        block.pass::<FUSED>(scratch, time, input_width, count);
        input_width = block.width;
    }

    let (width, row) = (network.tail_width, SUB_BANDS * network.tail_width);
    state.tail[(KERNEL - 1) * row..][..count * row].copy_from_slice(&scratch.input[..count * row]);
    for frame in 0..count {
        // Five bands of five frames lie one after another.
        let row = |rows, tap: usize| -> &[f32] { band(rows, tap, width) };
        weighted_sum::<FUSED, { KERNEL * SUB_BANDS }>(
            &mut scratch.branch[frame * width..][..width],
            &scratch.zeros[..width],
            core::array::from_fn(|tap| row(&state.tail, frame * SUB_BANDS + tap)),
            core::array::from_fn(|tap| row(&network.tail, tap)),
        );
    }
    keep(&mut state.tail, count, KERNEL - 1, row);
    network.tail_point.apply::<FUSED>(
        &scratch.branch[..count * width],
        width,
        &mut scratch.pointed[..count * network.tail_point.width],
        true,
    );
    network.classifier.apply::<FUSED>(
        &scratch.pointed[..count * network.tail_point.width],
        network.tail_point.width,
        &mut scratch.logits[..count * network.classifier.width],
        false,
    );
}
