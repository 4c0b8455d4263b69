//! `swr-train synth`: synthetic speech made with espeak-ng.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

use super::Settings;
use crate::progress::Progress;
use crate::synth::{self, SynthOptions};

#[derive(Subcommand)]
pub(super) enum Synth {
    /// Training clips in the MSWC layout and sentences without keywords, below OUT/synth/<language>
    Clips(SynthArguments),
    /// The demo's audio: OUT/<language>.flac and .json
    Demo(SynthArguments),
    /// Speech without words, which `adapt` takes for other words where there are none: OUT/babble.opus
    Babble(SynthArguments),
}

#[derive(Args)]
pub(super) struct SynthArguments {
    /// Languages; all of the configuration if absent
    #[arg(long = "lang", value_name = "L,…", value_delimiter = ',')]
    languages: Vec<String>,
    /// Where the result goes
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    #[command(flatten)]
    settings: Settings,
    /// Replace clips that are there already
    #[arg(long)]
    replace: bool,
}

impl Synth {
    pub(super) fn run(&self, progress: &Progress) -> Result<()> {
        match self {
            Self::Clips(a) => synth::run(&a.options(), progress),
            Self::Demo(a) => synth::demo(&a.options(), progress),
            Self::Babble(a) => synth::babble(&a.options(), progress),
        }
    }
}

impl SynthArguments {
    fn options(&self) -> SynthOptions {
        SynthOptions {
            config: self.settings.config.clone(),
            changes: self.settings.set.clone(),
            languages: self.languages.clone(),
            out: self.out.clone(),
            replace: self.replace,
        }
    }
}
