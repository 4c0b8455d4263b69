//! Training scenes: some seconds of a stream as a device hears it, with words among other speech, in a room, under noise, at some level; and what the
//! network should make of every frame.
//!
//! A scene is drawn from a seed alone. Nothing here is active in evaluation.

mod settings;

use std::ops::Range;
use std::sync::Arc;

use rand::RngExt;
use rand_chacha::ChaCha8Rng;
use swr_core::{HOP_SAMPLES, SAMPLE_RATE_HZ};
use swr_dataset::Sound;

use crate::architecture::CONTEXT_FRAMES;
use crate::augment::{
    Augment, Loudness, add_noise, add_room, between, decibel, mean_power, play, played, symmetric,
};
use crate::loss::{Heard, Target, Word};
pub use settings::SceneSettings;

/// Of a word that is cut, a listener knows no more than others if at most this share is heard.
const FRAGMENT_SHARE: f32 = 0.5;
/// Of a word that is cut, so much must be heard for it to be one.
const WHOLE_SHARE: f32 = 0.9;
/// Shortest and longest stretch of its clip that stays around a word, in seconds.
const MARGIN_S: [f32; 2] = [0.0, 0.2];
/// A word's posterior may still be high so many frames after it has left the averaging window.
const FADING_FRAMES: usize = 5;
/// Other speech is so much louder or softer than the word, in decibel.
const OTHERS_DB: [f32; 2] = [-10.0, 6.0];
/// How much weaker a room's sound is than what comes straight, in decibel.
const DIRECT_DB: [f32; 2] = [0.0, 15.0];
/// Ratio of speech to a sound made in code, in decibel.
const SOUND_DB: [f32; 2] = [0.0, 30.0];
/// Length of a bang, in seconds.
const BANG_S: [f32; 2] = [0.02, 0.25];
/// Amplitude of a bang, in decibel of full scale.
const BANG_DB: [f32; 2] = [-15.0, 0.0];
/// Power of speech in a scene that takes no level from a recording: an RMS of -26 dBFS.
const SPEECH_POWER: f32 = 0.0025;

/// A clip to make scenes of.
#[derive(Clone)]
pub struct Spoken {
    /// 16 kHz, 16 bit; copies of a clip share them.
    pub samples: Arc<[i16]>,
    /// The part that holds speech.
    pub span: Range<usize>,
    /// Its mean power.
    pub power: f32,
}

/// Recordings that scenes are made of.
pub struct Material<'a> {
    /// All training clips.
    pub clips: &'a [Spoken],
    /// Label of every clip.
    pub labels: &'a [u32],
    /// Number of keywords; their labels come first.
    pub keywords: usize,
    /// The clips of every keyword, and how often it is to be drawn: the sum of the shares up to it, which ends at 1.
    pub words: Vec<(Vec<usize>, f64)>,
    /// The clips of other words.
    pub others: Vec<usize>,
    /// Running speech without keywords, each recording with the mean power of its speech.
    pub running: &'a [(Vec<i16>, f32)],
    /// Background recordings, their training parts.
    pub background: Vec<&'a [f32]>,
}

/// A scene under construction.
struct Scene<'a> {
    settings: &'a SceneSettings,
    material: &'a Material<'a>,
    /// Largest change of speed.
    speed: f32,
    samples: Vec<f32>,
    window_frames: usize,
    words: Vec<Word>,
    /// Where speech sounds, in samples.
    speech: Vec<Range<usize>>,
    /// Mean power of the speech.
    power: f32,
}

/// A scene: `[samples]`, and what is asked of a network whose logits are averaged over `window_frames`.
pub fn scene(
    settings: &SceneSettings,
    augment: &Augment,
    material: &Material,
    window_frames: usize,
    rng: &mut ChaCha8Rng,
) -> (Vec<f32>, Target) {
    let mut scene = Scene {
        settings,
        material,
        speed: augment.speed,
        samples: vec![0.0; settings.samples()],
        window_frames,
        words: Vec::new(),
        speech: Vec::new(),
        power: SPEECH_POWER,
    };
    match rng.random::<f32>() < settings.words {
        true => scene.fill_with_words(rng),
        false => scene.fill_without(rng),
    }
    let speaks = !scene.speech.is_empty();
    if speaks && rng.random::<f32>() < augment.room_probability {
        let seconds = between(augment.room_s, rng);
        add_room(&mut scene.samples, seconds, between(DIRECT_DB, rng), rng);
    }
    if rng.random::<f32>() < settings.beginning {
        scene.begin();
    }
    scene.add_noise(augment, speaks, rng);
    if rng.random::<f32>() < settings.sound_probability {
        scene.add_sound(rng);
    }
    let gain = decibel(between(augment.gain_db, rng));
    for sample in &mut scene.samples {
        *sample = (gain * *sample).clamp(-1.0, 1.0);
    }
    // Nothing is drawn for bangs that cannot be: a setting of 0 changes no other draw of a seed.
    if settings.bang_probability > 0.0 && rng.random::<f32>() < settings.bang_probability {
        scene.add_bang(rng);
    }
    scene.finish()
}

/// Seconds as samples.
fn samples(seconds: f32) -> usize {
    (seconds * SAMPLE_RATE_HZ as f32) as usize
}

impl Scene<'_> {
    /// Keywords, with other words and running speech between them.
    fn fill_with_words(&mut self, rng: &mut ChaCha8Rng) {
        // The first keyword tells how loud this scene is.
        let mut next = Some(self.a_word(rng));
        self.power = next.map_or(SPEECH_POWER, |clip| {
            self.material.clips[clip].power.max(1e-7)
        });
        let end = self.samples.len() as i64;
        let mut at = -(rng.random_range(0..samples(0.5)) as i64);
        while at < end {
            let kind = rng.random::<f32>();
            at = if kind < self.settings.density {
                let clip = next.take().unwrap_or_else(|| self.a_word(rng));
                self.say_at(clip, at, rng)
            } else if kind < 0.5 * (1.0 + self.settings.density)
                && !self.material.running.is_empty()
            {
                let until = at + samples(rng.random_range(0.2..1.5)) as i64;
                self.run(at.max(0), until.min(end), rng);
                until
            } else if !self.material.others.is_empty() {
                let clip = pick(&self.material.others, rng);
                self.say_at(clip, at, rng)
            } else {
                at + samples(0.5) as i64
            };
            at += self.gap(rng);
        }
    }

    /// A clip of a keyword, drawn by keyword.
    fn a_word(&self, rng: &mut ChaCha8Rng) -> usize {
        let place = rng.random::<f64>();
        let words = &self.material.words;
        let word = words.partition_point(|(_, until)| *until <= place);
        pick(&words[word.min(words.len() - 1)].0, rng)
    }

    fn fill_without(&mut self, rng: &mut ChaCha8Rng) {
        let SceneSettings {
            running,
            others,
            fragments,
            ..
        } = *self.settings;
        let kind = rng.random::<f32>();
        if kind < running && !self.material.running.is_empty() {
            self.run(0, self.samples.len() as i64, rng);
        } else if kind < running + others && !self.material.others.is_empty() {
            let mut at = -(rng.random_range(0..samples(1.0)) as i64);
            while at < self.samples.len() as i64 {
                let clip = pick(&self.material.others, rng);
                at = self.say_at(clip, at, rng) + self.gap(rng);
            }
        } else if kind < running + others + fragments {
            let mut at = rng.random_range(0..samples(1.0)) as i64;
            while at < self.samples.len() as i64 {
                at = self.say_part(at, rng) + self.gap(rng) + samples(0.2) as i64;
            }
        }
    }

    fn gap(&self, rng: &mut ChaCha8Rng) -> i64 {
        samples(between(self.settings.gap_s, rng)) as i64
    }

    /// A factor that brings speech of this power near to that of the scene.
    fn gain_of(&self, power: f32, rng: &mut ChaCha8Rng) -> f32 {
        (self.power / power.max(1e-7)).sqrt() * decibel(between(OTHERS_DB, rng))
    }

    /// Says a clip with some of what is around its word, from `at` on; gives where it ends.
    fn say_at(&mut self, clip: usize, at: i64, rng: &mut ChaCha8Rng) -> i64 {
        let spoken = &self.material.clips[clip];
        let part = margins(spoken, rng);
        let speed = 1.0 + symmetric(self.speed, rng);
        let gain = self.gain_of(spoken.power, rng);
        let end = at + played(part.len(), speed) as i64;
        self.say(clip, part, at, gain, speed);
        end
    }

    /// Says less than half of a keyword, its beginning or its end.
    fn say_part(&mut self, at: i64, rng: &mut ChaCha8Rng) -> i64 {
        let clip = self.a_word(rng);
        let spoken = &self.material.clips[clip];
        let length = (spoken.span.len() as f32 * rng.random_range(0.25..FRAGMENT_SHARE)) as usize;
        let part = match rng.random() {
            true => spoken.span.start..spoken.span.start + length,
            false => spoken.span.end - length..spoken.span.end,
        };
        let speed = 1.0 + symmetric(self.speed, rng);
        let gain = self.gain_of(spoken.power, rng);
        let end = at + played(part.len(), speed) as i64;
        self.say(clip, part, at, gain, speed);
        end
    }

    /// Plays a part of a clip, and notes what is heard of its word.
    fn say(&mut self, clip: usize, part: Range<usize>, at: i64, gain: f32, speed: f32) {
        let spoken = &self.material.clips[clip];
        play(
            &mut self.samples,
            &spoken.samples[part.clone()],
            at,
            gain,
            speed,
        );
        let place = |sample: usize| {
            let from_start = sample.clamp(part.start, part.end) - part.start;
            (at + played(from_start, speed) as i64).clamp(0, self.samples.len() as i64) as usize
        };
        let heard = place(spoken.span.start)..place(spoken.span.end);
        if heard.is_empty() {
            return;
        }
        self.speech.push(heard.clone());
        let label = self.material.labels[clip] as usize;
        let share = heard.len() as f32 / played(spoken.span.len(), speed).max(1) as f32;
        if label >= self.material.keywords || share <= FRAGMENT_SHARE {
            return;
        }
        let (start, end) = (heard.start / HOP_SAMPLES, heard.end / HOP_SAMPLES);
        let [from, until] = self.settings.due_frames;
        let due = match share >= WHOLE_SHARE {
            true => end.saturating_add_signed(from).max(start)..end.saturating_add_signed(until),
            false => end..end,
        };
        self.words.push(Word {
            label,
            allowed: start
                ..end
                    .saturating_add_signed(until)
                    .max(end + self.window_frames + FADING_FRAMES),
            due,
        });
    }

    /// Plays running speech from `start` to `end`, a random part of a random recording.
    fn run(&mut self, start: i64, end: i64, rng: &mut ChaCha8Rng) {
        if end <= start {
            return;
        }
        let (recording, power) =
            &self.material.running[rng.random_range(0..self.material.running.len())];
        let speed = 1.0 + symmetric(self.speed, rng);
        let wanted = ((end - start) as f32 * speed) as usize;
        let length = wanted.min(recording.len());
        let from = rng.random_range(0..=recording.len() - length);
        let gain = self.gain_of(*power, rng);
        // What is shorter than the time stands at its end: the pause before a word is as wanted.
        let at = end - played(length, speed) as i64;
        play(
            &mut self.samples,
            &recording[from..from + length],
            at,
            gain,
            speed,
        );
        let range = at.max(0) as usize..(end.max(0) as usize).min(self.samples.len());
        if !range.is_empty() {
            self.speech.push(range);
        }
    }

    /// Makes the scene the beginning of a stream: what comes before the first word is silence.
    fn begin(&mut self) {
        let words = self
            .words
            .iter()
            .map(|word| word.allowed.start * HOP_SAMPLES);
        let silent = words.fold(CONTEXT_FRAMES * HOP_SAMPLES, usize::min);
        self.samples[..silent].fill(0.0);
        for range in &mut self.speech {
            range.start = range.start.max(silent).min(range.end);
        }
    }

    fn add_noise(&mut self, augment: &Augment, speaks: bool, rng: &mut ChaCha8Rng) {
        let recordings = &self.material.background;
        let recording = recordings[rng.random_range(0..recordings.len())];
        let loudness = if !speaks {
            Loudness::Amplitude(rng.random::<f32>())
        } else if rng.random::<f32>() >= augment.noise_probability {
            return;
        } else if rng.random() {
            Loudness::Amplitude(rng.random::<f32>() * augment.noise_amplitude)
        } else {
            Loudness::Power(self.power / decibel(between(augment.noise_snr_db, rng)).powi(2))
        };
        add_noise(&mut self.samples, recording, loudness, rng);
    }

    /// A sound made in code that begins somewhere in the scene or before it.
    fn add_sound(&mut self, rng: &mut ChaCha8Rng) {
        let length = self.samples.len();
        let from = rng.random_range(0..length);
        let from = if rng.random() { from } else { 0 };
        let sound = Sound::random(rng).render(length - from);
        let power = self.power / decibel(between(SOUND_DB, rng)).powi(2);
        let amplitude = (power / mean_power(&sound).max(1e-6)).sqrt();
        for (sample, sound) in self.samples[from..].iter_mut().zip(sound) {
            *sample += amplitude * sound;
        }
    }

    /// A short loud noise where no keyword sounds, as loud however soft the speech is: a slow gain takes seconds to forget it.
    fn add_bang(&mut self, rng: &mut ChaCha8Rng) {
        let length = samples(between(BANG_S, rng));
        let start = rng.random_range(0..self.samples.len() - length);
        let amplitude = decibel(between(BANG_DB, rng));
        let frames = start / HOP_SAMPLES..(start + length).div_ceil(HOP_SAMPLES) + 1;
        let hits = |word: &Word| word.allowed.start < frames.end && frames.start < word.allowed.end;
        if self.words.iter().any(hits) {
            return;
        }
        for sample in &mut self.samples[start..start + length] {
            let noise = amplitude * rng.random_range(-1.0f32..1.0);
            *sample = (*sample + noise).clamp(-1.0, 1.0);
        }
    }

    fn finish(self) -> (Vec<f32>, Target) {
        let frames = self.settings.frames;
        let mut speaking = vec![0usize; frames + 1];
        for range in &self.speech {
            let end = (range.end / HOP_SAMPLES).min(frames);
            speaking[(range.start / HOP_SAMPLES).min(end)..end].fill(1);
        }
        let heard = (0..frames)
            .map(|t| {
                let from = (t + 1).saturating_sub(self.window_frames);
                let share = speaking[from..=t].iter().sum::<usize>() as f32 / (t + 1 - from) as f32;
                if share > 0.5 {
                    Heard::Speech
                } else if share == 0.0 {
                    Heard::Rest
                } else {
                    Heard::Either
                }
            })
            .collect();
        let mut words = self.words;
        words.sort_by_key(|word| word.allowed.start);
        let target = Target {
            first: self.settings.first,
            words,
            heard,
        };
        (self.samples, target)
    }
}

/// A part of a clip with its word and some of what is around it.
fn margins(spoken: &Spoken, rng: &mut ChaCha8Rng) -> Range<usize> {
    let span = &spoken.span;
    let before = samples(between(MARGIN_S, rng)).min(span.start);
    let after = samples(between(MARGIN_S, rng)).min(spoken.samples.len() - span.end);
    span.start - before..span.end + after
}

fn pick(clips: &[usize], rng: &mut ChaCha8Rng) -> usize {
    clips[rng.random_range(0..clips.len())]
}

#[cfg(test)]
mod tests;
