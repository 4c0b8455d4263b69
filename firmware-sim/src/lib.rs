//! Simulated devices. Models go in as a release would send them; out come the answers to two questions: does any power cut, any bad byte break a
//! device, and what do storing, updating and running cost on it.
//!
//! The code under test is `swr_update` and `swr_core`, as devices run them; here are only the flash, the faults, the publisher and the bookkeeping.

#[cfg(feature = "card")]
pub mod card;
#[cfg(feature = "card")]
pub mod cli;
pub mod cuts;
pub mod device;
#[cfg(feature = "card")]
pub mod disk;
pub mod flash;
#[cfg(feature = "card")]
pub mod fleet;
pub mod listen;
pub mod page;
pub mod publisher;
pub mod random;
#[cfg(feature = "card")]
pub mod report;
pub mod scenario;
pub mod sweep;
