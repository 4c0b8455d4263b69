//! Runs a streaming network: the tensors of a model come in, then log-mel frames step by step; per-frame logits leave.
//!
//! A graph that is a causal BC-ResNet is run by core's fused pass. Any other with the inputs `frames [1,1,F,N]` and `state.*` and the outputs
//! `logits [1,C,1,N]` and `next_state.*` is run by tract, operation by operation, where the feature `tract` is on. No thresholds, no devices.

#[cfg(feature = "tract")]
mod graph;
#[cfg(feature = "tract")]
mod plan;

use swr_core::MEL_BINS;
use swr_core::network::{Network, Stream, Streaming, graph::recognise};
use swr_core::package::Tensors;

use crate::error::EngineError;
#[cfg(feature = "tract")]
pub use plan::Plan;
#[cfg(feature = "tract")]
pub(crate) use plan::merged_onnx;

/// Without tract no other program's graph is written.
#[cfg(not(feature = "tract"))]
pub(crate) fn merged_onnx(_: &[u8], _: &Tensors) -> Result<Vec<u8>, EngineError> {
    Err(EngineError::NeedsTract)
}

/// Frames a step takes when nothing else is asked for: 40 ms, the best trade of delay against the cost per node of a step.
pub const DEFAULT_STEP_FRAMES: usize = 4;

/// A network ready to run, with the state it carries from step to step.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use swr_runtime::{Engine, DEFAULT_STEP_FRAMES};
///
/// let onnx = std::fs::read("models/small/base.onnx")?;
/// let mut engine = Engine::new(&onnx, None, DEFAULT_STEP_FRAMES)?;
/// let mut logits = Vec::new();
/// engine.step(&vec![0.0; engine.step_frames() * engine.mel_bins()], &mut logits)?;
/// assert_eq!(logits.len(), engine.step_frames() * engine.classes());
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub enum Engine {
    /// A causal BC-ResNet in one pass.
    Fused(Box<Stream<Network>>),
    /// Any graph, operation by operation.
    #[cfg(feature = "tract")]
    Graph(Box<Plan>),
}

/// One operation of the network that runs, as [`Engine::operations`] lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Operation {
    /// Name of the operation in tract, or of the network that is a single one.
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
        let tensors = recognise(onnx).map(|(_, mut tensors)| {
            let merged = merged.into_iter().flatten();
            tensors.extend(merged.map(|(name, tensor)| (name.clone(), tensor.clone())));
            tensors
        });
        Engine::of(tensors.as_ref(), onnx, merged, step_frames)
    }

    /// As [`Engine::new`], for a base that was compared before: `fused` are all tensors, merged, of one whose graph is a causal BC-ResNet's.
    pub(crate) fn of(
        fused: Option<&Tensors>,
        onnx: &[u8],
        merged: Option<&Tensors>,
        step_frames: usize,
    ) -> Result<Engine, EngineError> {
        if step_frames == 0 {
            return Err(EngineError::NoFrames);
        }
        match fused.map(Network::new) {
            Some(Ok(network)) => Ok(Engine::Fused(Box::new(Stream::new(network, step_frames)))),
            // What does not fit the fused network does not fit the graph either, which says why.
            refused => Engine::graph(refused.and_then(Result::err), onnx, merged, step_frames),
        }
    }

    /// As [`Engine::new`], operation by operation even where the graph could be fused: what the fused network is compared with.
    ///
    /// # Errors
    /// As [`Engine::new`].
    #[cfg(feature = "tract")]
    pub fn unfused(
        onnx: &[u8],
        merged: Option<&Tensors>,
        step_frames: usize,
    ) -> Result<Engine, EngineError> {
        if step_frames == 0 {
            return Err(EngineError::NoFrames);
        }
        Engine::graph(None, onnx, merged, step_frames)
    }

    #[cfg(feature = "tract")]
    fn graph(
        _: Option<swr_core::network::NetworkError>,
        onnx: &[u8],
        merged: Option<&Tensors>,
        step_frames: usize,
    ) -> Result<Engine, EngineError> {
        let plan = Plan::new(onnx, merged, step_frames)?;
        Ok(Engine::Graph(Box::new(plan)))
    }

    #[cfg(not(feature = "tract"))]
    fn graph(
        refused: Option<swr_core::network::NetworkError>,
        _: &[u8],
        _: Option<&Tensors>,
        _: usize,
    ) -> Result<Engine, EngineError> {
        Err(refused.map_or(EngineError::NeedsTract, EngineError::Network))
    }

    /// Runs one step. `frames` is `[step_frames, mel_bins]`, frame by frame; `[step_frames, classes]` logits are appended to `logits`.
    ///
    /// # Errors
    /// [`EngineError::StepLength`] when `frames` has another length, and nothing has happened; any other error leaves the state at zero.
    pub fn step(&mut self, frames: &[f32], logits: &mut Vec<f32>) -> Result<(), EngineError> {
        let (found, expected) = (frames.len(), self.step_frames() * self.mel_bins());
        if found != expected {
            return Err(EngineError::StepLength { found, expected });
        }
        Streaming::step(self, frames, logits)
    }

    /// Sets the state to zero, as after [`Engine::new`].
    pub fn reset(&mut self) {
        Streaming::reset(self);
    }

    /// Frames of one step.
    pub fn step_frames(&self) -> usize {
        Streaming::step_frames(self)
    }

    /// Log-mel bins of one frame.
    pub fn mel_bins(&self) -> usize {
        match self {
            Engine::Fused(_) => MEL_BINS,
            #[cfg(feature = "tract")]
            Engine::Graph(plan) => plan.mel_bins(),
        }
    }

    /// Classes: logits of one frame.
    pub fn classes(&self) -> usize {
        Streaming::classes(self)
    }

    /// The operations of the network as it runs, in order, with their shapes and multiply-adds: what tests compare to show that a merge adds none.
    ///
    /// # Errors
    /// [`EngineError::Tract`] when tract cannot tell an operation's cost.
    pub fn operations(&self) -> Result<Vec<Operation>, EngineError> {
        match self {
            Engine::Fused(stream) => Ok(vec![Operation {
                name: "FusedBcResNet".into(),
                shapes: vec![vec![stream.step_frames(), stream.classes()]],
                multiply_adds: stream.step_frames() * stream.network().multiply_adds(),
            }]),
            #[cfg(feature = "tract")]
            Engine::Graph(plan) => plan.operations(),
        }
    }
}

impl Streaming for Engine {
    type Error = EngineError;

    fn step_frames(&self) -> usize {
        match self {
            Engine::Fused(stream) => stream.step_frames(),
            #[cfg(feature = "tract")]
            Engine::Graph(plan) => plan.step_frames(),
        }
    }

    fn classes(&self) -> usize {
        match self {
            Engine::Fused(stream) => stream.classes(),
            #[cfg(feature = "tract")]
            Engine::Graph(plan) => plan.classes(),
        }
    }

    fn step(&mut self, frames: &[f32], logits: &mut Vec<f32>) -> Result<(), EngineError> {
        match self {
            Engine::Fused(stream) => Ok(stream.step(frames, logits)?),
            #[cfg(feature = "tract")]
            Engine::Graph(plan) => plan.step(frames, logits),
        }
    }

    fn reset(&mut self) {
        match self {
            Engine::Fused(stream) => stream.reset(),
            #[cfg(feature = "tract")]
            Engine::Graph(plan) => plan.reset(),
        }
    }
}

#[cfg(all(test, not(feature = "tract")))]
mod tests {
    use super::*;

    #[test]
    fn a_graph_that_only_tract_runs_names_the_feature() {
        let onnx = include_bytes!("../../../models/small/base.onnx");
        assert!(Engine::new(onnx, None, 4).is_ok());
        // Another activation, of the same length.
        let mut other = onnx.to_vec();
        let relu = other.windows(4).position(|bytes| bytes == b"Relu");
        let relu = relu.expect("an activation");
        other[relu..relu + 4].copy_from_slice(b"Tanh");
        let refused = Engine::new(&other, None, 4).expect_err("a refusal");
        assert!(matches!(refused, EngineError::NeedsTract));
        assert!(refused.to_string().contains("--features tract"));
    }
}
