//! What this process has used of the machine: CPU time and memory. Systems other than Unix tell neither here.

use std::io;
use std::time::Duration;

/// Measures the CPU time of the whole process since it was started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CpuClock(Duration);

impl CpuClock {
    /// Starts now.
    ///
    /// # Errors
    /// If the system does not tell CPU time.
    pub(crate) fn start() -> io::Result<Self> {
        Ok(Self(cpu_time()?))
    }

    /// CPU time of all threads since then.
    ///
    /// # Errors
    /// If the system does not tell CPU time.
    pub(crate) fn elapsed(&self) -> io::Result<Duration> {
        Ok(cpu_time()? - self.0)
    }
}

#[cfg(unix)]
fn cpu_time() -> io::Result<Duration> {
    use nix::time::{ClockId, clock_gettime};
    Ok(clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)?.into())
}

#[cfg(unix)]
fn peak_rss_bytes() -> io::Result<f64> {
    use nix::sys::resource::{UsageWho, getrusage};
    // Kibibytes on Linux, bytes on macOS.
    let unit = if cfg!(target_os = "macos") {
        1.0
    } else {
        1024.0
    };
    Ok(getrusage(UsageWho::RUSAGE_SELF)?.max_rss() as f64 * unit)
}

#[cfg(not(unix))]
fn cpu_time() -> io::Result<Duration> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(unix))]
fn peak_rss_bytes() -> io::Result<f64> {
    Err(io::ErrorKind::Unsupported.into())
}

/// The largest memory that this process has had, in MiB. On Linux not by getrusage, which begins with the largest of the program that started this one.
///
/// # Errors
/// If the system does not tell it.
pub(crate) fn peak_rss_mib() -> io::Result<f64> {
    match status_mib("VmHWM:") {
        Some(mib) => Ok(mib),
        None => Ok(peak_rss_bytes()? / (1024.0 * 1024.0)),
    }
}

/// The memory that this process has allocated and uses now, in MiB: on Linux without the pages of the program's file, which come and go as the machine needs them; elsewhere the
/// largest that it has had.
///
/// # Errors
/// If the system does not tell it.
pub(crate) fn own_memory_mib() -> io::Result<f64> {
    match status_mib("RssAnon:") {
        Some(mib) => Ok(mib),
        None => peak_rss_mib(),
    }
}

/// A figure of Linux' own account of the process.
fn status_mib(name: &str) -> Option<f64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    let kib: f64 = line.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib / 1024.0)
}
