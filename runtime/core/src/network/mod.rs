//! Causal BC-ResNet as one pass over its merged tensors: log-mel frames come in, logits leave, and an explicit state is carried between calls.
//!
//! It computes what [`graph::streaming_graph`] describes, with the norms folded into weights, and runs where no inference engine goes. Frames
//! may come in steps of any size: the logits have the same bits. With `std`, on x86-64 with AVX2 and FMA and on aarch64, sums of products are rounded once;
//! elsewhere twice, so logits differ in their last bits between kinds of CPU.

pub mod architecture;
pub mod graph;
mod kernels;
mod stream;

use alloc::{format, string::String, vec, vec::Vec};

use crate::package::{Tensor, Tensors};
use architecture::{Architecture, MEL_BINS, SUB_BANDS};
use kernels::{
    Arithmetic, Dense, LANES, Lanes, Plain, groups, relu, silu, three_taps, weighted_sum,
};
pub use stream::{Stream, Streaming};

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
    /// `[5 frames][5 bands][groups]`.
    tail: Vec<Lanes>,
    tail_groups: usize,
    tail_point: Dense,
    classifier: Dense,
    classes: usize,
    /// Of one frame.
    multiply_adds: usize,
}

#[derive(Clone, Debug)]
struct Block {
    /// The 1x1 convolution in front of a block that changes the width.
    entry: Option<Dense>,
    /// Groups of eight channels.
    groups: usize,
    bands_in: usize,
    bands_out: usize,
    stride: usize,
    dilation: usize,
    /// Taps along frequency, of every band that leaves, `[bands_out][3][groups]`: the norm differs between sub-bands.
    frequency: Vec<Lanes>,
    /// `[bands_out][groups]`.
    frequency_shift: Vec<Lanes>,
    /// `[3][groups]`.
    time: Vec<Lanes>,
    time_shift: Vec<Lanes>,
    point: Dense,
}

/// What a network remembers between calls, and the space it computes in.
#[derive(Clone, Debug)]
pub struct State {
    /// The last frames with their margins, and behind them those of the chunk under way.
    mel: Vec<f32>,
    /// The same of every block's mean over frequency.
    times: Vec<Vec<Lanes>>,
    /// The same of the last block's output.
    tail: Vec<Lanes>,
    scratch: Scratch,
}

#[derive(Clone, Debug)]
struct Scratch {
    /// A block's input, what its entry makes of it, and its frequency branch: `[frames][bands][groups]`.
    input: Vec<Lanes>,
    entered: Vec<Lanes>,
    auxiliary: Vec<Lanes>,
    /// The time branch, `[frames][groups]`.
    branch: Vec<Lanes>,
    pointed: Vec<Lanes>,
    /// `[frames][groups of classes]`.
    logits: Vec<Lanes>,
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
                let groups = groups(block.width);
                let taps = tensor(&name("frequency.conv.weight"));
                let (scale, shift) = norm(&name("frequency"));
                let mut frequency = vec![[0.0; LANES]; block.bands_out * 3 * groups];
                let mut frequency_shift = vec![[0.0; LANES]; block.bands_out * groups];
                for band in 0..block.bands_out {
                    let sub_band = band * SUB_BANDS / block.bands_out;
                    for channel in 0..block.width {
                        let place = channel * SUB_BANDS + sub_band;
                        let (group, lane) = (channel / LANES, channel % LANES);
                        frequency_shift[band * groups + group][lane] = shift[place];
                        for tap in 0..3 {
                            frequency[(band * 3 + tap) * groups + group][lane] =
                                scale[place] * taps.data[channel * 3 + tap];
                        }
                    }
                }
                let taps = tensor(&name("time.conv.weight"));
                let (scale, shift) = norm(&name("time"));
                let mut time = vec![[0.0; LANES]; 3 * groups];
                let mut time_shift = vec![[0.0; LANES]; groups];
                for channel in 0..block.width {
                    let (group, lane) = (channel / LANES, channel % LANES);
                    time_shift[group][lane] = shift[channel];
                    for tap in 0..3 {
                        time[tap * groups + group][lane] =
                            scale[channel] * taps.data[channel * 3 + tap];
                    }
                }
                let weight = tensor(&name("point.conv.weight"));
                let of = |channel: usize, input: usize| weight.data[channel * block.width + input];
                Block {
                    entry,
                    groups,
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
        let tail_groups = groups(taps.rows());
        let mut tail = vec![[0.0; LANES]; KERNEL * SUB_BANDS * tail_groups];
        for channel in 0..taps.rows() {
            for (band, frame) in (0..SUB_BANDS).flat_map(|b| (0..KERNEL).map(move |f| (b, f))) {
                let row = (frame * SUB_BANDS + band) * tail_groups;
                tail[row + channel / LANES][channel % LANES] =
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
            tail_groups,
            tail_point,
            classifier: Dense::new(classes, inputs, of, |class| bias.data[class]),
            classes,
            multiply_adds: architecture.multiply_adds(1, classes),
        })
    }

    /// Multiply-adds of one frame.
    pub fn multiply_adds(&self) -> usize {
        self.multiply_adds
    }

    /// Logits of one frame.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The state before the first frame: all that was is silence of the network's own kind, zeros.
    pub fn state(&self) -> State {
        let rows = |size: &dyn Fn(&Block) -> usize| {
            let largest = self.blocks.iter().map(size).max().unwrap_or(0);
            vec![[0.0; LANES]; CHUNK * largest]
        };
        let head = MEL_BINS / 2 * self.head.groups;
        let ends = self.tail_groups.max(self.tail_point.groups);
        let history = |frames: usize, groups: usize| vec![[0.0; LANES]; (frames + CHUNK) * groups];
        State {
            mel: vec![0.0; (KERNEL - 1 + CHUNK) * MEL_ROW],
            times: self
                .blocks
                .iter()
                .map(|block| history(2 * block.dilation, block.groups))
                .collect(),
            tail: history(KERNEL - 1, SUB_BANDS * self.tail_groups),
            scratch: Scratch {
                input: rows(&|block| head.max(block.bands_out * block.groups)),
                entered: rows(&|block| block.bands_in * block.groups),
                auxiliary: rows(&|block| block.bands_out * block.groups),
                branch: rows(&|block| ends.max(block.groups)),
                pointed: rows(&|block| ends.max(block.groups)),
                logits: vec![[0.0; LANES]; CHUNK * self.classifier.groups],
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
            let computed = state.scratch.logits.chunks_exact(self.classifier.groups);
            for row in computed.take(chunk.len() / MEL_BINS) {
                logits.extend_from_slice(&row.as_flattened()[..self.classes]);
            }
        }
        Ok(())
    }
}

impl State {
    /// As before the first frame.
    pub fn reset(&mut self) {
        self.mel.fill(0.0);
        self.times
            .iter_mut()
            .for_each(|rows| rows.fill([0.0; LANES]));
        self.tail.fill([0.0; LANES]);
    }
}

impl Block {
    /// Computes the block on the rows of `scratch.input`, which its output replaces.
    #[inline(always)]
    fn pass<A: Arithmetic>(
        &self,
        arithmetic: A,
        scratch: &mut Scratch,
        time: &mut [Lanes],
        groups_in: usize,
        count: usize,
    ) {
        let Scratch {
            input,
            entered,
            auxiliary,
            branch,
            pointed,
            ..
        } = scratch;
        let groups = self.groups;
        let x = match &self.entry {
            Some(entry) => {
                let rows = count * self.bands_in;
                let x = input[..rows * groups_in].as_flattened();
                let out = &mut entered[..rows * groups];
                entry.apply::<A, true>(arithmetic, x, groups_in * LANES, [1, 0], out);
                &*entered
            }
            None => &*input,
        };

        let history = 2 * self.dilation;
        for frame in 0..count {
            let x = arithmetic.vectors(row(x, frame, self.bands_in * groups));
            let rows = self.bands_out * groups;
            let out = &mut auxiliary[frame * rows..][..rows];
            let mean = &mut time[(history + frame) * groups..][..groups];
            let (out, mean) = (arithmetic.vectors_mut(out), arithmetic.vectors_mut(mean));
            let mut group = 0;
            while group + 2 <= groups {
                self.along_frequency::<A, 2>(arithmetic, x, group, out, mean);
                group += 2;
            }
            if group < groups {
                self.along_frequency::<A, 1>(arithmetic, x, group, out, mean);
            }
        }

        let shift = arithmetic.vectors(&self.time_shift);
        let taps = arithmetic.vectors(&self.time);
        let past = arithmetic.vectors(time);
        let out = arithmetic.vectors_mut(&mut branch[..count * groups]);
        for (frame, out) in out.chunks_exact_mut(groups).enumerate() {
            for (group, out) in out.iter_mut().enumerate() {
                let x = [0, 1, 2].map(|tap| past[(frame + tap * self.dilation) * groups + group]);
                let taps = [0, 1, 2].map(|tap| taps[tap * groups + group]);
                *out = silu(arithmetic, three_taps(arithmetic, shift[group], x, taps));
            }
        }
        keep(time, count, history, groups);
        let pointed = &mut pointed[..count * groups];
        let x = branch[..count * groups].as_flattened();
        self.point
            .apply::<A, false>(arithmetic, x, groups * LANES, [1, 0], pointed);

        let residual = self.entry.is_none();
        let rows = self.bands_out * groups;
        let (auxiliary, pointed) = (arithmetic.vectors(auxiliary), arithmetic.vectors(pointed));
        let out = arithmetic.vectors_mut(&mut input[..count * rows]);
        for frame in 0..count {
            let pointed = &pointed[frame * groups..][..groups];
            let auxiliary = auxiliary[frame * rows..][..rows].chunks_exact(groups);
            let out = out[frame * rows..][..rows].chunks_exact_mut(groups);
            for (out, auxiliary) in out.zip(auxiliary) {
                for ((out, a), b) in out.iter_mut().zip(auxiliary).zip(pointed) {
                    let mut sum = arithmetic.add(*a, *b);
                    if residual {
                        sum = arithmetic.add(sum, *out);
                    }
                    *out = relu(arithmetic, sum);
                }
            }
        }
    }

    /// `G` groups of one frame, from `group` on: the taps along frequency, `[bands_out][groups]`, and their mean.
    #[inline(always)]
    fn along_frequency<A: Arithmetic, const G: usize>(
        &self,
        arithmetic: A,
        x: &[A::Vector],
        group: usize,
        out: &mut [A::Vector],
        mean: &mut [A::Vector],
    ) {
        let groups = self.groups;
        let zero = arithmetic.all(0.0);
        let mut sums = [zero; G];
        let taps = arithmetic.vectors(&self.frequency).chunks_exact(3 * groups);
        let shifts = arithmetic
            .vectors(&self.frequency_shift)
            .chunks_exact(groups);
        let out = out.chunks_exact_mut(groups);
        for (band, ((out, shift), taps)) in out.zip(shifts).zip(taps).enumerate() {
            let middle = band * self.stride;
            let at = |band: usize| &x[band * groups + group..][..G];
            let y = at(middle);
            let mut above = [zero; G];
            if middle > 0 {
                above.copy_from_slice(at(middle - 1));
            }
            let mut below = [zero; G];
            if middle + 1 < self.bands_in {
                below.copy_from_slice(at(middle + 1));
            }
            let tap = |tap: usize| &taps[tap * groups + group..][..G];
            let (first, second, third) = (tap(0), tap(1), tap(2));
            let (shift, out) = (&shift[group..][..G], &mut out[group..][..G]);
            for column in 0..G {
                let x = [above[column], y[column], below[column]];
                let taps = [first[column], second[column], third[column]];
                let value = three_taps(arithmetic, shift[column], x, taps);
                out[column] = value;
                sums[column] = arithmetic.add(sums[column], value);
            }
        }
        let share = arithmetic.all(1.0 / self.bands_out as f32);
        for (mean, sum) in mean[group..][..G].iter_mut().zip(sums) {
            *mean = arithmetic.mul(sum, share);
        }
    }
}

/// Row `index` of rows of `groups` groups.
#[inline(always)]
fn row(rows: &[Lanes], index: usize, groups: usize) -> &[Lanes] {
    &rows[index * groups..][..groups]
}

/// Makes the last `history` of `history + count` rows the first.
#[inline(always)]
fn keep<T: Copy>(rows: &mut [T], count: usize, history: usize, width: usize) {
    rows.copy_within(count * width..(count + history) * width, 0);
}

/// Computes a chunk of frames, with the widest arithmetic that the processor has; their logits are in the scratch space.
fn run(network: &Network, state: &mut State, frames: &[f32]) {
    #[cfg(all(feature = "std", target_arch = "x86_64"))]
    if let Some(simd) = pulp::x86::V3::try_new() {
        return simd.vectorize(Pass(simd, network, state, frames));
    }
    #[cfg(all(feature = "std", target_arch = "aarch64"))]
    if let Some(simd) = pulp::aarch64::Neon::try_new() {
        return simd.vectorize(Pass(simd, network, state, frames));
    }
    pass(Plain, network, state, frames);
}

/// [`pass`], as pulp compiles it for one kind of processor.
#[cfg(all(feature = "std", any(target_arch = "x86_64", target_arch = "aarch64")))]
struct Pass<'a, A>(A, &'a Network, &'a mut State, &'a [f32]);

#[cfg(all(feature = "std", any(target_arch = "x86_64", target_arch = "aarch64")))]
impl<A: Arithmetic> pulp::NullaryFnOnce for Pass<'_, A> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self(arithmetic, network, state, frames) = self;
        pass(arithmetic, network, state, frames);
    }
}

#[inline(always)]
fn pass<A: Arithmetic>(arithmetic: A, network: &Network, state: &mut State, frames: &[f32]) {
    let count = frames.len() / MEL_BINS;
    let scratch = &mut state.scratch;

    let new = state.mel[(KERNEL - 1) * MEL_ROW..].chunks_exact_mut(MEL_ROW);
    for (row, frame) in new.zip(frames.chunks_exact(MEL_BINS)) {
        row[MARGIN..][..MEL_BINS].copy_from_slice(frame);
    }
    let (bands, mut groups) = (MEL_BINS / 2, network.head.groups);
    for frame in 0..count {
        // Five frames, and of each five bins, every other band.
        let x = &state.mel[frame * MEL_ROW..][..KERNEL * MEL_ROW];
        let out = &mut scratch.input[frame * bands * groups..][..bands * groups];
        network
            .head
            .apply::<A, true>(arithmetic, x, 2, [KERNEL, MEL_ROW], out);
    }
    keep(&mut state.mel, count, KERNEL - 1, MEL_ROW);

    for (block, time) in network.blocks.iter().zip(&mut state.times) {
        block.pass(arithmetic, scratch, time, groups, count);
        groups = block.groups;
    }

    let rows = SUB_BANDS * groups;
    state.tail[(KERNEL - 1) * rows..][..count * rows]
        .copy_from_slice(&scratch.input[..count * rows]);
    let branch = &mut scratch.branch[..count * groups];
    let taps = arithmetic.vectors(&network.tail);
    for (frame, out) in branch.chunks_exact_mut(groups).enumerate() {
        // Five bands of five frames lie one after another.
        let past = arithmetic.vectors(&state.tail[frame * rows..][..KERNEL * rows]);
        weighted_sum(arithmetic, arithmetic.vectors_mut(out), past, taps);
    }
    keep(&mut state.tail, count, KERNEL - 1, rows);
    let pointed = &mut scratch.pointed[..count * network.tail_point.groups];
    let x = branch.as_flattened();
    network
        .tail_point
        .apply::<A, true>(arithmetic, x, groups * LANES, [1, 0], pointed);
    let logits = &mut scratch.logits[..count * network.classifier.groups];
    let step = network.tail_point.groups * LANES;
    network
        .classifier
        .apply::<A, false>(arithmetic, pointed.as_flattened(), step, [1, 0], logits);
}
