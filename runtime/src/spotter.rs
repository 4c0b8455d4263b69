//! Core's listening loop on this crate's engine.

use crate::engine::Engine;
pub use swr_core::spotter::Event;

/// One language, ready to listen; made by [`Models::listener`](crate::Models::listener).
pub type Listener = swr_core::spotter::Listener<Engine>;

/// Spots the keywords of one language, or of several at once, in a stream of 16 kHz mono samples.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use swr_runtime::{DEFAULT_STEP_FRAMES, Models};
///
/// let models = Models::open("models/small")?;
/// let mut spotter = models.spotter(&["ar", "zh"], DEFAULT_STEP_FRAMES)?;
/// let mut events = Vec::new();
/// spotter.push(&[0.0; 16_000], &mut events)?;
/// spotter.finish(&mut events)?;
/// assert!(events.is_empty());
/// # Ok(())
/// # }
/// ```
pub type Spotter = swr_core::spotter::Spotter<Engine>;
