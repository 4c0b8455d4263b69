//! Runs a streaming network with tract: ONNX bytes and the merged tensors come in, then log-mel frames step by step; per-frame logits leave.
//!
//! It works with any graph whose inputs are `frames [1,1,F,N]` and `state.*` and whose outputs are `logits [1,C,1,N]` and `next_state.*`. A graph
//! that is a causal BC-ResNet is run as a single operation, `fused`; any other, operation by operation. It knows no thresholds and no devices.

mod fused;
mod graph;

use prost::Message;
use swr_core::MEL_BINS;
use swr_core::package::Tensors;
use tract_onnx::pb;
use tract_onnx::prelude::{Framework, InferenceFact, InferenceModel, InferenceModelExt};
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::Factoid;

use crate::error::EngineError;
pub(crate) use fused::Recognised;
use graph::Ends;

/// Frames a step takes when nothing else is asked for: 40 ms, the best trade of delay against the cost per node of a step.
pub const DEFAULT_STEP_FRAMES: usize = 4;

/// Largest input: a minute of frames of 40 bins is 240,000 values, the largest network's states have less.
const MAX_INPUT_VALUES: usize = 1 << 24;

/// The bytes of `onnx` with `merged` tensors in the place of the initialisers of the same name.
///
/// # Errors
/// [`EngineError`] when the bytes are no ONNX model, or when a tensor does not fit the graph.
pub(crate) fn merged_onnx(onnx: &[u8], merged: &Tensors) -> Result<Vec<u8>, EngineError> {
    Ok(graph::parse(onnx, Some(merged))?.encode_to_vec())
}

/// A network ready to run, with the state it carries from step to step.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use swr_runtime::{Engine, DEFAULT_STEP_FRAMES};
///
/// let onnx = std::fs::read("models/base.onnx")?;
/// let mut engine = Engine::new(&onnx, None, DEFAULT_STEP_FRAMES)?;
/// let mut logits = Vec::new();
/// engine.step(&vec![0.0; engine.step_frames() * engine.mel_bins()], &mut logits)?;
/// assert_eq!(logits.len(), engine.step_frames() * engine.classes());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Engine {
    plan: TypedSimpleState,
    /// Whether the graph is one fused operation, which takes and gives frame after frame and keeps the state to itself.
    fused: bool,
    /// Inputs of the next step in the graph's order; the place of `frames` is overwritten at every step.
    inputs: TVec<TValue>,
    frames_input: usize,
    logits_output: usize,
    /// For every state: the input it is fed to, the output it is taken from.
    carried: Vec<(usize, usize)>,
    mel_bins: usize,
    step_frames: usize,
    classes: usize,
}

/// One operation of the graph that runs, as [`Engine::operations`] lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Name of the operation in tract.
    pub name: String,
    /// Shape of every output.
    pub shapes: Vec<Vec<usize>>,
    /// Multiply-adds of one step.
    pub multiply_adds: usize,
}

impl Engine {
    /// Builds the network and sets its state to zero.
    ///
    /// `onnx` are the bytes of the base; `merged` are tensors that take the place of the initialisers of the same name (`None`: the base as it is).
    /// Names that start with `classifier.` may bring another number of rows. `step_frames` is the number of frames every step takes, at least 1.
    ///
    /// # Errors
    /// [`EngineError`] when the bytes are no ONNX model, when a tensor does not fit the graph, or when the graph has not the inputs and outputs this runtime feeds.
    pub fn new(
        onnx: &[u8],
        merged: Option<&Tensors>,
        step_frames: usize,
    ) -> Result<Engine, EngineError> {
        Engine::of(Recognised::of(onnx).as_ref(), onnx, merged, step_frames)
    }

    /// As [`Engine::new`], for a base that was compared before. What does not fit the fused network does not fit the graph either, which says why.
    pub(crate) fn of(
        recognised: Option<&Recognised>,
        onnx: &[u8],
        merged: Option<&Tensors>,
        step_frames: usize,
    ) -> Result<Engine, EngineError> {
        if step_frames == 0 {
            return Err(EngineError::NoFrames);
        }
        match recognised.and_then(|recognised| recognised.network(merged)) {
            Some(fused) => Engine::fused(fused, step_frames).map_err(EngineError::tract),
            None => Engine::unfused(onnx, merged, step_frames),
        }
    }

    fn fused(fused: fused::Fused, step_frames: usize) -> TractResult<Engine> {
        let classes = fused.classes();
        Ok(Engine {
            plan: fused.model(step_frames)?.into_runnable()?.spawn()?,
            fused: true,
            inputs: tvec!(Tensor::zero::<f32>(&[0])?.into_tvalue()),
            frames_input: 0,
            logits_output: 0,
            carried: Vec::new(),
            mel_bins: MEL_BINS,
            step_frames,
            classes,
        })
    }

    /// As [`Engine::new`], operation by operation even where the graph could be fused: what the fused network is compared with.
    ///
    /// # Errors
    /// As [`Engine::new`].
    pub fn unfused(
        onnx: &[u8],
        merged: Option<&Tensors>,
        step_frames: usize,
    ) -> Result<Engine, EngineError> {
        if step_frames == 0 {
            return Err(EngineError::NoFrames);
        }
        let proto = graph::parse(onnx, merged)?;
        let ends = Ends::find(proto.graph.as_ref().unwrap_or(&pb::GraphProto::default()))?;
        let model = optimised(&proto, ends.frames_input, step_frames)?;
        Engine::with_model(model, ends, step_frames)
    }

    fn with_model(
        model: TypedModel,
        ends: Ends,
        step_frames: usize,
    ) -> Result<Engine, EngineError> {
        let mut inputs = TVec::new();
        for index in 0..model.inputs.len() {
            let shape = concrete(model.input_fact(index).map_err(EngineError::tract)?)
                .filter(|shape| values(shape).is_some_and(|values| values <= MAX_INPUT_VALUES));
            let shape = shape.ok_or_else(|| {
                EngineError::Graph(format!(
                    "input {index} has no fixed shape of at most {MAX_INPUT_VALUES} values"
                ))
            })?;
            let zero = Tensor::zero::<f32>(&shape).map_err(EngineError::tract)?;
            inputs.push(zero.into_tvalue());
        }
        for &(input, output) in &ends.carried {
            let next = concrete(model.output_fact(output).map_err(EngineError::tract)?);
            if next.as_deref() != Some(inputs[input].shape()) {
                return Err(EngineError::Graph(format!(
                    "state input {input} has shape {:?}, its successor {next:?}; they must agree",
                    inputs[input].shape()
                )));
            }
        }
        let mel_bins = match *inputs[ends.frames_input].shape() {
            [1, 1, mel_bins, _] => mel_bins,
            ref other => {
                return Err(EngineError::Graph(format!(
                    "`frames` has shape {other:?}, expected [1, 1, mel bins, frames]"
                )));
            }
        };
        let logits = concrete(
            model
                .output_fact(ends.logits_output)
                .map_err(EngineError::tract)?,
        );
        let classes = match logits.as_deref() {
            Some(&[1, classes, 1, frames]) if frames == step_frames => classes,
            other => {
                return Err(EngineError::Graph(format!(
                    "`logits` has shape {other:?}, expected [1, classes, 1, {step_frames}]"
                )));
            }
        };
        let plan = model
            .into_runnable()
            .and_then(|plan| plan.spawn())
            .map_err(EngineError::tract)?;
        Ok(Engine {
            plan,
            fused: false,
            inputs,
            frames_input: ends.frames_input,
            logits_output: ends.logits_output,
            carried: ends.carried,
            mel_bins,
            step_frames,
            classes,
        })
    }

    /// Runs one step. `frames` is `[step_frames, mel_bins]`, frame by frame; `[step_frames, classes]` logits are appended to `logits`.
    ///
    /// # Errors
    /// [`EngineError::StepLength`] when `frames` has another length, and nothing has happened; any other error leaves the state at zero.
    pub fn step(&mut self, frames: &[f32], logits: &mut Vec<f32>) -> Result<(), EngineError> {
        let expected = self.step_frames * self.mel_bins;
        if frames.len() != expected {
            return Err(EngineError::StepLength {
                found: frames.len(),
                expected,
            });
        }
        self.run(frames, logits).map_err(|error| {
            self.reset();
            EngineError::tract(error)
        })
    }

    fn run(&mut self, frames: &[f32], logits: &mut Vec<f32>) -> TractResult<()> {
        if self.fused {
            let input = Tensor::from_shape(&[self.step_frames, self.mel_bins], frames)?;
            let outputs = self.plan.run(tvec!(input.into_tvalue()))?;
            logits.extend_from_slice(outputs[0].try_as_plain_ram()?.as_slice()?);
            return Ok(());
        }
        let shape = [1, 1, self.mel_bins, self.step_frames];
        let mut input = Tensor::zero::<f32>(&shape)?;
        transpose(
            frames,
            self.mel_bins,
            input.try_as_plain_ram_mut()?.as_slice_mut()?,
        );
        self.inputs[self.frames_input] = input.into_tvalue();
        let outputs = self.plan.run(self.inputs.clone())?;
        for &(input, output) in &self.carried {
            self.inputs[input] = outputs[output].clone();
        }
        let values = &outputs[self.logits_output];
        let start = logits.len();
        logits.resize(start + self.step_frames * self.classes, 0.0);
        transpose(
            values.try_as_plain_ram()?.as_slice()?,
            self.step_frames,
            &mut logits[start..],
        );
        Ok(())
    }

    /// Sets the state to zero, as after [`Engine::new`].
    pub fn reset(&mut self) {
        if self.fused {
            // It never refuses.
            let _ = self.plan.reset_lanes(&[]);
        }
        for &(input, _) in &self.carried {
            let shape = self.inputs[input].shape().to_vec();
            if let Ok(zero) = Tensor::zero::<f32>(&shape) {
                self.inputs[input] = zero.into_tvalue();
            }
        }
    }

    /// Frames of one step.
    pub fn step_frames(&self) -> usize {
        self.step_frames
    }

    /// Log-mel bins of one frame.
    pub fn mel_bins(&self) -> usize {
        self.mel_bins
    }

    /// Classes: logits of one frame.
    pub fn classes(&self) -> usize {
        self.classes
    }

    /// The operations of the graph as it runs, in order, with their shapes and multiply-adds: what tests compare to show that a merge adds none.
    ///
    /// # Errors
    /// [`EngineError::Tract`] when tract cannot tell an operation's cost.
    pub fn operations(&self) -> Result<Vec<Operation>, EngineError> {
        let model = self.plan.model();
        let order = model.eval_order().map_err(EngineError::tract)?;
        order
            .into_iter()
            .map(|id| operation(model, id).map_err(EngineError::tract))
            .collect()
    }
}

/// Fixes the number of frames, then lets tract type and optimise the graph.
fn optimised(
    proto: &pb::ModelProto,
    frames_input: usize,
    step_frames: usize,
) -> Result<TypedModel, EngineError> {
    let typed = || -> TractResult<TypedModel> {
        let mut onnx = tract_onnx::onnx();
        // Value infos name the symbol that is fixed here, so they would contradict it.
        onnx.ignore_value_info = true;
        let mut model: InferenceModel = onnx.model_for_proto_model(proto)?;
        let declared = model.input_fact(frames_input)?.clone();
        let mut shape: TVec<TDim> = TVec::new();
        for dim in declared.shape.dims() {
            // A symbolic number of streams: one.
            shape.push(
                dim.concretize()
                    .filter(|dim| dim.to_usize().is_ok())
                    .unwrap_or_else(|| 1.to_dim()),
            );
        }
        if let Some(frames) = shape.last_mut() {
            *frames = step_frames.to_dim();
        }
        model.set_input_fact(
            frames_input,
            InferenceFact::dt_shape(f32::datum_type(), shape),
        )?;
        model.into_typed()?.into_optimized()
    };
    typed().map_err(EngineError::tract)
}

fn concrete(fact: &TypedFact) -> Option<Vec<usize>> {
    fact.shape.as_concrete().map(<[usize]>::to_vec)
}

/// Number of values of a shape; `None` if it overflows.
fn values(shape: &[usize]) -> Option<usize> {
    shape
        .iter()
        .try_fold(1usize, |product, &dim| product.checked_mul(dim))
}

fn operation(model: &TypedModel, id: usize) -> TractResult<Operation> {
    let node = model.node(id);
    let (inputs, outputs) = model.node_facts(id)?;
    let mut multiply_adds = 0;
    for (cost, count) in node.op.cost(&inputs)? {
        if matches!(cost, Cost::FMA(_)) {
            multiply_adds += count.to_usize()?;
        }
    }
    Ok(Operation {
        name: node.op.name().into_owned(),
        shapes: outputs.into_iter().filter_map(concrete).collect(),
        multiply_adds,
    })
}

/// Writes the transpose of `source` `[rows, columns]` to `target` `[columns, rows]`.
fn transpose(source: &[f32], columns: usize, target: &mut [f32]) {
    let rows = source.len() / columns;
    for (row, values) in source.chunks_exact(columns).enumerate() {
        for (column, &value) in values.iter().enumerate() {
            target[column * rows + row] = value;
        }
    }
}
