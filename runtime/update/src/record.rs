//! One record of a device, kept such that a power cut at any instant leaves the old or the new one: each version is written twice, each time
//! to the sector with the oldest contents, and read back. Nothing is known here of what the record says.
//!
//! Why not a store that is there already: `firmware-sim/tests/stores.rs` cuts the same records in `sequential-storage`, which loses none on plain flash but cannot get past
//! a torn word with ECC, a failing sector or a rotten bit, and in `ekv`, which cannot be mounted after some torn erases.
//!
//! Layout of a sector: sequence number (u64), length (u32), the record, SHA-256 of all that; padded with ones to whole write words.

use alloc::{vec, vec::Vec};

use embedded_storage::nor_flash::NorFlash;
use sha2::{Digest as _, Sha256};

/// Sectors at the start of the flash that hold copies of the record.
pub const RECORD_SECTORS: u32 = 4;
/// Copies of each version: one may be lost to a bit that tips over.
const COPIES: usize = 2;
const HEADER_BYTES: usize = 8 + 4;
const DIGEST_BYTES: usize = 32;

/// Longest record for sectors of `sector_bytes`.
pub const fn capacity(sector_bytes: usize) -> usize {
    sector_bytes.saturating_sub(HEADER_BYTES + DIGEST_BYTES)
}

/// A record that is whole.
#[derive(Clone, Debug, PartialEq)]
pub struct Version {
    /// Its number, which rises with every version.
    pub sequence: u64,
    /// What was recorded.
    pub record: Vec<u8>,
}

/// The newest version that is there whole, and how many copies there are of it.
pub fn newest<F: NorFlash>(flash: &mut F) -> Option<(Version, usize)> {
    let versions: Vec<Version> = (0..RECORD_SECTORS)
        .filter_map(|sector| read(flash, sector))
        .collect();
    let newest = versions.iter().max_by_key(|version| version.sequence)?;
    let copies = versions.iter().filter(|version| *version == newest).count();
    Some((newest.clone(), copies))
}

/// Puts `record` in the place of every version before `sequence`; returns when two copies can be read, or one where a single sector still holds data.
/// `false` means that no sector took it: then the version before is untouched in at least one.
pub fn write<F: NorFlash>(flash: &mut F, sequence: u64, record: &[u8]) -> bool {
    let version = Version {
        sequence,
        record: record.to_vec(),
    };
    let mut sectors: Vec<(u64, u32)> = (0..RECORD_SECTORS)
        .map(|sector| {
            (
                read(flash, sector).map_or(0, |there| there.sequence),
                sector,
            )
        })
        .collect();
    sectors.sort_unstable();
    // The newest copy of the version before goes only once this one is there.
    let last = sectors.pop();
    let mut written = 0;
    for (_, sector) in sectors {
        if written < COPIES && put(flash, sector, &version) {
            written += 1;
        }
    }
    if let Some((_, sector)) = last
        && written == 1
        && put(flash, sector, &version)
    {
        written += 1;
    }
    written > 0
}

/// What [`write`] must not be: every copy is erased before anything new is there.
#[cfg_attr(not(feature = "sabotage"), allow(dead_code, reason = "sabotage alone"))]
pub(crate) fn write_erased<F: NorFlash>(flash: &mut F, sequence: u64, record: &[u8]) -> bool {
    let sectors = RECORD_SECTORS * F::ERASE_SIZE as u32;
    flash.erase(0, sectors).is_ok() && write(flash, sequence, record)
}

fn put<F: NorFlash>(flash: &mut F, sector: u32, version: &Version) -> bool {
    let mut bytes = version.sequence.to_le_bytes().to_vec();
    bytes.extend((version.record.len() as u32).to_le_bytes());
    bytes.extend(&version.record);
    let digest = Sha256::digest(&bytes);
    bytes.extend(digest);
    bytes.resize(bytes.len().next_multiple_of(F::WRITE_SIZE), 0xff);
    let size = F::ERASE_SIZE as u32;
    let (from, to) = (sector * size, (sector + 1) * size);
    flash.erase(from, to).is_ok()
        && flash.write(from, &bytes).is_ok()
        && read(flash, sector).as_ref() == Some(version)
}

/// The version in a sector, unless anything about it is not as it was written.
fn read<F: NorFlash>(flash: &mut F, sector: u32) -> Option<Version> {
    let mut bytes = vec![0; F::ERASE_SIZE];
    flash.read(sector * F::ERASE_SIZE as u32, &mut bytes).ok()?;
    let length = u32::from_le_bytes(*bytes.get(8..)?.first_chunk()?) as usize;
    let end = HEADER_BYTES.checked_add(length)?;
    let digest = bytes.get(end..end.checked_add(DIGEST_BYTES)?)?;
    let body = bytes.get(..end)?;
    let sequence = u64::from_le_bytes([0, 1, 2, 3, 4, 5, 6, 7].map(|byte| body[byte]));
    // No device counts that far, and after the last number there is none for the next record.
    let whole = sequence < u64::MAX / 2 && Sha256::digest(body).as_slice() == digest;
    whole.then(|| Version {
        sequence,
        record: body[HEADER_BYTES..].to_vec(),
    })
}
