//! Ways to get an update wrong, each of which the simulator's sweep must catch. Without the feature `sabotage` none can be chosen.

/// A deliberate mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sabotage {
    /// A download is stored over the model in use, which saves flash.
    InPlace,
    /// `commit` reports success before the record is written.
    AcknowledgeEarly,
    /// New models are confirmed without a trial.
    NoTrial,
    /// A new base is put to use first, its deltas afterwards.
    BaseFirst,
    /// The record is kept in one sector, erased and written again.
    OneRecord,
    /// The version that must not be fallen below rises before the trial.
    FloorBeforeTrial,
    /// Signatures are not looked at.
    Unsigned,
    /// Starts of a trial are not counted.
    EndlessTrial,
    /// A download that was cut is gone on with in the middle of the sector that was being written.
    ResumeUnseen,
}

impl Sabotage {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::InPlace,
        Self::AcknowledgeEarly,
        Self::NoTrial,
        Self::BaseFirst,
        Self::OneRecord,
        Self::FloorBeforeTrial,
        Self::Unsigned,
        Self::EndlessTrial,
        Self::ResumeUnseen,
    ];
}
