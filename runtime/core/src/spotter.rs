//! Listening: samples in chunks of any size come in, an event for every spoken keyword leaves, for one language or several on one front end.
//!
//! The only listening loop there is: silence before the stream, whole steps of the network, logits that nobody sees, the second of silence
//! that ends it. What computes logits is anything that is [`Streaming`]; settings come from the [`Language`]. No file and no clock is read.

mod arbiter;

use alloc::{string::String, vec, vec::Vec};

use crate::detector::{Detection, Detector, DetectorError, DetectorSettings, Posteriors, Trigger};
use crate::frontend::{Frontend, FrontendError};
use crate::model::Language;
use crate::network::Streaming;
use arbiter::{Arbiter, Claim};

use crate::settings::{FrontendSettings, HOP_SAMPLES, MEL_BINS, SAMPLE_RATE_HZ};

/// Samples of silence that end a stream: time for the last word to pass through averaging and confirmation.
const TAIL_SAMPLES: usize = SAMPLE_RATE_HZ as usize;
/// Samples of a recording that are heard together: a second.
const PIECE_SAMPLES: usize = SAMPLE_RATE_HZ as usize;
/// Frames beyond context and averaging window that a listener which joins late hears again: what its first logits depend on in a BC-ResNet, whose
/// convolutions see 117 frames together.
const SETTLING_FRAMES: usize = 120;
/// Seconds between a peak and that of the keyword that it was, and after which it is none.
const SAME_WORD_S: f64 = 1.0;

/// Why audio could not be spotted in; `E` is the network's error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SpotError<E: core::error::Error> {
    /// A sample or setting that the front end refuses.
    #[error(transparent)]
    Frontend(#[from] FrontendError),
    /// The network failed.
    #[error("{0}")]
    Network(E),
    /// Languages that are to be heard together, or one after another, through different front ends.
    #[error(
        "`{language}` has another front end than the languages heard with it; take languages of one base"
    )]
    OtherFrontend {
        /// BCP-47 code of the first that differs.
        language: String,
    },
    /// Settings that the detector refuses, or fewer logits than a clip has.
    #[error(transparent)]
    Detector(#[from] DetectorError),
}

/// A network on the frames of a stream: whole steps are run, the rest waits, and the logits of the context in front are dropped.
#[derive(Debug)]
struct Steps<N> {
    network: N,
    /// Frames that do not fill a step yet, `[n, 40]`.
    frames: Vec<f32>,
    /// Logits of the steps just run, `[n, classes]`.
    logits: Vec<f32>,
    /// Frames of context in front of the first that counts.
    context_frames: usize,
    /// Of these, the ones whose logits are still to come, and to be dropped.
    context_left: usize,
}

impl<N: Streaming> Steps<N> {
    fn new(network: N, context_frames: usize) -> Self {
        Self {
            network,
            frames: Vec::new(),
            logits: Vec::new(),
            context_frames,
            context_left: context_frames,
        }
    }

    /// Begins anew with a context.
    fn begin(&mut self) {
        self.network.reset();
        self.frames.clear();
        self.context_left = self.context_frames;
    }

    /// Hears frames; the logits that they complete and that count.
    fn push(&mut self, frames: &[f32]) -> Result<&[f32], N::Error> {
        self.frames.extend_from_slice(frames);
        let step_values = self.network.step_frames() * MEL_BINS;
        let whole = self.frames.len() - self.frames.len() % step_values;
        self.logits.clear();
        self.network.step(&self.frames[..whole], &mut self.logits)?;
        self.frames.drain(..whole);
        let classes = self.network.classes();
        let dropped = self.context_left.min(self.logits.len() / classes);
        self.context_left -= dropped;
        Ok(&self.logits[dropped * classes..])
    }
}

/// Lets `network` hear a whole recording (16 kHz, mono, full scale ±1) through `frontend`, from its reset, as a stream of its own: after `context_frames` of
/// silence, and a second of silence at its end. `see` is given the logits that count, `[n, classes]` at a time; the first frame is the recording's.
///
/// # Errors
/// [`SpotError::Frontend`] for a sample that is not finite, [`SpotError::Network`] when the network fails.
pub fn hear_recording<N: Streaming<Error: core::error::Error>>(
    network: &mut N,
    (frontend, context_frames): (&mut Frontend, usize),
    samples: &[f32],
    mut see: impl FnMut(&[f32]),
) -> Result<(), SpotError<N::Error>> {
    frontend.reset();
    let mut steps = Steps::new(network, context_frames);
    steps.begin();
    let context = vec![0.0; context_frames * HOP_SAMPLES];
    let tail = vec![0.0; TAIL_SAMPLES];
    let mut frames = Vec::new();
    let pieces = samples.chunks(PIECE_SAMPLES);
    for piece in [&context[..]].into_iter().chain(pieces).chain([&tail[..]]) {
        frames.clear();
        frontend.push(piece, &mut frames)?;
        see(steps.push(&frames).map_err(SpotError::Network)?);
    }
    Ok(())
}

/// What each of several `triggers`, which share `posteriors`, finds in a whole recording, as [`hear_recording`] lets `network` hear it.
///
/// # Errors
/// As [`hear_recording`].
pub fn detect_in_recording<N: Streaming<Error: core::error::Error>>(
    network: &mut N,
    heard_by: (&mut Frontend, usize),
    samples: &[f32],
    posteriors: &mut Posteriors,
    triggers: &mut [Trigger],
) -> Result<Vec<Vec<Detection>>, SpotError<N::Error>> {
    posteriors.reset();
    triggers.iter_mut().for_each(Trigger::reset);
    let mut found = vec![Vec::new(); triggers.len()];
    let classes = posteriors.of_frame().len();
    hear_recording(network, heard_by, samples, |logits| {
        for frame in logits.chunks_exact(classes) {
            let averaged = posteriors.push(frame);
            for (found, trigger) in found.iter_mut().zip(&mut *triggers) {
                found.extend(trigger.push(averaged));
            }
        }
    })?;
    for (found, trigger) in found.iter_mut().zip(triggers) {
        found.extend(trigger.finish());
    }
    Ok(found)
}

/// A keyword that was spoken.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Event {
    /// Seconds since the start of the audio at which the keyword's posterior was highest, which is at or soon after the word's end.
    pub time_s: f64,
    /// BCP-47 code.
    pub language: String,
    /// The keyword, as in the labels.
    pub keyword: String,
    /// Its smoothed posterior at the peak, 0 to 1.
    pub score: f32,
}

/// One language, ready to listen: its network and its detector. Built where it takes time, such as on another thread, and given to a [`Spotter`].
#[derive(Debug)]
pub struct Listener<N> {
    code: String,
    labels: Vec<String>,
    frontend: FrontendSettings,
    steps: Steps<N>,
    detector: Detector,
    /// Frame of the audio that is the detector's frame 0.
    origin: i64,
    /// Peaks before this frame of the audio are no events: they were heard again.
    since: i64,
    near: Option<NearMisses>,
    /// Whether a label's events are reported.
    reported: Vec<bool>,
}

/// A detector with lower thresholds, and what it found that the other may still find.
#[derive(Debug)]
struct NearMisses {
    detector: Detector,
    suspected: Vec<Event>,
    /// Keywords that were found.
    found: Vec<Event>,
}

/// Spots the keywords of one language, or of several at once, in a stream of 16 kHz mono samples.
#[derive(Debug)]
pub struct Spotter<N> {
    frontend: Frontend,
    /// That of the first listeners.
    settings: Option<FrontendSettings>,
    listeners: Vec<Listener<N>>,
    /// The last frames, `[n, 40]`, for those that join later; what the last push made of its samples is at the end.
    recent: Vec<f32>,
    /// Decides between languages; of one alone, there is nothing to decide.
    arbiter: Arbiter,
    /// Frames heard since the start of the audio; those of the context before it count as negative.
    heard: i64,
}

impl<N: Streaming<Error: core::error::Error>> Listener<N> {
    /// A listener for `language`, whose logits `network` computes.
    ///
    /// # Errors
    /// [`DetectorError`] when labels, thresholds or settings do not fit together.
    pub fn new(language: &Language, network: N) -> Result<Self, DetectorError> {
        Ok(Listener {
            detector: Detector::new(&language.labels, language.detector.clone())?,
            code: language.code.clone(),
            labels: language.labels.clone(),
            frontend: language.frontend,
            steps: Steps::new(network, language.context_frames),
            origin: 0,
            since: 0,
            near: None,
            reported: vec![true; language.labels.len()],
        })
    }

    /// From now on reports the keywords alone that are marked, one mark per label. The others still compete with them.
    ///
    /// # Panics
    /// If there are not as many marks as labels.
    pub fn report_only(&mut self, marked: Vec<bool>) {
        assert_eq!(marked.len(), self.labels.len(), "a mark for every label");
        self.reported = marked;
    }

    /// From now on looks for near misses as well: keywords whose posterior comes within `margin` of their threshold and does not reach it.
    ///
    /// # Errors
    /// [`DetectorError`] for a margin that is no number from 0 to 1.
    pub fn look_for_near_misses(&mut self, margin: f32) -> Result<(), DetectorError> {
        let mut settings = self.settings().clone();
        for threshold in &mut settings.thresholds {
            *threshold = (*threshold - margin).max(0.0);
        }
        self.near = Some(NearMisses {
            detector: Detector::new(&self.labels, settings)?,
            suspected: Vec::new(),
            found: Vec::new(),
        });
        Ok(())
    }

    /// How posteriors become events, the threshold of every label among it.
    pub fn settings(&self) -> &DetectorSettings {
        self.detector.settings()
    }

    /// The language's BCP-47 code.
    pub fn language(&self) -> &str {
        &self.code
    }

    /// Labels in the order of the logits; the last two are `_unknown_` and `_silence_`.
    pub fn labels(&self) -> &[String] {
        &self.labels
    }

    /// Smoothed posteriors of the last frame, in the order of the labels; zeros before the first.
    pub fn posteriors(&self) -> &[f32] {
        self.detector.posteriors()
    }

    /// Frames that it hears again when it joins a stream that is under way.
    fn memory_frames(&self) -> usize {
        self.steps.context_frames + self.settings().window_frames + SETTLING_FRAMES
    }

    /// Begins anew with the frame `first` of the audio, whose context comes before it. Peaks before the frame `since` are no events.
    fn begin(&mut self, first: i64, since: i64) {
        self.steps.begin();
        self.detector.reset();
        if let Some(near) = &mut self.near {
            near.detector.reset();
            near.suspected.clear();
            near.found.clear();
        }
        self.origin = first;
        self.since = since;
    }

    /// Hears frames; the keywords that they complete.
    fn hear(&mut self, frames: &[f32]) -> Result<Vec<Claim>, N::Error> {
        let logits = self.steps.push(frames)?;
        let detections = self.detector.push(logits);
        let nearly = self.near.as_mut().map(|near| near.detector.push(logits));
        let claims: Vec<Claim> = detections.iter().filter_map(|d| self.claim(d)).collect();
        let nearly: Vec<Claim> = nearly
            .iter()
            .flatten()
            .filter_map(|detection| self.claim(detection))
            .collect();
        if let Some(near) = &mut self.near {
            let reported = |claim: &Claim| claim.reported.then(|| claim.event.clone());
            near.found.extend(claims.iter().filter_map(reported));
            near.suspected.extend(nearly.iter().filter_map(reported));
        }
        Ok(claims)
    }

    /// The first frame of the audio that it has not heard.
    fn heard(&self) -> i64 {
        self.origin + self.detector.frames() as i64
    }

    /// Near misses that are certain at the time `now_s`.
    fn take_near_misses(&mut self, now_s: f64) -> Vec<Event> {
        let Some(near) = &mut self.near else {
            return Vec::new();
        };
        let old = |event: &Event| event.time_s + SAME_WORD_S < now_s;
        let (certain, open) = near.suspected.drain(..).partition(old);
        near.suspected = open;
        let found = &near.found;
        let missed = |event: &Event| {
            let close = |other: &&Event| (other.time_s - event.time_s).abs() < SAME_WORD_S;
            !found.iter().any(|other| close(&other))
        };
        let certain: Vec<Event> = certain;
        let missed = certain.into_iter().filter(missed).collect();
        near.found
            .retain(|event| event.time_s + 3.0 * SAME_WORD_S > now_s);
        missed
    }

    /// The stream has ended.
    fn finish(&mut self) -> Option<Claim> {
        let detection = self.detector.finish()?;
        self.claim(&detection)
    }

    fn claim(&self, detection: &Detection) -> Option<Claim> {
        let peak = self.origin + detection.frame as i64;
        if peak < self.since {
            return None;
        }
        let threshold = self.settings().thresholds[detection.label];
        Some(Claim {
            event: Event {
                time_s: seconds(peak),
                language: self.code.clone(),
                keyword: self.labels[detection.label].clone(),
                score: detection.score,
            },
            reported: self.reported[detection.label],
            peak,
            given: self.origin + detection.given as i64,
            sureness: log_odds(detection.score) - log_odds(threshold),
        })
    }
}

impl<N: Streaming<Error: core::error::Error>> Spotter<N> {
    /// Lets `listeners` listen, through the front end that they share.
    ///
    /// # Errors
    /// [`SpotError::Frontend`] for settings that the front end does not reproduce, [`SpotError::OtherFrontend`] if the listeners' differ.
    pub fn new(listeners: Vec<Listener<N>>) -> Result<Self, SpotError<N::Error>> {
        let settings = shared_frontend(&listeners, None)?;
        let mut spotter = Spotter {
            frontend: Frontend::new(&settings.unwrap_or_default())?,
            settings,
            listeners,
            recent: Vec::new(),
            arbiter: Arbiter::default(),
            heard: 0,
        };
        spotter.reset();
        Ok(spotter)
    }

    /// Those who listen, in the order given.
    pub fn listeners(&self) -> &[Listener<N>] {
        &self.listeners
    }

    /// Log-mel of the last frames, `[n, 40]`: at least those of a second once that was heard.
    pub fn recent_frames(&self) -> &[f32] {
        &self.recent
    }

    /// Seconds of audio heard.
    pub fn heard_s(&self) -> f64 {
        seconds(self.heard)
    }

    /// Near misses since the last call, of listeners that look for them: keywords that came close to their thresholds a second ago or earlier, and were not
    /// found.
    pub fn take_near_misses(&mut self) -> Vec<Event> {
        let now_s = self.heard_s();
        let listeners = self.listeners.iter_mut();
        listeners
            .flat_map(|listener| listener.take_near_misses(now_s))
            .collect()
    }

    /// Takes the next `samples` (16 kHz, mono, full scale ±1; any number of them) and appends the keywords they complete to `events`.
    /// The events do not depend on how the stream is cut into calls.
    ///
    /// # Errors
    /// [`SpotError::Frontend`] for a sample that is not finite: none of `samples` was taken. [`SpotError::Network`] when a network fails.
    pub fn push(
        &mut self,
        samples: &[f32],
        events: &mut Vec<Event>,
    ) -> Result<(), SpotError<N::Error>> {
        let before = self.recent.len();
        self.frontend.push(samples, &mut self.recent)?;
        self.heard += ((self.recent.len() - before) / MEL_BINS) as i64;
        let alone = self.listeners.len() == 1;
        for listener in &mut self.listeners {
            let claims = listener.hear(&self.recent[before..]);
            let claims = claims.map_err(SpotError::Network)?;
            match alone {
                true => events.extend(reported(claims)),
                false => self.arbiter.add(claims),
            }
        }
        let heard = self.listeners.iter().map(Listener::heard).min();
        self.arbiter.decide(heard.unwrap_or(0), events);
        let memory = self.memory_frames() * MEL_BINS;
        // Seldom, so that what is kept is seldom moved.
        if self.recent.len() >= 2 * memory {
            self.recent.drain(..self.recent.len() - memory);
        }
        Ok(())
    }

    /// Lets other listeners go on in the place of those there are, from the present sample. They hear the last seconds again first, so that a word that is
    /// being spoken is not missed; what those before have heard of it they do not know. Takes less than a millisecond.
    ///
    /// # Errors
    /// [`SpotError::OtherFrontend`] for listeners with another front end than those before; these then go on. [`SpotError::Network`] when a network fails.
    pub fn change(&mut self, listeners: Vec<Listener<N>>) -> Result<(), SpotError<N::Error>> {
        let settings = shared_frontend(&listeners, self.settings)?;
        if self.settings != settings {
            self.frontend = Frontend::new(&settings.unwrap_or_default())?;
            self.settings = settings;
            // Frames that nobody heard, of no listener's front end.
            self.recent.clear();
        }
        self.listeners = listeners;
        for listener in &mut self.listeners {
            let frames = (self.recent.len() / MEL_BINS).min(listener.memory_frames());
            let first = self.heard - frames as i64 + listener.steps.context_frames as i64;
            listener.begin(first, self.heard);
            let again = &self.recent[self.recent.len() - frames * MEL_BINS..];
            listener.hear(again).map_err(SpotError::Network)?;
        }
        Ok(())
    }

    /// What comes is from another microphone: how loud the one before was, the front end forgets.
    pub fn reset_gain(&mut self) {
        self.frontend.reset_gain();
    }

    /// How the frames are made.
    pub fn frontend_settings(&self) -> FrontendSettings {
        self.settings.unwrap_or_default()
    }

    /// Ends the stream, as if a second of silence followed, so that a word at its end is still reported; then as [`Spotter::reset`].
    ///
    /// # Errors
    /// As [`Spotter::push`].
    pub fn finish(&mut self, events: &mut Vec<Event>) -> Result<(), SpotError<N::Error>> {
        let result = self.push(&[0.0; TAIL_SAMPLES], events);
        let alone = self.listeners.len() == 1;
        for listener in &mut self.listeners {
            let claim = listener.finish();
            match alone {
                true => events.extend(reported(claim)),
                false => self.arbiter.add(claim.into_iter().collect()),
            }
        }
        self.arbiter.decide(i64::MAX, events);
        self.reset();
        result
    }

    /// Forgets everything heard: the next sample is the first of a new stream.
    ///
    /// As in training and evaluation, the networks hear a context of silence before it, whose logits nobody sees: on its first frames
    /// from a zero state none was ever trained.
    pub fn reset(&mut self) {
        self.frontend.reset();
        self.recent.clear();
        self.arbiter.clear();
        let contexts = self
            .listeners
            .iter()
            .map(|listener| listener.steps.context_frames);
        let context_frames = contexts.max().unwrap_or(0);
        self.frontend
            .push(&vec![0.0; context_frames * HOP_SAMPLES], &mut self.recent)
            .expect("silence is finite");
        let frames = self.recent.len() / MEL_BINS;
        self.heard = frames as i64 - context_frames as i64;
        for listener in &mut self.listeners {
            listener.begin(0, 0);
            // Of the silence, as much as it was trained with; steps run with the first samples.
            let skipped = context_frames - listener.steps.context_frames;
            let context = &self.recent[skipped * MEL_BINS..];
            listener.steps.frames.extend_from_slice(context);
        }
    }

    fn memory_frames(&self) -> usize {
        let memories = self.listeners.iter().map(Listener::memory_frames);
        memories.max().unwrap_or(0).max(100)
    }
}

/// The front end of all `listeners`, and of those before them if there were any.
fn shared_frontend<N, E: core::error::Error>(
    listeners: &[Listener<N>],
    before: Option<FrontendSettings>,
) -> Result<Option<FrontendSettings>, SpotError<E>> {
    let first = listeners.first().map(|listener| listener.frontend);
    let settings = before.or(first);
    let other = |listener: &&Listener<N>| Some(listener.frontend) != settings;
    match listeners.iter().find(other) {
        None => Ok(settings),
        Some(listener) => Err(SpotError::OtherFrontend {
            language: listener.code.clone(),
        }),
    }
}

/// The events among claims that nobody disputes.
fn reported(claims: impl IntoIterator<Item = Claim>) -> impl Iterator<Item = Event> {
    let reported = claims.into_iter().filter(|claim| claim.reported);
    reported.map(|claim| claim.event)
}

/// Of a posterior; finite, however near to 0 or 1 it is.
fn log_odds(posterior: f32) -> f32 {
    let p = posterior.clamp(1e-6, 1.0 - 1e-6);
    libm::logf(p / (1.0 - p))
}

/// The time at which a frame of the audio begins.
fn seconds(frame: i64) -> f64 {
    (frame * HOP_SAMPLES as i64) as f64 / f64::from(SAMPLE_RATE_HZ)
}
