//! Any streaming graph, run operation by operation by tract: ONNX bytes and merged tensors come in, then log-mel frames; per-frame logits leave.

use prost::Message;
use swr_core::network::Streaming;
use swr_core::package::Tensors;
use tract_onnx::pb;
use tract_onnx::prelude::{Framework, InferenceFact, InferenceModel, InferenceModelExt};
use tract_onnx::tract_core::internal::*;
use tract_onnx::tract_hir::infer::Factoid;

use super::Operation;
use super::graph::{self, Ends};
use crate::error::EngineError;

/// Largest input: a minute of frames of 40 bins is 240,000 values, the largest network's states have less.
const MAX_INPUT_VALUES: usize = 1 << 24;

/// The bytes of `onnx` with `merged` tensors in the place of the initialisers of the same name.
///
/// # Errors
/// [`EngineError`] when the bytes are no ONNX model, or when a tensor does not fit the graph.
pub(crate) fn merged_onnx(onnx: &[u8], merged: &Tensors) -> Result<Vec<u8>, EngineError> {
    Ok(graph::parse(onnx, Some(merged))?.encode_to_vec())
}

/// A graph as tract runs it, with the state it carries from step to step.
#[derive(Debug)]
pub struct Plan {
    plan: TypedSimpleState,
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

impl Plan {
    /// The graph of `onnx` with `merged` in the place of its initialisers, at its state of zero. `step_frames` is at least 1.
    ///
    /// # Errors
    /// [`EngineError`] when the bytes are no ONNX model, when a tensor does not fit the graph, or when the graph has not the ends that are fed.
    pub(super) fn new(
        onnx: &[u8],
        merged: Option<&Tensors>,
        step_frames: usize,
    ) -> Result<Self, EngineError> {
        let proto = graph::parse(onnx, merged)?;
        let ends = Ends::find(proto.graph.as_ref().unwrap_or(&pb::GraphProto::default()))?;
        let model = optimised(&proto, ends.frames_input, step_frames)?;
        Self::with_model(model, ends, step_frames)
    }

    fn with_model(model: TypedModel, ends: Ends, step_frames: usize) -> Result<Self, EngineError> {
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
        Ok(Self {
            plan,
            inputs,
            frames_input: ends.frames_input,
            logits_output: ends.logits_output,
            carried: ends.carried,
            mel_bins,
            step_frames,
            classes,
        })
    }

    /// Log-mel bins of one frame.
    pub(super) fn mel_bins(&self) -> usize {
        self.mel_bins
    }

    fn run(&mut self, frames: &[f32], logits: &mut Vec<f32>) -> TractResult<()> {
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

    /// The operations of the graph as it runs, in order.
    pub(super) fn operations(&self) -> Result<Vec<Operation>, EngineError> {
        let model = self.plan.model();
        let order = model.eval_order().map_err(EngineError::tract)?;
        order
            .into_iter()
            .map(|id| operation(model, id).map_err(EngineError::tract))
            .collect()
    }
}

impl Streaming for Plan {
    type Error = EngineError;

    fn step_frames(&self) -> usize {
        self.step_frames
    }

    fn classes(&self) -> usize {
        self.classes
    }

    fn step(&mut self, frames: &[f32], logits: &mut Vec<f32>) -> Result<(), EngineError> {
        for step in frames.chunks_exact(self.step_frames * self.mel_bins) {
            self.run(step, logits).map_err(|error| {
                self.reset();
                EngineError::tract(error)
            })?;
        }
        Ok(())
    }

    fn reset(&mut self) {
        for &(input, _) in &self.carried {
            let shape = self.inputs[input].shape().to_vec();
            if let Ok(zero) = Tensor::zero::<f32>(&shape) {
                self.inputs[input] = zero.into_tvalue();
            }
        }
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
