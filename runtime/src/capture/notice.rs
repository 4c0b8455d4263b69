//! What a source has to tell besides its samples.

use std::fmt;

/// Something the listener should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// Samples were not fetched in time and are lost.
    Lost {
        /// How much audio.
        milliseconds: u64,
    },
    /// The device is gone, or delivers nothing any more. It is waited for.
    Gone {
        /// Its name.
        device: String,
        /// What the sound system says.
        reason: String,
    },
    /// The device is there again. A second of silence stands for what was missed.
    Back {
        /// Its name.
        device: String,
    },
    /// Nothing but silence, as a muted device delivers it.
    Silent {
        /// For how long.
        seconds: u64,
    },
    /// The first sound after that.
    Sound,
    /// What a file or stream says wrongly and was not believed, or lacks, or whose channels are of very different loudness.
    Recording {
        /// Its name.
        name: String,
        /// What is wrong.
        problem: String,
    },
}

impl fmt::Display for Notice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Notice::Lost { milliseconds } => write!(
                formatter,
                "{milliseconds} ms of audio lost, this machine is too busy"
            ),
            Notice::Gone { device, reason } => {
                write!(
                    formatter,
                    "{device} is gone ({reason}); waiting for it to come back"
                )
            }
            Notice::Back { device } => write!(formatter, "{device} is back"),
            Notice::Silent { seconds } => write!(
                formatter,
                "nothing but silence for {seconds} s: the microphone may be muted or the wrong one; see `swr devices`"
            ),
            Notice::Sound => formatter.write_str("there is sound again"),
            Notice::Recording { name, problem } => write!(formatter, "{name}: {problem}"),
        }
    }
}
