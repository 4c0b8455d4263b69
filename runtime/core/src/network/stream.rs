//! A network in a stream, for who listens: log-mel frames come in step by step, logits leave, and what was heard before is remembered.

use alloc::vec::Vec;
use core::borrow::Borrow;

use super::{Network, NetworkError, State};

/// A network in a stream: frames in, logits out, and what it remembers of the frames before.
pub trait Streaming {
    /// Why a step failed.
    type Error;

    /// Frames of one step, at least 1.
    fn step_frames(&self) -> usize;

    /// Logits of one frame.
    fn classes(&self) -> usize;

    /// Runs one step or several in a row: takes log-mel frames, `[n step_frames, 40]` flattened, and appends `[n step_frames, classes]` logits.
    ///
    /// # Errors
    /// If the network fails; then its state is of no use until [`Streaming::reset`].
    fn step(&mut self, frames: &[f32], logits: &mut Vec<f32>) -> Result<(), Self::Error>;

    /// As before the first frame.
    fn reset(&mut self);
}

impl<N: Streaming + ?Sized> Streaming for &mut N {
    type Error = N::Error;

    fn step_frames(&self) -> usize {
        (**self).step_frames()
    }

    fn classes(&self) -> usize {
        (**self).classes()
    }

    fn step(&mut self, frames: &[f32], logits: &mut Vec<f32>) -> Result<(), Self::Error> {
        (**self).step(frames, logits)
    }

    fn reset(&mut self) {
        (**self).reset();
    }
}

/// The fused [`Network`] with the state of one stream. `N` is the network, or a reference to it.
#[derive(Clone, Debug)]
pub struct Stream<N> {
    network: N,
    state: State,
    step_frames: usize,
}

impl<N: Borrow<Network>> Stream<N> {
    /// A stream at its beginning, in steps of `step_frames` frames, at least 1; their number does not change the logits.
    pub fn new(network: N, step_frames: usize) -> Self {
        Self {
            state: network.borrow().state(),
            network,
            step_frames: step_frames.max(1),
        }
    }

    /// The network.
    pub fn network(&self) -> &Network {
        self.network.borrow()
    }
}

impl<N: Borrow<Network>> Streaming for Stream<N> {
    type Error = NetworkError;

    fn step_frames(&self) -> usize {
        self.step_frames
    }

    fn classes(&self) -> usize {
        self.network.borrow().classes()
    }

    fn step(&mut self, frames: &[f32], logits: &mut Vec<f32>) -> Result<(), NetworkError> {
        self.network.borrow().step(&mut self.state, frames, logits)
    }

    fn reset(&mut self) {
        self.state.reset();
    }
}
