//! CPU time of this process.

use std::io;
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};

/// Measures the CPU time of the whole process since it was started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CpuClock(Duration);

impl CpuClock {
    /// Starts now.
    ///
    /// # Errors
    /// If the system does not tell CPU time.
    pub(crate) fn start() -> io::Result<Self> {
        Ok(Self(
            clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into(),
        ))
    }

    /// CPU time of all threads since then.
    ///
    /// # Errors
    /// If the system does not tell CPU time.
    pub(crate) fn elapsed(&self) -> io::Result<Duration> {
        Ok(Self::start()?.0 - self.0)
    }
}
