//! The models of one device in its flash, and the only ways to change them.
//!
//! The flash begins with the sectors of the record ([`crate::record`]); behind them lie bundles, the files of a base or of a language, each from
//! the start of a sector, written once and never moved. What the record does not name is free. So every step is: write what nobody looks at
//! yet, read it back, then replace the record, which is old or new and nothing between.

use alloc::{boxed::Box, string::String, vec::Vec};
use core::ops::Range;

use embedded_storage::nor_flash::NorFlash;
use swr_core::model::Trust;
use swr_core::package::{Digest, Entry, PublicKey};

use crate::UpdateError;
use crate::extents::{read, room};
use crate::record;
use crate::sabotage::Sabotage;
use crate::state::{Bundle, Kind, MAX_LANGUAGES, Staged, State, Trial, digest_of};
use crate::verify::{Base, Files, Model};

mod download;

/// Starts after which a trial that never came to an end is given up.
pub const MAX_TRIES: u8 = 3;
/// Most versions that are remembered of languages ever installed.
const MAX_FLOORS: usize = 64;

/// The trial of a model.
fn hears_its_golden_clip(model: &Model) -> Result<(), UpdateError> {
    let checked = model.golden.check(&model.network, &model.language.labels);
    checked.map(|_| ()).map_err(|source| UpdateError::Package {
        language: model.language.code.clone(),
        source: Box::new(source),
    })
}

/// A device's models: those in use, those on trial, and a download.
#[derive(Debug)]
pub struct Device<F> {
    flash: F,
    keys: Vec<PublicKey>,
    state: State,
    sequence: u64,
    /// Bytes of the download under way that are in the flash, if there is one, and those that wait for a whole program operation.
    written: Option<u32>,
    waiting: Vec<u8>,
    sabotage: Option<Sabotage>,
}

/// What came of a start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Started {
    /// Whether models on trial were confirmed in this start.
    pub confirmed: bool,
    /// Why the last update was not taken, if it was not.
    pub refused: Option<String>,
}

impl<F: NorFlash> Device<F> {
    /// The device whose record lies in `flash`, trusting publishers with one of `keys`. After a power cut this is all there is to repair.
    ///
    /// # Errors
    /// [`UpdateError::NotProvisioned`] and [`UpdateError::UnsupportedRecord`].
    pub fn open(flash: F, keys: &[PublicKey]) -> Result<Self, UpdateError> {
        Self::open_with(flash, keys, None)
    }

    /// As [`Device::open`], with a deliberate mistake.
    ///
    /// # Errors
    /// Those of [`Device::open`].
    #[cfg(feature = "sabotage")]
    pub fn open_sabotaged(
        flash: F,
        keys: &[PublicKey],
        sabotage: Option<Sabotage>,
    ) -> Result<Self, UpdateError> {
        Self::open_with(flash, keys, sabotage)
    }

    fn open_with(
        mut flash: F,
        keys: &[PublicKey],
        sabotage: Option<Sabotage>,
    ) -> Result<Self, UpdateError> {
        let (version, copies) = record::newest(&mut flash).ok_or(UpdateError::NotProvisioned)?;
        let room = room(&flash);
        let mut device = Self {
            state: State::read(&version.record, room, F::ERASE_SIZE as u32)?,
            flash,
            keys: keys.to_vec(),
            sequence: version.sequence,
            written: None,
            waiting: Vec::new(),
            sabotage,
        };
        if copies < 2 {
            if device.broken(Sabotage::RepairErasesFirst) {
                device.sabotage = Some(Sabotage::EraseFirst);
            }
            // One copy is enough to run by; if no other can be made, the next change will say so.
            let _ = device.save();
            device.sabotage = sabotage;
        }
        Ok(device)
    }

    /// A device as it leaves the factory: `release` is put to use without a trial, whatever the flash held.
    /// Each entry of the release, the base first, comes with its files one behind the other.
    ///
    /// # Errors
    /// What [`Device::stage`], [`Device::finish`] and [`Device::commit`] refuse.
    pub fn provision(
        mut flash: F,
        keys: &[PublicKey],
        release: &[(Entry, Vec<u8>)],
    ) -> Result<Self, UpdateError> {
        let sequence = record::newest(&mut flash).map_or(0, |(version, _)| version.sequence);
        let mut device = Self {
            state: State {
                next_address: room(&flash).start,
                ..State::default()
            },
            flash,
            keys: keys.to_vec(),
            sequence,
            written: None,
            waiting: Vec::new(),
            sabotage: None,
        };
        for (entry, bytes) in release {
            device.stage(entry)?;
            device.write(bytes)?;
            device.finish()?;
        }
        let bundles = device.after(&[])?;
        device.each_model(&bundles, hears_its_golden_clip)?;
        device.state.confirmed = bundles;
        device.state.staged.clear();
        device.state.raise_floors();
        device.save()?;
        Ok(device)
    }

    fn broken(&self, sabotage: Sabotage) -> bool {
        self.sabotage == Some(sabotage)
    }

    /// Gives the flash back.
    pub fn into_flash(self) -> F {
        self.flash
    }

    /// Languages in use with their versions, the base's first.
    pub fn installed(&self) -> impl Iterator<Item = (&str, u32)> {
        let bundles = self.state.confirmed.iter();
        bundles.map(|bundle| (bundle.language.as_str(), bundle.model_version))
    }

    /// Languages being downloaded, with their versions and whether all of the download is there.
    pub fn downloads(&self) -> impl Iterator<Item = (&str, u32, bool)> {
        self.state.staged.iter().map(|staged| {
            let bundle = &staged.bundle;
            (
                bundle.language.as_str(),
                bundle.model_version,
                staged.complete,
            )
        })
    }

    /// Whether exactly these files are in use.
    pub fn has(&self, entry: &Entry) -> bool {
        Bundle::of(entry, 0)
            .is_ok_and(|wanted| self.state.confirmed.iter().any(|b| b.same_files(&wanted)))
    }

    /// Whether models wait for their trial at the next start.
    pub fn on_trial(&self) -> bool {
        self.state.trial.is_some()
    }

    /// Why the last update was not taken, if it was not.
    pub fn refused(&self) -> Option<&str> {
        self.state.refused.as_deref()
    }

    /// Puts all complete downloads on trial for the next start, and removes languages, in one step. What is only removed needs no trial; downloads that are not complete
    /// stay what they are.
    ///
    /// All models that change are verified first, those on another base with them: versions, signatures, digests, every merge. When this returns, the update outlives
    /// any power cut; only a trial that is begun [`MAX_TRIES`] times and never comes to an end, be it that power fails each time, drops it.
    ///
    /// # Errors
    /// [`UpdateError::Incomplete`] and [`UpdateError::OnTrial`]; anything else means that the downloads were dropped, and is kept as the reason.
    pub fn commit(&mut self, remove: &[&str]) -> Result<(), UpdateError> {
        // Two at once would make the second's fate that of the first.
        if self.on_trial() {
            return Err(UpdateError::OnTrial);
        }
        self.end_download();
        let complete = self.state.staged.iter().any(|staged| staged.complete);
        if let Some(staged) = self.state.staged.first()
            && !complete
            && remove.is_empty()
        {
            return Err(UpdateError::Incomplete {
                language: staged.bundle.language.clone(),
                missing_bytes: staged.bundle.bytes(),
            });
        }
        let all = self.after(remove).and_then(|bundles| {
            self.each_model(&bundles, |_| Ok(()))?;
            Ok(bundles)
        });
        let bundles = match all {
            Ok(bundles) => bundles,
            Err(refused) => {
                self.state.staged.retain(|staged| !staged.complete);
                self.state.refuse(&refused);
                self.save()?;
                return Err(refused);
            }
        };
        let only_removes = !complete;
        if self.broken(Sabotage::BaseFirst) && bundles[0] != self.state.confirmed[0] {
            self.state.confirmed[0] = bundles[0].clone();
            self.save()?;
        }
        self.state.staged.retain(|staged| !staged.complete);
        if self.broken(Sabotage::FloorBeforeTrial) {
            let confirmed = core::mem::replace(&mut self.state.confirmed, bundles.clone());
            self.state.raise_floors();
            self.state.confirmed = confirmed;
        }
        if only_removes || self.broken(Sabotage::NoTrial) {
            self.state.confirmed = bundles;
            self.state.raise_floors();
        } else {
            self.state.trial = Some(Trial { bundles, tries: 0 });
        }
        if self.broken(Sabotage::AcknowledgeEarly) {
            return Ok(());
        }
        self.save()
    }

    /// What a device does when it is switched on: models on trial hear their golden clips and are confirmed, or dropped. Then [`Device::load`] gives what is in use.
    ///
    /// # Errors
    /// [`UpdateError::Flash`] where the record cannot be written. A trial that fails is no error, but the reason in [`Started::refused`].
    pub fn start(&mut self) -> Result<Started, UpdateError> {
        self.start_with(hears_its_golden_clip)
    }

    /// As [`Device::start`], with a trial of one's own for each model that changes, such as one that feeds the golden clip through the device's own path.
    ///
    /// # Errors
    /// Those of [`Device::start`].
    pub fn start_with(
        &mut self,
        trial: impl FnMut(&Model) -> Result<(), UpdateError>,
    ) -> Result<Started, UpdateError> {
        let mut confirmed = false;
        if let Some(mut on_trial) = self.state.trial.take() {
            let tried = if on_trial.tries >= MAX_TRIES {
                Err(UpdateError::TrialNeverEnded {
                    tries: on_trial.tries,
                })
            } else {
                if !self.broken(Sabotage::EndlessTrial) {
                    on_trial.tries += 1;
                }
                // Counted before it begins: if it never ends, the starts run out.
                self.state.trial = Some(on_trial.clone());
                self.save()?;
                self.each_model(&on_trial.bundles, trial)
            };
            self.state.trial = None;
            match tried {
                Ok(()) => {
                    self.state.confirmed = on_trial.bundles;
                    self.state.raise_floors();
                    self.state.refused = None;
                    confirmed = true;
                }
                Err(refused) => self.state.refuse(&refused),
            }
            self.save()?;
        }
        Ok(Started {
            confirmed,
            refused: self.state.refused.clone(),
        })
    }

    /// A language in use, read, verified and merged anew.
    ///
    /// # Errors
    /// [`UpdateError::NoLanguage`], [`UpdateError::Damaged`] for files that are not any more what they were when they came, and all else that is checked. The update
    /// code goes on working, so that the language, or the base, can be sent again.
    pub fn load(&mut self, language: &str) -> Result<Model, UpdateError> {
        let bundles = self.state.confirmed.clone();
        let is_it = |bundle: &&Bundle| bundle.language == language;
        let bundle = bundles
            .iter()
            .find(is_it)
            .ok_or_else(|| UpdateError::NoLanguage {
                language: language.into(),
            })?;
        let base = self.base(&bundles)?;
        match *bundle == bundles[0] {
            true => base.model(),
            false => base.language(&self.files(bundle)?),
        }
    }

    /// The models in use once the downloads are, the base first.
    fn after(&self, remove: &[&str]) -> Result<Vec<Bundle>, UpdateError> {
        let mut bundles = self.state.confirmed.clone();
        for language in remove {
            let is_it = |bundle: &Bundle| bundle.language == *language;
            match bundles.iter().position(is_it) {
                // The base is every other language's.
                Some(index) if index > 0 => bundles.remove(index),
                _ => {
                    return Err(UpdateError::NoLanguage {
                        language: (*language).into(),
                    });
                }
            };
        }
        let complete = self.state.staged.iter().filter(|staged| staged.complete);
        for Staged { bundle, .. } in complete {
            let floor = self.state.floor(&bundle.language);
            if bundle.model_version < floor {
                return Err(UpdateError::TooOld {
                    language: bundle.language.clone(),
                    found: bundle.model_version,
                    confirmed: floor,
                });
            }
            let is_base = bundle.files.iter().any(|(kind, _)| *kind == Kind::Manifest);
            let there = bundles.iter().position(|b| b.language == bundle.language);
            match (is_base, there) {
                (true, _) if bundles.is_empty() => bundles.push(bundle.clone()),
                (true, _) => bundles[0] = bundle.clone(),
                (false, Some(index)) => bundles[index] = bundle.clone(),
                (false, None) => bundles.push(bundle.clone()),
            }
        }
        let is_new = |bundle: &&Bundle| self.state.floor(&bundle.language) == 0;
        let new = bundles.iter().filter(is_new).count();
        if new > 0 && self.state.floors.len() + new > MAX_FLOORS {
            return Err(UpdateError::TooManyEver { limit: MAX_FLOORS });
        }
        if bundles.len() > MAX_LANGUAGES {
            return Err(UpdateError::TooMany {
                found: bundles.len(),
                limit: MAX_LANGUAGES,
            });
        }
        Ok(bundles)
    }

    fn base(&mut self, bundles: &[Bundle]) -> Result<Base, UpdateError> {
        let first = bundles.first().ok_or(UpdateError::NotProvisioned)?;
        Base::read(&self.files(first)?)
    }

    /// Every model that a set changes, in turn, verified and merged; one at a time is in memory. On the base in use, languages in use were verified and tried when they
    /// came, and are verified again whenever they are loaded. On another one, those that are damaged are left out: they stay in the set, and loading them is refused.
    fn each_model(
        &mut self,
        bundles: &[Bundle],
        mut see: impl FnMut(&Model) -> Result<(), UpdateError>,
    ) -> Result<(), UpdateError> {
        let base = self.base(bundles)?;
        let same_base = self.state.confirmed.first() == bundles.first();
        if !same_base {
            see(&base.model()?)?;
        }
        for bundle in &bundles[1..] {
            if same_base && self.state.confirmed.contains(bundle) {
                continue;
            }
            let model = self.files(bundle).and_then(|files| base.language(&files));
            match model {
                // What rotted where it lay does not hold up an update of others.
                Err(UpdateError::Damaged { .. }) if self.state.confirmed.contains(bundle) => {}
                model => see(&model?)?,
            }
        }
        Ok(())
    }

    fn files<'a>(&'a mut self, bundle: &'a Bundle) -> Result<Files<'a>, UpdateError> {
        let contents = self.contents(bundle)?;
        let trust = match self.broken(Sabotage::Unsigned) {
            true => Trust::Anyone,
            false => Trust::Only(&self.keys),
        };
        Ok(Files {
            bundle,
            contents,
            trust,
        })
    }

    /// A bundle's files, if they are those that its digest names.
    fn contents(&mut self, bundle: &Bundle) -> Result<Vec<(Kind, Vec<u8>)>, UpdateError> {
        let damaged = || UpdateError::Damaged {
            language: bundle.language.clone(),
        };
        let mut address = bundle.address;
        let mut contents = Vec::with_capacity(bundle.files.len());
        for &(kind, bytes) in &bundle.files {
            let contents_of = read(&mut self.flash, address, bytes).ok_or_else(damaged)?;
            contents.push((kind, contents_of));
            address += bytes;
        }
        let digests = contents.iter().map(|(_, bytes)| Digest::of_bytes(bytes));
        if digest_of(digests) == bundle.digest {
            Ok(contents)
        } else {
            Err(damaged())
        }
    }

    /// The sectors of a bundle.
    fn extent(&self, bundle: &Bundle) -> Range<u32> {
        bundle.address..bundle.address + bundle.bytes().next_multiple_of(F::ERASE_SIZE as u32)
    }

    fn save(&mut self) -> Result<(), UpdateError> {
        let bytes = self.state.to_bytes();
        if bytes.len() > record::capacity(F::ERASE_SIZE) {
            return Err(UpdateError::TooMany {
                found: self.state.bundles().count(),
                limit: MAX_LANGUAGES,
            });
        }
        self.sequence += 1;
        let written = if self.broken(Sabotage::EraseFirst) {
            record::write_erased(&mut self.flash, self.sequence, &bytes)
        } else {
            record::write(&mut self.flash, self.sequence, &bytes)
        };
        if written {
            return Ok(());
        }
        // What could not be kept has not happened.
        if let Some((version, _)) = record::newest(&mut self.flash)
            && let Ok(state) = State::read(&version.record, room(&self.flash), F::ERASE_SIZE as u32)
        {
            self.state = state;
        }
        Err(UpdateError::Flash {
            address: 0,
            what: "the record could not be written",
        })
    }
}
