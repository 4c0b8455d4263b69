//! A file's fields in whole bytes: every version of the delta begins with some, and versions 1 and 2 are made of nothing else.
//! Nothing is read past the end, and nothing allocated that the bytes there are do not fill.

use alloc::{string::String, vec::Vec};

use super::{Digest, PackageError};

/// A file's fields in whole bytes, from its start.
pub(super) struct Fields<'a> {
    /// What is left, without signature and checksum.
    pub(super) rest: &'a [u8],
    /// Bytes before it.
    pub(super) offset: usize,
}

impl<'a> Fields<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Self {
        Self { rest, offset: 0 }
    }

    pub(super) fn take<const N: usize>(&mut self) -> Result<[u8; N], PackageError> {
        let taken = self.rest.split_first_chunk::<N>();
        let (taken, rest) = taken.ok_or_else(|| self.damaged("the end of the file"))?;
        self.rest = rest;
        self.offset += N;
        Ok(*taken)
    }

    pub(super) fn digest(&mut self) -> Result<Digest, PackageError> {
        Ok(Digest(self.take()?))
    }

    pub(super) fn damaged(&self, what: &'static str) -> PackageError {
        PackageError::Damaged {
            what,
            offset: self.offset,
        }
    }

    /// The next `count` bytes, if there are so many.
    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], PackageError> {
        let split = self.rest.split_at_checked(count);
        let (bytes, rest) = split.ok_or_else(|| self.damaged("the end of the file"))?;
        self.rest = rest;
        self.offset += count;
        Ok(bytes)
    }

    /// A number below 2^32 in base 128, its low digits first, the top bit set on all bytes but the last, in its shortest form.
    pub(super) fn number(&mut self, what: &'static str) -> Result<u32, PackageError> {
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let [byte] = self.take()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                let shortest = byte != 0 || shift == 0;
                let number = u32::try_from(value).ok().filter(|_| shortest);
                return number.ok_or_else(|| self.damaged(what));
            }
        }
        Err(self.damaged(what))
    }

    /// A length and that many bytes of UTF-8.
    pub(super) fn text(&mut self, what: &'static str) -> Result<String, PackageError> {
        let length = self.number(what)? as usize;
        let bytes = self.bytes(length)?;
        let text = core::str::from_utf8(bytes);
        text.map(String::from).map_err(|_| self.damaged(what))
    }

    pub(super) fn f32(&mut self) -> Result<f32, PackageError> {
        Ok(f32::from_le_bytes(self.take()?))
    }

    pub(super) fn floats(&mut self, count: usize) -> Result<Vec<f32>, PackageError> {
        let bytes = self.bytes(count.saturating_mul(4))?;
        let (words, _) = bytes.as_chunks::<4>();
        let values: Vec<f32> = words.iter().map(|word| f32::from_le_bytes(*word)).collect();
        match values.iter().all(|value| value.is_finite()) {
            true => Ok(values),
            false => Err(self.damaged("a value that is not finite")),
        }
    }
}
