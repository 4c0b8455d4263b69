//! Core's fused network as an operation of tract: one node in the place of the hundred that a step spends its time between.

use std::sync::Arc;

use swr_core::MEL_BINS;
use swr_core::network::architecture::Architecture;
use swr_core::network::{Network, State, graph};
use swr_core::package::Tensors;
use tract_onnx::tract_core::internal::*;

/// A base whose graph is that of a causal BC-ResNet, operation by operation: its languages need no graph.
#[derive(Clone, Debug)]
pub(crate) struct Recognised {
    architecture: Architecture,
    tensors: Tensors,
}

impl Recognised {
    /// Compares the graph of a model with the one that its architecture has.
    pub(crate) fn of(onnx: &[u8]) -> Option<Self> {
        let (architecture, tensors) = graph::recognise(onnx)?;
        Some(Self {
            architecture,
            tensors,
        })
    }

    /// The network with `merged` in the place of the base's tensors; none if they do not fit.
    pub(super) fn network(&self, merged: Option<&Tensors>) -> Option<Fused> {
        let network = match merged {
            None => Network::new(&self.tensors),
            Some(merged) if merged.len() == self.tensors.len() => Network::new(merged),
            Some(merged) => {
                let mut tensors = self.tensors.clone();
                tensors.extend(merged.iter().map(|(name, t)| (name.clone(), t.clone())));
                Network::new(&tensors)
            }
        };
        Some(Fused {
            network: Arc::new(network.ok()?),
            architecture: self.architecture.clone(),
        })
    }
}

/// Log-mel frames `[N, 40]` to logits `[N, classes]`; its state is that of the stream.
#[derive(Clone, Debug)]
pub(super) struct Fused {
    network: Arc<Network>,
    architecture: Architecture,
}

impl Fused {
    /// Logits of one frame.
    pub(super) fn classes(&self) -> usize {
        self.network.classes()
    }

    /// A graph of this one operation, for steps of `step_frames` frames.
    pub(super) fn model(self, step_frames: usize) -> TractResult<TypedModel> {
        let mut model = TypedModel::default();
        let frames = model.add_source("frames", f32::fact([step_frames, MEL_BINS]))?;
        let logits = model.wire_node("logits", self, &[frames])?;
        model.select_output_outlets(&logits)?;
        Ok(model)
    }
}

impl PartialEq for Fused {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.network, &other.network)
    }
}

impl Eq for Fused {}

impl Op for Fused {
    fn name(&self) -> StaticName {
        "FusedBcResNet".into()
    }

    op_as_typed_op!();
}

impl EvalOp for Fused {
    not_out_of_plan!();

    fn state(&self, _: &EvalContext) -> TractResult<Option<Box<dyn OpState>>> {
        Ok(Some(Box::new(Stream(self.network.state()))))
    }
}

impl TypedOp for Fused {
    fn output_facts(&self, inputs: &[&TypedFact]) -> TractResult<TVec<TypedFact>> {
        let frames = inputs[0].shape[0].clone();
        Ok(tvec!(f32::fact([frames, self.classes().to_dim()])))
    }

    fn cost(&self, inputs: &[&TypedFact]) -> TractResult<TVec<(Cost, TDim)>> {
        let classifier = self.architecture.tail_width() * self.classes();
        let per_frame = self.architecture.multiply_adds(1, 0) + classifier;
        let all = inputs[0].shape[0].clone() * per_frame;
        Ok(tvec!((Cost::FMA(f32::datum_type()), all)))
    }

    as_op!();
}

/// The state of one stream.
#[derive(Clone, Debug)]
struct Stream(State);

impl OpState for Stream {
    fn eval(
        &mut self,
        _: &EvalContext,
        op: &dyn Op,
        inputs: TVec<TValue>,
    ) -> TractResult<TVec<TValue>> {
        let op = op
            .downcast_ref::<Fused>()
            .context("the fused network's state runs another operation")?;
        let frames = inputs[0].try_as_plain_ram()?.as_slice::<f32>()?;
        let mut logits = Vec::new();
        op.network.step(&mut self.0, frames, &mut logits)?;
        let shape = [frames.len() / MEL_BINS, op.classes()];
        Ok(tvec!(Tensor::from_shape(&shape, &logits)?.into_tvalue()))
    }

    fn reset_lanes(&mut self, _: &[LaneId]) -> TractResult<()> {
        self.0.reset();
        Ok(())
    }
}
