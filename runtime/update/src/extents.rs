//! Where bundles lie in the flash: behind the record, each in whole sectors, in gaps between those that are in use.

use alloc::vec::Vec;
use core::ops::Range;

use embedded_storage::nor_flash::NorFlash;

use crate::record::RECORD_SECTORS;

/// Bytes that are programmed in one go, a page of common NOR flash.
const PROGRAM_BYTES: usize = 256;

/// The first gap of `room` between `taken` extents that takes so many bytes, from `start` on or else from the beginning; the largest gap, if none does.
pub(crate) fn find_gap(
    room: Range<u32>,
    mut taken: Vec<Range<u32>>,
    start: u32,
    needed_bytes: u32,
) -> Result<u32, u32> {
    taken.push(room.end..room.end);
    taken.sort_unstable_by_key(|extent| extent.start);
    let (mut gaps, mut from) = (Vec::new(), room.start);
    for extent in taken {
        if extent.start > from {
            gaps.push(from..extent.start);
        }
        from = from.max(extent.end);
    }
    let fits = |from: u32, gap: &Range<u32>| {
        let from = from.max(gap.start);
        (from.checked_add(needed_bytes)? <= gap.end).then_some(from)
    };
    let onwards = gaps.iter().find_map(|gap| fits(start, gap));
    onwards
        .or_else(|| gaps.iter().find_map(|gap| fits(0, gap)))
        .ok_or_else(|| gaps.iter().map(|g| g.end - g.start).max().unwrap_or(0))
}

/// Where bundles may lie.
pub(crate) fn room<F: NorFlash>(flash: &F) -> Range<u32> {
    let size = F::ERASE_SIZE as u32;
    let end = u32::try_from(flash.capacity()).unwrap_or(u32::MAX) / size * size;
    (RECORD_SECTORS * size).min(end)..end
}

/// Bytes of one program operation, a multiple of the write size.
pub(crate) const fn page<F: NorFlash>() -> usize {
    PROGRAM_BYTES.next_multiple_of(F::WRITE_SIZE)
}

/// So many bytes from `address`, or none where the flash cannot read them, or the memory cannot hold them.
pub(crate) fn read<F: NorFlash>(flash: &mut F, address: u32, bytes: u32) -> Option<Vec<u8>> {
    let unit = F::READ_SIZE as u32;
    let from = address / unit * unit;
    let to = address.checked_add(bytes)?.checked_next_multiple_of(unit)?;
    if to as usize > flash.capacity() {
        return None;
    }
    let mut all = Vec::new();
    all.try_reserve_exact((to - from) as usize).ok()?;
    all.resize((to - from) as usize, 0);
    flash.read(from, &mut all).ok()?;
    all.drain(..(address - from) as usize);
    all.truncate(bytes as usize);
    Some(all)
}
