//! Listening under way: audio is read and heard piece by piece, languages and thresholds change without a pause.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, channel};

use anyhow::{Context, anyhow};
use swr_core::SAMPLE_RATE_HZ;
use swr_core::frontend::MAX_SAMPLE_MAGNITUDE;

use super::super::words::WordsArgs;
use super::level::Level;
use crate::DEFAULT_STEP_FRAMES;
use crate::SpotError;
use crate::capture::{Notice, Source};
use crate::models::Models;
use crate::spotter::{Event, Listener, Spotter};

/// Audio that is kept, for near misses: the longest word with what comes before it, and the time until it is known for one.
const KEPT_SAMPLES: usize = 4 * SAMPLE_RATE_HZ as usize;

/// Good audio after which samples that are no numbers are told again: ten seconds.
const MENDED_SAMPLES: usize = 10 * SAMPLE_RATE_HZ as usize;

/// What keywords are listened for, and how.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    /// BCP-47 codes.
    pub(super) languages: Vec<String>,
    /// Keywords to report; all if there are none.
    pub(super) words: WordsArgs,
    /// Posterior that every keyword must reach, in the place of the packages' thresholds.
    pub(super) threshold: Option<f32>,
    /// By how much the log-odds of all thresholds are moved.
    pub(super) shift: f32,
    /// How far below its threshold a posterior's peak is a near miss, if these are looked for.
    pub(super) near: Option<f32>,
}

impl Wanted {
    /// Listeners for what is wanted, and what there is to tell about them.
    fn listeners(&self, models: &Models) -> anyhow::Result<(Vec<Listener>, Vec<String>)> {
        let listener = |language: &String| {
            let mut model = models.load(language)?;
            if let Some(threshold) = self.threshold {
                model.language.detector.thresholds.fill(threshold);
            }
            model.language.detector.move_thresholds(self.shift);
            let mut listener = model.listener(DEFAULT_STEP_FRAMES)?;
            if let Some(margin) = self.near {
                listener.look_for_near_misses(margin)?;
            }
            Ok(listener)
        };
        let listeners = self.languages.iter().map(listener);
        let mut listeners: Vec<Listener> = listeners.collect::<anyhow::Result<_>>()?;
        let told = self.words.apply(&mut listeners, self.threshold.is_none())?;
        Ok((listeners, told))
    }
}

/// What one piece of audio brought.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Keywords.
    pub(super) events: Vec<Event>,
    /// Keywords that were nearly heard, with their audio.
    pub(super) near_misses: Vec<(Event, Vec<f32>)>,
    /// What there is to tell.
    pub(super) told: Vec<String>,
    /// Whether the device was back, gone or silent among it, for whoever shows its state.
    pub(super) notices: Vec<Notice>,
    /// Whether the audio has ended.
    pub(super) ended: bool,
}

/// Listeners that another thread has built, and what there is to tell about them.
type Built = anyhow::Result<(Vec<Listener>, Vec<String>)>;

/// Listening under way.
pub(super) struct Session {
    models: Arc<Models>,
    source: Box<dyn Source>,
    /// For messages.
    source_name: String,
    spotter: Spotter,
    wanted: Wanted,
    /// Listeners that another thread is building.
    coming: Option<(Wanted, Receiver<Built>)>,
    /// What is told with the next piece of audio.
    told: Vec<String>,
    samples: Vec<f32>,
    kept: VecDeque<f32>,
    heard_samples: u64,
    limit_samples: u64,
    /// Samples since the last one that had to be mended.
    unbroken_samples: usize,
    level: Level,
}

impl Session {
    /// Loads what is wanted; `seconds` of audio are heard, all there is if none.
    pub(super) fn new(
        models: Models,
        wanted: Wanted,
        source: Box<dyn Source>,
        source_name: String,
        seconds: Option<f64>,
    ) -> anyhow::Result<Self> {
        let (listeners, told) = wanted.listeners(&models)?;
        let spotter = Spotter::new(listeners)?;
        Ok(Self {
            told,
            models: Arc::new(models),
            source,
            source_name,
            spotter,
            wanted,
            coming: None,
            samples: Vec::new(),
            kept: VecDeque::new(),
            heard_samples: 0,
            limit_samples: seconds.map_or(u64::MAX, |s| (s * f64::from(SAMPLE_RATE_HZ)) as u64),
            unbroken_samples: MENDED_SAMPLES,
            level: Level::default(),
        })
    }

    /// Waits for the next piece of audio, not longer than a tenth of a second for a device, and hears it.
    pub(super) fn advance(&mut self) -> anyhow::Result<Heard> {
        let mut heard = Heard {
            told: std::mem::take(&mut self.told),
            ..Heard::default()
        };
        self.samples.clear();
        let more = self.source.read(&mut self.samples)?;
        self.heard_samples += self.samples.len() as u64;
        heard.told.extend(self.mend());
        heard.told.extend(self.level.hear(&self.samples));
        heard.ended = !more || self.heard_samples >= self.limit_samples;
        self.take_change(&mut heard)?;
        let pushed = self.spotter.push(&self.samples, &mut heard.events);
        let pushed = pushed.and_then(|()| match heard.ended {
            true => self.spotter.finish(&mut heard.events),
            false => Ok(()),
        });
        pushed.with_context(|| self.source_name.clone())?;
        if self.wanted.near.is_some() {
            self.kept.extend(&self.samples);
            let surplus = self.kept.len().saturating_sub(KEPT_SAMPLES);
            self.kept.drain(..surplus);
            let near = self.spotter.take_near_misses();
            heard.near_misses = near.into_iter().map(|near| self.with_audio(near)).collect();
        }
        while let Some(notice) = self.source.notice() {
            heard.told.push(notice.to_string());
            heard.notices.push(notice);
        }
        Ok(heard)
    }

    /// Puts silence in the place of samples that are no audio, such as a broken driver delivers; tells it when it begins.
    fn mend(&mut self) -> Option<String> {
        let mut broken = false;
        for sample in &mut self.samples {
            // Written so that NaN, which is in no range, is mended as well.
            if !(-MAX_SAMPLE_MAGNITUDE..=MAX_SAMPLE_MAGNITUDE).contains(sample) {
                (*sample, broken) = (0.0, true);
            }
        }
        let begins = broken && self.unbroken_samples >= MENDED_SAMPLES;
        self.unbroken_samples = match broken {
            true => 0,
            false => self.unbroken_samples.saturating_add(self.samples.len()),
        };
        begins.then(|| {
            format!(
                "{}: some samples are no numbers; silence is heard in their place, check the driver",
                self.source_name
            )
        })
    }

    /// What is listened for, or will be as soon as it is built.
    pub(super) fn wanted(&self) -> &Wanted {
        self.coming
            .as_ref()
            .map_or(&self.wanted, |(wanted, _)| wanted)
    }

    /// Languages that there are.
    pub(super) fn languages(&self) -> anyhow::Result<Vec<String>> {
        Ok(self.models.languages()?)
    }

    /// Listens for something else as soon as that is built, on another thread: the audio never waits for it.
    pub(super) fn change(&mut self, wanted: Wanted) {
        let (sender, receiver) = channel();
        let (models, building) = (Arc::clone(&self.models), wanted.clone());
        std::thread::spawn(move || {
            // Nobody waits for it any more if something else was wanted meanwhile.
            let _ = sender.send(building.listeners(&models));
        });
        self.coming = Some((wanted, receiver));
    }

    /// Takes another source in the place of the one there is.
    #[cfg(feature = "live")]
    pub(super) fn change_source(
        &mut self,
        source: Box<dyn Source>,
        name: String,
    ) -> anyhow::Result<()> {
        (self.source, self.source_name) = (source, name);
        // What was heard before and what comes are not one word.
        let silence = vec![0.0; SAMPLE_RATE_HZ as usize];
        self.spotter.push(&silence, &mut Vec::new())?;
        self.spotter.reset_gain();
        Ok(())
    }

    /// The spotter, to be looked at.
    pub(super) fn spotter(&self) -> &Spotter {
        &self.spotter
    }

    /// The samples heard last.
    pub(super) fn samples(&self) -> &[f32] {
        &self.samples
    }

    fn take_change(&mut self, heard: &mut Heard) -> anyhow::Result<()> {
        let Some((wanted, receiver)) = &self.coming else {
            return Ok(());
        };
        let built = match receiver.try_recv() {
            Ok(built) => built,
            Err(TryRecvError::Empty) => return Ok(()),
            Err(TryRecvError::Disconnected) => Err(anyhow!("the thread that builds it stopped")),
        };
        match built {
            Ok((listeners, told)) => match self.spotter.change(listeners) {
                Ok(()) => {
                    self.wanted = wanted.clone();
                    heard.told.extend(told);
                }
                Err(error @ SpotError::OtherFrontend { .. }) => heard.told.push(error.to_string()),
                Err(error) => return Err(error.into()),
            },
            // What there was goes on.
            Err(error) => heard.told.push(format!("{error:#}")),
        }
        self.coming = None;
        Ok(())
    }

    /// A near miss with the audio around it: it ends a little after the posterior's peak.
    fn with_audio(&self, near: Event) -> (Event, Vec<f32>) {
        let rate = f64::from(SAMPLE_RATE_HZ);
        let now = self.spotter.heard_s();
        let first_kept = now - self.kept.len() as f64 / rate;
        let place = |time_s: f64| {
            let samples = ((time_s - first_kept) * rate).max(0.0) as usize;
            samples.min(self.kept.len())
        };
        let (start, end) = (place(near.time_s - 1.3), place(near.time_s + 0.2));
        let audio = self.kept.range(start..end).copied().collect();
        (near, audio)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::capture::Recording;

    const MODELS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/small");

    #[test]
    fn a_language_is_changed_while_it_listens() {
        let models = Models::open(MODELS).expect("the released models");
        let wanted = Wanted {
            languages: vec!["pl".into()],
            words: WordsArgs::default(),
            threshold: None,
            shift: 0.0,
            near: None,
        };
        let german =
            Recording::open(format!("{MODELS}/../demo/de.flac"), None).expect("the sample");
        let whole = german.samples().len();
        let mut session = Session::new(
            models,
            wanted.clone(),
            Box::new(german),
            "sample".into(),
            None,
        )
        .expect("a session");
        session.change(Wanted {
            languages: vec!["de".into()],
            ..wanted.clone()
        });
        assert_eq!(session.wanted().languages, ["de"]);
        // The audio waits only here, so that the test does not depend on the machine's speed.
        while session.coming.is_some() {
            session.advance().expect("heard");
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        let changed_s = session.spotter().heard_s();
        assert!(changed_s < 30.0, "{changed_s} s until the change");
        let (mut found, mut ended) = (Vec::new(), false);
        while !ended {
            let heard = session.advance().expect("heard");
            found.extend(heard.events);
            ended = heard.ended;
        }
        assert!(found.len() >= 3 && found.iter().all(|event| event.language == "de"));
        assert_eq!(session.heard_samples as usize, whole);

        // One that is not there is told, and what there was goes on.
        let again = Recording::new(vec![0.0; 160_000]);
        let models = Models::open(MODELS).expect("the released models");
        let mut session = Session::new(
            models,
            wanted.clone(),
            Box::new(again),
            "silence".into(),
            None,
        )
        .expect("a session");
        session.change(Wanted {
            languages: vec!["xx".into()],
            ..wanted
        });
        let mut told = Vec::new();
        while session.coming.is_some() {
            told.extend(session.advance().expect("heard").told);
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        assert!(told.len() == 1 && told[0].contains("xx"), "{told:?}");
        assert_eq!(session.wanted().languages, ["pl"]);
    }

    #[test]
    fn samples_that_are_no_numbers_are_told_once_and_listening_goes_on() {
        let german =
            Recording::open(format!("{MODELS}/../demo/de.flac"), None).expect("the sample");
        let mut samples = german.samples().to_vec();
        let end = samples.len();
        // In the silence before the first word, for a while.
        for (number, value) in [f32::NAN, f32::INFINITY, -1e30]
            .into_iter()
            .cycle()
            .take(3_000)
            .enumerate()
        {
            samples[2_000 + number] = value;
        }
        samples.truncate(end / 2);
        let wanted = Wanted {
            languages: vec!["de".into()],
            words: WordsArgs::default(),
            threshold: None,
            shift: 0.0,
            near: None,
        };
        let models = Models::open(MODELS).expect("the released models");
        let source = Box::new(Recording::new(samples));
        let mut session =
            Session::new(models, wanted, source, "broken".into(), None).expect("a session");
        let (mut told, mut found, mut ended) = (Vec::new(), 0, false);
        while !ended {
            let heard = session.advance().expect("listening goes on");
            told.extend(heard.told);
            found += heard.events.len();
            ended = heard.ended;
        }
        assert!(found >= 8, "{found}");
        assert!(
            told.len() == 1 && told[0].contains("no numbers"),
            "{told:?}"
        );
    }

    #[test]
    fn near_misses_come_with_their_audio() {
        let listen = |threshold: f32, near: Option<f32>| {
            let models = Models::open(MODELS).expect("the released models");
            let english =
                Recording::open(format!("{MODELS}/../demo/en.flac"), None).expect("the sample");
            let wanted = Wanted {
                languages: vec!["en".into()],
                words: WordsArgs::default(),
                threshold: Some(threshold),
                shift: 0.0,
                near,
            };
            let mut session =
                Session::new(models, wanted, Box::new(english), "sample".into(), None)
                    .expect("a session");
            let (mut found, mut nearly, mut ended) = (Vec::new(), Vec::new(), false);
            while !ended {
                let heard = session.advance().expect("heard");
                found.extend(heard.events);
                nearly.extend(heard.near_misses);
                ended = heard.ended;
            }
            (found, nearly)
        };
        // Where the threshold is what the middle one of the words scores, those below are near misses, and those above are not.
        let (low, _) = listen(0.7, None);
        let mut scores: Vec<f32> = low.iter().map(|event| event.score).collect();
        scores.sort_by(f32::total_cmp);
        let threshold = scores[scores.len() / 2];
        let (high, nearly) = listen(threshold, Some(0.25));
        assert!(
            high.len() < low.len() && !nearly.is_empty(),
            "{} of {}",
            high.len(),
            low.len()
        );
        for (near, samples) in &nearly {
            assert!(
                (threshold - 0.25..threshold).contains(&near.score),
                "{near:?}"
            );
            let close = |event: &&Event| (event.time_s - near.time_s).abs() < 1.0;
            assert!(
                !high
                    .iter()
                    .any(|event| close(&event) && event.keyword == near.keyword)
            );
            assert!(
                (16_000..=24_000).contains(&samples.len()),
                "{}",
                samples.len()
            );
            let loudest = samples.iter().fold(0f32, |m, s| m.max(s.abs()));
            assert!(loudest > 0.02, "no word in the audio of {near:?}");
        }
    }
}
