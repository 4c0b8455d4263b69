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
    /// Every copy of the record is erased before a new one is written.
    EraseFirst,
    /// So it is when the second copy is missing and is made again, which only a cut in the start after a cut shows.
    RepairErasesFirst,
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
    pub const ALL: [Self; 10] = [
        Self::InPlace,
        Self::AcknowledgeEarly,
        Self::NoTrial,
        Self::BaseFirst,
        Self::EraseFirst,
        Self::RepairErasesFirst,
        Self::FloorBeforeTrial,
        Self::Unsigned,
        Self::EndlessTrial,
        Self::ResumeUnseen,
    ];
}
