//! The settings of training scenes.

use anyhow::{Result, ensure};
use serde::{Deserialize, Serialize};
use swr_core::{HOP_SAMPLES, WINDOW_SAMPLES};

/// What scenes are made of, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SceneSettings {
    /// Frames of a scene.
    pub frames: usize,
    /// The first of them that is judged.
    pub first: usize,
    /// How often a keyword is drawn: as its number of clips to this power. 1 draws by clip, 0 gives every keyword its equal share.
    pub balance: f64,
    /// Share of scenes in which keywords are said, between whatever else is.
    pub words: f32,
    /// In these, share of what is said that is a keyword.
    pub density: f32,
    /// In the others, share that is running speech.
    pub running: f32,
    /// Share that is other words, one by one.
    pub others: f32,
    /// Share that is parts of keywords. The rest has no speech.
    pub fragments: f32,
    /// Shortest and longest pause between what is said, in seconds.
    pub gap_s: [f32; 2],
    /// Frames after a word's end (negative: before it) from and until which it is due: somewhere between them its posterior must be high.
    pub due_frames: [isize; 2],
    /// Probability that a sound made in code is heard besides.
    pub sound_probability: f32,
    /// Probability of a short loud noise, unless it falls on a keyword.
    pub bang_probability: f32,
    /// Probability that the scene is the beginning of a stream, after silence.
    pub beginning: f32,
}

impl SceneSettings {
    /// Refuses values that no scene can be made with.
    pub(crate) fn check(&self) -> Result<()> {
        let longest = self.first + 150;
        ensure!(
            (longest..=1_000).contains(&self.frames),
            "scenes.frames = {}: expected {longest}, for a second's word and what follows it, to 1000",
            self.frames
        );
        for (name, share) in [
            ("words", self.words),
            ("density", self.density),
            ("running", self.running),
            ("others", self.others),
            ("fragments", self.fragments),
            (
                "running + others + fragments",
                self.running + self.others + self.fragments,
            ),
            ("sound_probability", self.sound_probability),
            ("bang_probability", self.bang_probability),
            ("beginning", self.beginning),
        ] {
            ensure!(
                (0.0..=1.0).contains(&share),
                "scenes.{name} = {share}: expected 0 to 1"
            );
        }
        ensure!(
            self.words > 0.0 && self.density > 0.0,
            "scenes.words = {}, density = {}: nothing would be learned",
            self.words,
            self.density
        );
        ensure!(
            (0.0..=1.0).contains(&self.balance),
            "scenes.balance = {}: expected 0 to 1",
            self.balance
        );
        let [from, until] = self.due_frames;
        ensure!(
            -30 <= from && from < until && until <= 100,
            "scenes.due_frames = [{from}, {until}]: expected first, last, -30 to 100"
        );
        let [low, high] = self.gap_s;
        ensure!(
            0.0 <= low && low <= high && high <= 2.0,
            "scenes.gap_s = [{low}, {high}]: expected shortest, longest, 0 to 2 s"
        );
        Ok(())
    }

    /// Samples of a scene.
    pub fn samples(&self) -> usize {
        (self.frames - 1) * HOP_SAMPLES + WINDOW_SAMPLES
    }
}
