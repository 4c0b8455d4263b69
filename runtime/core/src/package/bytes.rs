//! Reading and writing the delta's elementary fields: little-endian numbers, variable-length integers, texts.
//! The reader never goes past its end, and names the field and the place where something is wrong.

use alloc::{string::String, vec::Vec};

use super::PackageError;

/// Walks over a file's bytes from the start.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    offset: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, offset: 0 }
    }

    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.offset
    }

    pub(super) fn damaged(&self, what: &'static str) -> PackageError {
        PackageError::Damaged {
            what,
            offset: self.offset,
        }
    }

    pub(super) fn take(
        &mut self,
        count: usize,
        what: &'static str,
    ) -> Result<&'a [u8], PackageError> {
        let taken = self.bytes[self.offset..]
            .get(..count)
            .ok_or_else(|| self.damaged(what))?;
        self.offset += count;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(
        &mut self,
        what: &'static str,
    ) -> Result<[u8; N], PackageError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N, what)?);
        Ok(array)
    }

    pub(super) fn byte(&mut self, what: &'static str) -> Result<u8, PackageError> {
        Ok(self.array::<1>(what)?[0])
    }

    pub(super) fn f32(&mut self, what: &'static str) -> Result<f32, PackageError> {
        Ok(f32::from_le_bytes(self.array(what)?))
    }

    /// A number in base 128, low digits first, the top bit set on all bytes but the last; the shortest form, below 2^32.
    pub(super) fn varint(&mut self, what: &'static str) -> Result<u32, PackageError> {
        let start = self.offset;
        let malformed = PackageError::Damaged {
            what,
            offset: start,
        };
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = self.byte(what)?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let shortest = byte != 0 || shift == 0;
                return u32::try_from(value)
                    .ok()
                    .filter(|_| shortest)
                    .ok_or(malformed);
            }
        }
        Err(malformed)
    }

    /// A count of things of which each takes at least `least_bytes` of what is left, so that no claim outgrows the file.
    pub(super) fn count(
        &mut self,
        least_bytes: usize,
        what: &'static str,
    ) -> Result<usize, PackageError> {
        let start = self.offset;
        let count = self.varint(what)? as usize;
        if count > self.remaining() / least_bytes {
            return Err(PackageError::Damaged {
                what,
                offset: start,
            });
        }
        Ok(count)
    }

    /// A length and that many bytes of UTF-8.
    pub(super) fn text(&mut self, what: &'static str) -> Result<String, PackageError> {
        let length = self.count(1, what)?;
        let start = self.offset;
        let bytes = self.take(length, what)?;
        core::str::from_utf8(bytes)
            .map(String::from)
            .map_err(|_| PackageError::Damaged {
                what,
                offset: start,
            })
    }
}

/// Appends `value` in base 128; see [`Reader::varint`].
pub(super) fn put_varint(bytes: &mut Vec<u8>, mut value: u32) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// Bytes that [`put_varint`] appends for `value`.
pub(super) fn varint_bytes(value: u32) -> usize {
    (32 - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// Appends the length of `text` and its bytes.
pub(super) fn put_text(bytes: &mut Vec<u8>, text: &str) {
    put_varint(bytes, text.len() as u32);
    bytes.extend_from_slice(text.as_bytes());
}
