//! A download: bytes of a base or a language come in pieces and go to sectors that nothing uses yet.

use alloc::vec::Vec;
use core::ops::Range;

use embedded_storage::nor_flash::NorFlash;
use sha2::{Digest as _, Sha256};
use swr_core::package::{Digest, Entry};

use super::Device;
use crate::UpdateError;
use crate::extents::{find_gap, page, read, room};
use crate::sabotage::Sabotage;
use crate::state::{Bundle, MAX_LANGUAGES, Staged, digest_of};

impl<F: NorFlash> Device<F> {
    /// Begins the download of a base or a language, or goes on with it where a power cut left it. Returns the byte, counted over the entry's files
    /// one behind the other, from which on [`Device::write`] expects them; the length of all when the download is there already.
    ///
    /// # Errors
    /// [`UpdateError::TooOld`], [`UpdateError::Full`], [`UpdateError::BadEntry`], [`UpdateError::Flash`].
    pub fn stage(&mut self, entry: &Entry) -> Result<u32, UpdateError> {
        self.end_download();
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
            // The last one is the one that is written to.
            let staged = self.state.staged.remove(index);
            self.state.staged.push(staged.clone());
            let written = match staged.complete {
                true => staged.bundle.bytes(),
                false => self.resumed(&staged.bundle)?,
            };
            self.written = Some(written);
            return Ok(written);
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
        self.written = Some(0);
        Ok(0)
    }

    /// Takes the next bytes of the download that was begun last.
    ///
    /// # Errors
    /// [`UpdateError::Unexpected`] for more bytes than the entry has, [`UpdateError::Flash`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), UpdateError> {
        let unexpected = |expected| UpdateError::Unexpected {
            expected,
            found: bytes.len(),
        };
        let (Some(mut written), Some(staged)) = (self.written, self.state.staged.last()) else {
            return Err(unexpected(0));
        };
        let (address, length) = (staged.bundle.address, staged.bundle.bytes());
        let expected = length.saturating_sub(written + self.waiting.len() as u32);
        if bytes.len() > expected as usize {
            return Err(unexpected(expected));
        }
        self.waiting.extend(bytes);
        let (page, last) = (page::<F>(), expected as usize == bytes.len());
        while self.waiting.len() >= page || (last && !self.waiting.is_empty()) {
            let rest = self.waiting.split_off(page.min(self.waiting.len()));
            let mut now = core::mem::replace(&mut self.waiting, rest);
            let count = now.len();
            now.resize(count.next_multiple_of(F::WRITE_SIZE), 0xff);
            let at = address + written;
            if self.flash.write(at, &now).is_err() {
                return Err(self.give_up_room(at, "a write failed"));
            }
            written += count as u32;
            self.written = Some(written);
        }
        Ok(())
    }

    /// Ends the download that was begun last: what the flash holds is compared with the entry's digests.
    ///
    /// # Errors
    /// [`UpdateError::Incomplete`] while bytes are missing, [`UpdateError::WrongContents`] for other bytes (or a flash that does not hold them), which
    /// are dropped.
    pub fn finish(&mut self) -> Result<(), UpdateError> {
        let (Some(written), Some(staged)) = (self.written, self.state.staged.last()) else {
            return Err(UpdateError::Unexpected {
                expected: 0,
                found: 0,
            });
        };
        if staged.complete {
            return Ok(());
        }
        let bundle = staged.bundle.clone();
        let missing_bytes = bundle.bytes().saturating_sub(written);
        if missing_bytes > 0 {
            return Err(UpdateError::Incomplete {
                language: bundle.language,
                missing_bytes,
            });
        }
        self.end_download();
        if !self.holds(&bundle) {
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
        self.end_download();
        self.state.staged.clear();
        self.save()
    }

    /// From here on, bytes are for nothing until a download is begun.
    pub(super) fn end_download(&mut self) {
        self.written = None;
        self.waiting.clear();
    }

    /// Whether the flash holds the files of a bundle. Looked at a sector at a time: how long a file is, only the index has said so far.
    fn holds(&mut self, bundle: &Bundle) -> bool {
        let mut address = bundle.address;
        let mut files = Vec::with_capacity(bundle.files.len());
        for &(_, bytes) in &bundle.files {
            let mut hash = Sha256::new();
            let end = address + bytes;
            while address < end {
                let count = (end - address).min(F::ERASE_SIZE as u32);
                let Some(part) = read(&mut self.flash, address, count) else {
                    return false;
                };
                hash.update(&part);
                address += count;
            }
            files.push(Digest(hash.finalize().into()));
        }
        digest_of(files.into_iter()) == bundle.digest
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

    /// The first gap that takes the bundle, from where the last search ended.
    fn find_room(&self, wanted: &Bundle) -> Result<u32, UpdateError> {
        let in_use = |b: &&Bundle| b.language == wanted.language;
        if self.broken(Sabotage::InPlace)
            && let Some(bundle) = self.state.confirmed.iter().find(in_use)
        {
            return Ok(bundle.address);
        }
        let taken = self.state.bundles().map(|b| self.extent(b)).collect();
        let size = F::ERASE_SIZE as u32;
        let needed_bytes = wanted.bytes().checked_next_multiple_of(size);
        let needed_bytes = needed_bytes.unwrap_or(u32::MAX);
        let found = find_gap(
            room(&self.flash),
            taken,
            self.state.next_address,
            needed_bytes,
        );
        found.map_err(|free_bytes| UpdateError::Full {
            language: wanted.language.clone(),
            needed_bytes,
            free_bytes,
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
        self.end_download();
        self.state.staged.retain(|staged| staged.complete);
        self.state.next_address = (address / size + 1) * size;
        let failed = UpdateError::Flash { address, what };
        // Whether or not this can be kept, the failure is what is told.
        self.save().err().unwrap_or(failed)
    }
}
