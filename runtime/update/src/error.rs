//! Why an update was refused or a model does not run: said once, as values and as sentences. Whatever is returned here, the device stays on its last good models.

use alloc::{boxed::Box, string::String};

use swr_core::network::NetworkError;
use swr_core::package::PackageError;

/// What the update code refuses.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum UpdateError {
    /// No whole record of models: an empty flash, or another program's.
    #[error(
        "the flash holds no record of models that this program reads; provision the device with a release"
    )]
    NotProvisioned,
    /// The record was written by another version of the program.
    #[error(
        "the record of models has format {found}, this program reads {supported}; install the program that wrote it, or provision the device anew"
    )]
    UnsupportedRecord {
        /// Format in the record.
        found: u8,
        /// The one that is read.
        supported: u8,
    },
    /// The flash took an operation, but does not hold what was written, or refused it.
    #[error(
        "flash at address {address:#x}: {what}; the part is worn out or faulty, the models that are there stay in use"
    )]
    Flash {
        /// Byte address.
        address: u32,
        /// Which operation, and how it failed.
        what: &'static str,
    },
    /// No place for a download beside the models in use.
    #[error(
        "{language}: no {needed_bytes} bytes in one piece are free beside the models in use (largest gap {free_bytes}); remove a language first"
    )]
    Full {
        /// The language to be stored.
        language: String,
        /// Bytes needed.
        needed_bytes: u32,
        /// Largest gap.
        free_bytes: u32,
    },
    /// More than the record has room for.
    #[error("{found} languages; the record has room for {limit}; remove one first")]
    TooMany {
        /// Languages after the update.
        found: usize,
        /// Most of them.
        limit: usize,
    },
    /// More languages than versions are remembered of.
    #[error(
        "this device has had {limit} languages and remembers their versions; provision it anew for another one"
    )]
    TooManyEver {
        /// Most of them.
        limit: usize,
    },
    /// The entry of a release that cannot be stored.
    #[error("{language}: {what}; get the release's index again")]
    BadEntry {
        /// The entry's language.
        language: String,
        /// What does not hold.
        what: &'static str,
    },
    /// Bytes came for nothing that was asked for, or more than were asked for.
    #[error(
        "download: {found} bytes came, {expected} are still expected; begin the language's download again"
    )]
    Unexpected {
        /// Bytes still to come.
        expected: u32,
        /// Bytes that came.
        found: usize,
    },
    /// The files that came are not the release's.
    #[error(
        "{language}: what came is not what the release's index says; it is fetched again from the start"
    )]
    WrongContents {
        /// The language.
        language: String,
    },
    /// A file of a base or a language is not there.
    #[error("{language}: the release has no {file}; a device needs it")]
    Missing {
        /// The language.
        language: String,
        /// The kind of file.
        file: &'static str,
    },
    /// Files in the flash are not those that were verified when they came.
    #[error(
        "{language}: its files in the flash are damaged; download the language again, the others are not touched"
    )]
    Damaged {
        /// The language.
        language: String,
    },
    /// Older than what was confirmed before.
    #[error(
        "{language}: model version {found} is older than {confirmed}, which this device has confirmed"
    )]
    TooOld {
        /// The language.
        language: String,
        /// Version offered.
        found: u32,
        /// Highest version confirmed.
        confirmed: u32,
    },
    /// A package was refused by its reader: wrong base, damaged, unsigned, unsupported, not what it says.
    #[error("{language}: {source}")]
    Package {
        /// The language.
        language: String,
        /// Why.
        source: Box<PackageError>,
    },
    /// The merged tensors are no network that this program runs.
    #[error("{language}: {source}")]
    Network {
        /// The language.
        language: String,
        /// Why.
        source: Box<NetworkError>,
    },
    /// No such language is installed.
    #[error("no language `{language}` is installed")]
    NoLanguage {
        /// The language asked for.
        language: String,
    },
    /// A trial was begun some times and never ended: the model stops the device.
    #[error("the new models were tried {tries} times and never ran to an end")]
    TrialNeverEnded {
        /// Starts of the trial.
        tries: u8,
    },
    /// Another update was committed and has not been tried.
    #[error("an update waits for its trial; start the device again first")]
    OnTrial,
    /// Nothing was downloaded, or not all of it.
    #[error(
        "{language}: {missing_bytes} bytes of its download are missing; go on with it, or give it up"
    )]
    Incomplete {
        /// The language.
        language: String,
        /// Bytes still to come.
        missing_bytes: u32,
    },
}
