//! The models of one device in its flash, and the only ways to change them.
//!
//! The flash begins with the sectors of the record ([`crate::record`]); behind them lie bundles, the files of a base or of a language, each from
//! the start of a sector, written once and never moved. What the record does not name is free. So every step is: write what nobody looks at
//! yet, read it back, then replace the record, which is old or new and nothing between.

use alloc::{string::String, vec, vec::Vec};
use core::ops::Range;

use embedded_storage::nor_flash::NorFlash;
use swr_core::package::{Digest, Entry, PublicKey};

use crate::UpdateError;
use crate::record::{self, RECORD_SECTORS};
use crate::sabotage::Sabotage;
use crate::state::{Bundle, Kind, MAX_LANGUAGES, Staged, State, Trial, digest_of};
use crate::verify::{Base, Files, Model};

/// Starts after which a trial that never came to an end is given up.
pub const MAX_TRIES: u8 = 3;
/// Bytes that are programmed in one go, a page of common NOR flash.
const PROGRAM_BYTES: u32 = 256;
/// Most versions that are remembered of languages ever installed.
const MAX_FLOORS: usize = 64;

/// A device's models: those in use, those on trial, and a download.
#[derive(Debug)]
pub struct Device<F> {
    flash: F,
    keys: Vec<PublicKey>,
    state: State,
    sequence: u64,
    /// Bytes of the last download that are in the flash, and those that wait for a whole program operation.
    written: u32,
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
            written: 0,
            waiting: Vec::new(),
            sabotage,
        };
        if copies < 2 {
            device.save()?;
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
            written: 0,
            waiting: Vec::new(),
            sabotage: None,
        };
        for (entry, bytes) in release {
            device.stage(entry)?;
            device.write(bytes)?;
            device.finish()?;
        }
        let bundles = device.after(&[])?;
        device.each_model(&bundles, |_| Ok(()))?;
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

    /// Begins the download of a base or a language, or goes on with it where a power cut left it. Returns the byte, counted over the entry's files
    /// one behind the other, from which on [`Device::write`] expects them; the length of all when the download is there already.
    ///
    /// # Errors
    /// [`UpdateError::TooOld`], [`UpdateError::Full`], [`UpdateError::BadEntry`], [`UpdateError::Flash`].
    pub fn stage(&mut self, entry: &Entry) -> Result<u32, UpdateError> {
        self.waiting.clear();
        let wanted = Bundle::of(entry, 0)?;
        let floor = self.state.floor(&wanted.language);
        if wanted.model_version < floor {
            return Err(UpdateError::TooOld {
                language: wanted.language,
                found: wanted.model_version,
                confirmed: floor,
            });
        }
        let known = |staged: &Staged| staged.bundle.same_files(&wanted);
        if let Some(index) = self.state.staged.iter().position(known) {
            let staged = self.state.staged.remove(index);
            self.written = if staged.complete {
                staged.bundle.bytes()
            } else {
                self.resumed(&staged.bundle)?
            };
            self.state.staged.push(staged);
            return Ok(self.written);
        }
        if self.state.staged.len() >= MAX_LANGUAGES {
            return Err(UpdateError::TooMany {
                found: self.state.staged.len() + 1,
                limit: MAX_LANGUAGES,
            });
        }
        // Another version of it is not wanted any more; its room is free only once the record says so.
        let others = self.state.staged.len();
        let language = &wanted.language;
        self.state
            .staged
            .retain(|staged| staged.bundle.language != *language);
        if self.state.staged.len() < others {
            self.save()?;
        }
        let address = self.find_room(&wanted)?;
        let bundle = Bundle { address, ..wanted };
        let extent = self.extent(&bundle);
        // Before the record names it, so that what is not blank there later is what was written.
        self.erase(extent.clone())?;
        self.state.next_address = extent.end;
        self.state.staged.push(Staged {
            bundle,
            complete: false,
        });
        self.save()?;
        self.written = 0;
        Ok(0)
    }

    /// Takes the next bytes of the download that was begun last.
    ///
    /// # Errors
    /// [`UpdateError::Unexpected`] for more bytes than the entry has, [`UpdateError::Flash`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), UpdateError> {
        let (address, length) = match self.state.staged.last() {
            Some(staged) if !staged.complete => (staged.bundle.address, staged.bundle.bytes()),
            _ => (0, 0),
        };
        let expected = length.saturating_sub(self.written + self.waiting.len() as u32);
        if bytes.len() > expected as usize {
            return Err(UpdateError::Unexpected {
                expected,
                found: bytes.len(),
            });
        }
        self.waiting.extend(bytes);
        let (page, last) = (page::<F>(), expected as usize == bytes.len());
        while self.waiting.len() >= page || (last && !self.waiting.is_empty()) {
            let rest = self.waiting.split_off(page.min(self.waiting.len()));
            let mut now = core::mem::replace(&mut self.waiting, rest);
            let count = now.len();
            now.resize(count.next_multiple_of(F::WRITE_SIZE), 0xff);
            let at = address + self.written;
            if self.flash.write(at, &now).is_err() {
                return Err(self.give_up_room(at, "a write failed"));
            }
            self.written += count as u32;
        }
        Ok(())
    }

    /// Ends the download that was begun last: what the flash holds is compared with the entry's digests.
    ///
    /// # Errors
    /// [`UpdateError::Incomplete`] while bytes are missing, [`UpdateError::WrongContents`] for other bytes (or a flash that does not hold them), which
    /// are dropped.
    pub fn finish(&mut self) -> Result<(), UpdateError> {
        let Some(staged) = self.state.staged.last() else {
            return Err(UpdateError::Unexpected {
                expected: 0,
                found: 0,
            });
        };
        if staged.complete {
            return Ok(());
        }
        let bundle = staged.bundle.clone();
        let missing_bytes = bundle.bytes() - self.written;
        if missing_bytes > 0 {
            return Err(UpdateError::Incomplete {
                language: bundle.language,
                missing_bytes,
            });
        }
        if self.contents(&bundle).is_err() {
            self.state.staged.pop();
            self.save()?;
            return Err(UpdateError::WrongContents {
                language: bundle.language,
            });
        }
        if let Some(staged) = self.state.staged.last_mut() {
            staged.complete = true;
        }
        self.save()
    }

    /// Forgets every download.
    ///
    /// # Errors
    /// [`UpdateError::Flash`].
    pub fn give_up(&mut self) -> Result<(), UpdateError> {
        self.state.staged.clear();
        self.save()
    }

    /// Puts all that was downloaded on trial for the next start, and removes languages, in one step. What is only removed needs no trial.
    ///
    /// All models as they will be are verified first, with those that stay: versions, signatures, digests, every merge. When this returns, the update outlives
    /// any power cut.
    ///
    /// # Errors
    /// [`UpdateError::Incomplete`] and [`UpdateError::OnTrial`]; anything else means that the downloads were dropped, and is kept as the reason.
    pub fn commit(&mut self, remove: &[&str]) -> Result<(), UpdateError> {
        // Two at once would make the second's fate that of the first.
        if self.on_trial() {
            return Err(UpdateError::OnTrial);
        }
        if let Some(staged) = self.state.staged.iter().find(|staged| !staged.complete) {
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
                self.state.staged.clear();
                self.state.refuse(&refused);
                self.save()?;
                return Err(refused);
            }
        };
        let only_removes = self.state.staged.is_empty();
        if self.broken(Sabotage::BaseFirst) && bundles[0] != self.state.confirmed[0] {
            self.state.confirmed[0] = bundles[0].clone();
            self.save()?;
        }
        self.state.staged.clear();
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
        self.start_with(|model| {
            let checked = model.golden.check(&model.network, &model.labels);
            checked.map(|_| ()).map_err(|source| UpdateError::Package {
                language: model.language.clone(),
                source,
            })
        })
    }

    /// As [`Device::start`], with a trial of one's own for each model, such as one that feeds the golden clip through the device's own path.
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
        for Staged { bundle, .. } in &self.state.staged {
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
        let floors = self.state.floors.len();
        if bundles.len() > MAX_LANGUAGES || floors > MAX_FLOORS {
            return Err(UpdateError::TooMany {
                found: bundles.len().max(floors),
                limit: MAX_LANGUAGES,
            });
        }
        Ok(bundles)
    }

    fn base(&mut self, bundles: &[Bundle]) -> Result<Base, UpdateError> {
        let first = bundles.first().ok_or(UpdateError::NotProvisioned)?;
        Base::read(&self.files(first)?)
    }

    /// Every model of a set in turn, verified and merged; one at a time is in memory. Languages in use that are damaged are left out.
    fn each_model(
        &mut self,
        bundles: &[Bundle],
        mut see: impl FnMut(&Model) -> Result<(), UpdateError>,
    ) -> Result<(), UpdateError> {
        let base = self.base(bundles)?;
        see(&base.model()?)?;
        for bundle in &bundles[1..] {
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
        let signed = !self.broken(Sabotage::Unsigned);
        Ok(Files {
            bundle,
            contents,
            keys: signed.then_some(&self.keys),
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

    /// Where a cut download goes on: at the start of the last sector that is not blank, since all before it was written whole.
    fn resumed(&mut self, bundle: &Bundle) -> Result<u32, UpdateError> {
        let size = F::ERASE_SIZE as u32;
        let extent = self.extent(bundle);
        let mut sectors = extent.clone().step_by(F::ERASE_SIZE).rev();
        let blank = |flash: &mut F, sector: u32| {
            read(flash, sector, size).is_some_and(|bytes| bytes.iter().all(|byte| *byte == 0xff))
        };
        let Some(last) = sectors.find(|sector| !blank(&mut self.flash, *sector)) else {
            return Ok(0);
        };
        if self.broken(Sabotage::ResumeUnseen) {
            return Ok((last + size - extent.start).min(bundle.bytes()));
        }
        self.erase(last..last + size)?;
        Ok(last - extent.start)
    }

    /// The sectors of a bundle.
    fn extent(&self, bundle: &Bundle) -> Range<u32> {
        bundle.address..bundle.address + bundle.bytes().next_multiple_of(F::ERASE_SIZE as u32)
    }

    /// The first gap that takes the bundle, from where the last search ended.
    fn find_room(&self, wanted: &Bundle) -> Result<u32, UpdateError> {
        let in_use = |b: &&Bundle| b.language == wanted.language;
        if self.broken(Sabotage::InPlace)
            && let Some(bundle) = self.state.confirmed.iter().find(in_use)
        {
            return Ok(bundle.address);
        }
        let room = room(&self.flash);
        let mut taken: Vec<Range<u32>> = self.state.bundles().map(|b| self.extent(b)).collect();
        taken.push(room.end..room.end);
        taken.sort_unstable_by_key(|extent| extent.start);
        let (mut gaps, mut from) = (Vec::new(), room.start);
        for extent in taken {
            if extent.start > from {
                gaps.push(from..extent.start);
            }
            from = from.max(extent.end);
        }
        let size = F::ERASE_SIZE as u32;
        let needed_bytes = wanted.bytes().checked_next_multiple_of(size);
        let needed_bytes = needed_bytes.unwrap_or(u32::MAX);
        let start = self.state.next_address;
        let fits = |from: u32, gap: &Range<u32>| {
            let from = from.max(gap.start);
            (from.checked_add(needed_bytes)? <= gap.end).then_some(from)
        };
        let onwards = gaps.iter().find_map(|gap| fits(start, gap));
        onwards
            .or_else(|| gaps.iter().find_map(|gap| fits(0, gap)))
            .ok_or_else(|| UpdateError::Full {
                language: wanted.language.clone(),
                needed_bytes,
                free_bytes: gaps.iter().map(|g| g.end - g.start).max().unwrap_or(0),
            })
    }

    fn erase(&mut self, extent: Range<u32>) -> Result<(), UpdateError> {
        let size = F::ERASE_SIZE as u32;
        for sector in extent.step_by(F::ERASE_SIZE) {
            if self.flash.erase(sector, sector + size).is_err() {
                return Err(self.give_up_room(sector, "an erase failed"));
            }
        }
        Ok(())
    }

    /// After a failure at `address`, the next download looks for room behind it.
    fn give_up_room(&mut self, address: u32, what: &'static str) -> UpdateError {
        let size = F::ERASE_SIZE as u32;
        self.state.staged.retain(|staged| staged.complete);
        self.state.next_address = (address / size + 1) * size;
        let failed = UpdateError::Flash { address, what };
        // Whether or not this can be kept, the failure is what is told.
        self.save().err().unwrap_or(failed)
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
        let written = if self.broken(Sabotage::OneRecord) {
            record::write_in_place(&mut self.flash, self.sequence, &bytes)
        } else {
            record::write(&mut self.flash, self.sequence, &bytes)
        };
        if written {
            return Ok(());
        }
        Err(UpdateError::Flash {
            address: 0,
            what: "the record could not be written",
        })
    }
}

/// Where bundles may lie.
fn room<F: NorFlash>(flash: &F) -> Range<u32> {
    let size = F::ERASE_SIZE as u32;
    let end = u32::try_from(flash.capacity()).unwrap_or(u32::MAX) / size * size;
    (RECORD_SECTORS * size).min(end)..end
}

/// Bytes of one program operation, a multiple of the write size.
const fn page<F: NorFlash>() -> usize {
    (PROGRAM_BYTES as usize).next_multiple_of(F::WRITE_SIZE)
}

/// So many bytes from `address`, or none where the flash cannot read them.
fn read<F: NorFlash>(flash: &mut F, address: u32, bytes: u32) -> Option<Vec<u8>> {
    let unit = F::READ_SIZE as u32;
    let from = address / unit * unit;
    let to = address.checked_add(bytes)?.checked_next_multiple_of(unit)?;
    if to as usize > flash.capacity() {
        return None;
    }
    let mut all = vec![0; (to - from) as usize];
    flash.read(from, &mut all).ok()?;
    all.drain(..(address - from) as usize);
    all.truncate(bytes as usize);
    Some(all)
}
