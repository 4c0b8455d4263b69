//! What a device runs to replace its models: files of a release come in over whatever link it has, are kept in flash beside the models in use,
//! verified as a whole, tried on a golden clip at the next start, and only then confirmed. Until then, and whatever fails, the models before
//! stay in use. `no_std` + `alloc`; the flash is anything with `embedded-storage`'s [`NorFlash`](embedded_storage::nor_flash::NorFlash).
//!
//! No clock is read, no thread started, no package parsed here: that is `swr_core::package`'s.
//!
//! ```text
//! stage, write …, finish     a download, resumed after a power cut where it stopped
//! commit                     every model that changes: signatures, versions, digests, merges; then one record says "on trial"
//! start                      tries them: what hears its golden clips is confirmed, anything else is dropped, and the record says why
//! load                       a language in use, verified again on its way from the flash
//! ```

#![cfg_attr(not(test), no_std)]

extern crate alloc;

mod device;
mod error;
mod extents;
pub mod record;
mod sabotage;
mod state;
mod verify;

pub use device::{Device, MAX_TRIES, Started};
pub use error::UpdateError;
pub use sabotage::Sabotage;
pub use state::MAX_LANGUAGES;
pub use verify::Model;
