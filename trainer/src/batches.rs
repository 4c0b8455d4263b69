//! Batches of scenes, of one language or of several in turn: composing and features on all cores, ahead of the training step. Which scenes a batch holds
//! depends only on seed, stage and epoch.

use anyhow::{Context, Result};
use candle_core::Tensor;
use thread_priority::ThreadPriority;

use crate::augment::{Augment, channel};
use crate::examples::{Language, features};
use crate::loss::Target;
use crate::random::generator;
use crate::scene::{Material, SceneSettings, scene};

/// Batches that are ready before the step needs them, beside the one that is being made.
const BATCHES_AHEAD: usize = 2;

/// A batch of scenes, all of one language.
pub struct Batch {
    /// Whose, of [`Turns`]: 0 is the language that is trained, `n` the `n`-th of the others.
    pub language: usize,
    /// Log-mel, `[B, 1, 40, T]`.
    pub log_mel: Tensor,
    /// What is asked of every scene.
    pub targets: Vec<Target>,
}

/// How the scenes of a stage are made.
#[derive(Clone, Copy)]
pub struct Scenes<'a> {
    /// What they are made of.
    pub settings: &'a SceneSettings,
    /// How sound is varied.
    pub augment: &'a Augment,
    /// Frames over which the network's logits are averaged.
    pub window_frames: usize,
}

/// Whose scenes the batches of a training hold: a language's, and in between those of others.
#[derive(Clone, Copy)]
pub struct Turns<'a> {
    /// The language that is trained.
    pub language: &'a Language,
    /// Languages that take turns in the share of the batches that is not its own.
    pub others: &'a [Language],
    /// That share, 0 to 1.
    pub share: f64,
}

impl<'a> Turns<'a> {
    /// All batches of one language.
    pub fn of(language: &'a Language) -> Self {
        Self {
            language,
            others: &[],
            share: 0.0,
        }
    }

    /// Runs `step` on every batch of an epoch of `count` scenes; the next batches are made on threads of their own meanwhile. A scene depends on its place
    /// alone.
    pub fn for_each_batch(
        &self,
        scenes: &Scenes,
        (count, batch): (usize, usize),
        seed: u64,
        place: [u64; 2],
        mut step: impl FnMut(Batch) -> Result<()>,
    ) -> Result<()> {
        let languages: Vec<&Language> = std::iter::once(self.language).chain(self.others).collect();
        let material = languages
            .iter()
            .map(|l| l.material(scenes.settings.balance));
        let material: Vec<Material> = material.collect();
        let before = place[1] as usize * count.div_ceil(batch);
        let workers = input_workers()?;
        std::thread::scope(|scope| {
            let (sender, receiver) = std::sync::mpsc::sync_channel(BATCHES_AHEAD);
            let (languages, material) = (&languages, &material);
            scope.spawn(move || {
                let places: Vec<usize> = (0..count).collect();
                for (n, places) in even_batches(&places, batch).enumerate() {
                    let language = turn(before + n, self.others.len(), self.share);
                    let compose = |at: &usize| {
                        let mut rng = generator(seed, &[place[0], place[1], *at as u64]);
                        let (augment, window) = (scenes.augment, scenes.window_frames);
                        let material = &material[language];
                        let (samples, target) =
                            scene(scenes.settings, augment, material, window, &mut rng);
                        let response = channel(augment, &mut rng);
                        (samples, response, target)
                    };
                    let frontend = &languages[language].train.frontend;
                    let made = workers.install(|| features(frontend, places, compose));
                    let made = made.map(|(log_mel, targets)| Batch {
                        language,
                        log_mel,
                        targets,
                    });
                    // The receiver hangs up when a step failed; the loop then ends here.
                    if sender.send(made).is_err() {
                        return;
                    }
                }
            });
            for batch in receiver {
                step(batch?)?;
            }
            Ok(())
        })
    }
}

/// Whose turn a batch is, counted from the beginning of the training: 0, or the number of one of `others`, which share `share` of the batches evenly.
fn turn(batch: usize, others: usize, share: f64) -> usize {
    let of_others = |batches: usize| (batches as f64 * share) as usize;
    let before = of_others(batch);
    if others == 0 || of_others(batch + 1) == before {
        return 0;
    }
    1 + before % others
}

/// Threads that make the input, as many as the step has, of the lowest priority: they run whenever a core waits for another one at the
/// end of a sweep, and otherwise leave the cores to the step, which they are batches ahead of.
fn input_workers() -> Result<rayon::ThreadPool> {
    rayon::ThreadPoolBuilder::new()
        .num_threads(rayon::current_num_threads())
        .start_handler(|_| {
            let _ = yield_to_everything();
        })
        .build()
        .context("no threads could be started to make the input")
}

/// Gives this thread the lowest priority. Where it is refused, training is slower, nothing else.
#[cfg(target_os = "linux")]
fn yield_to_everything() -> Result<(), thread_priority::Error> {
    use thread_priority::{
        NormalThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy,
        thread_native_id,
    };
    // A thread of the policy for idle times leaves its core in the moment another one wakes; a merely nice one ends its slice.
    set_thread_priority_and_policy(
        thread_native_id(),
        ThreadPriority::Min,
        ThreadSchedulePolicy::Normal(NormalThreadSchedulePolicy::Idle),
    )
}

/// Gives this thread the lowest priority. Where it is refused, training is slower, nothing else.
#[cfg(not(target_os = "linux"))]
fn yield_to_everything() -> Result<(), thread_priority::Error> {
    thread_priority::set_current_thread_priority(ThreadPriority::Min)
}

/// As few batches of at most `largest` as hold everything, their sizes equal but for one: batch statistics of a small rest, such as a
/// single clip, would throw training off.
fn even_batches(order: &[usize], largest: usize) -> impl Iterator<Item = &[usize]> {
    let (count, all) = (order.len().div_ceil(largest), order.len());
    (0..count).map(move |i| &order[i * all / count..(i + 1) * all / count])
}

#[cfg(test)]
mod tests {
    use super::{even_batches, turn};

    #[test]
    fn languages_take_turns_in_their_share() {
        for (others, share, own) in [(0, 0.0, 100), (1, 0.5, 50), (3, 0.3, 70), (2, 1.0, 0)] {
            let mut turns = vec![0; 1 + others];
            (0..100).for_each(|batch| turns[turn(batch, others, share)] += 1);
            assert_eq!(turns[0], own, "{share}");
            let rest = &turns[1..];
            assert!(
                rest.iter().max() <= rest.iter().min().map(|least| least + 1).as_ref(),
                "{turns:?}"
            );
        }
    }

    #[test]
    fn no_batch_is_a_small_rest() {
        for (clips, largest) in [
            (3_201, 100),
            (1, 100),
            (100, 100),
            (101, 50),
            (100_003, 100),
        ] {
            let order: Vec<usize> = (0..clips).collect();
            let batches: Vec<&[usize]> = even_batches(&order, largest).collect();
            assert_eq!(batches.concat(), order);
            assert_eq!(batches.len(), clips.div_ceil(largest));
            let sizes = batches.iter().map(|batch| batch.len());
            let (least, most) = (sizes.clone().min().unwrap(), sizes.max().unwrap());
            assert!(
                most <= largest && most - least <= 1,
                "{clips}: {least} to {most}"
            );
        }
    }
}
