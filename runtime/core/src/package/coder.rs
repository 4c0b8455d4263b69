//! Adaptive binary range coding: the coded part of a delta. Numbers, texts and floats go in, bytes as few as their entropy come out.
//!
//! The range coder is G. N. N. Martin's ("Range encoding", 1979) on 64 bits, with a carry into the bytes already written.
//! Probabilities adapt bit by bit, with a rate of 1 / (n + 1.5) after n bits: the estimator of Krichevsky and Trofimov (1981), which
//! learns a tensor's statistics from its first values, so that no table is stored. All arithmetic is on integers, the same on every machine.
//!
//! Writing and reading are one function each ([`Coder::bit`] and what is built on it): a writer takes the value given, a reader ignores it
//! and returns the one in the file. So both sides cannot drift apart.

use alloc::{string::String, vec, vec::Vec};

use super::PackageError;

/// Bits of a probability.
const PROBABILITY_BITS: u32 = 16;
/// Below this, the range is widened by four more bytes.
const NARROW: u64 = 1 << 32;
/// Most bits that are coded at once without a model.
const RAW_BITS: u32 = 16;
/// Bits after which the rate of adaptation falls no further.
const SLOWEST: u8 = 254;
/// Bytes that a reader looks ahead; it takes zeros for those after the end.
const LOOKAHEAD: usize = 8;
/// The rate of adaptation after n bits, 1 / (n + 1.5) in units of 2^-16.
const RATES: [u32; SLOWEST as usize + 1] = {
    let (mut rates, mut n) = ([0; SLOWEST as usize + 1], 0);
    while n < rates.len() {
        rates[n] = 131_072 / (2 * n as u32 + 3);
        n += 1;
    }
    rates
};

/// The probability that a bit is set, learned from the bits before.
#[derive(Clone, Copy)]
pub(super) struct Bit {
    /// In units of 2^-16. Learning never leaves 1/512 to 511/512: the rate stops falling before, and its steps are rounded down.
    probability: u16,
    seen: u8,
}

impl Bit {
    pub(super) const NEW: Self = Self {
        probability: 1 << 15,
        seen: 0,
    };

    #[inline(always)]
    fn learn(&mut self, bit: bool) {
        let (old, rate) = (u32::from(self.probability), RATES[usize::from(self.seen)]);
        let up = old + (((u32::from(u16::MAX) - old) * rate) >> 16);
        let down = old - ((old * rate) >> 16);
        self.probability = if bit { up } else { down } as u16;
        self.seen = (self.seen + 1).min(SLOWEST);
    }
}

/// Codes elementary values, in one of two directions.
pub(super) trait Coder {
    /// A bit whose probability `model` learns.
    fn bit(&mut self, model: &mut Bit, bit: bool) -> Result<bool, PackageError>;

    /// The lowest `count` bits of `value`, at most 32, each as likely set as not.
    fn raw(&mut self, count: u32, value: u32) -> Result<u32, PackageError>;

    /// An upper bound of the bits that are still to come.
    fn bits_left(&self) -> usize;

    /// An error that says where in the file something does not hold.
    fn damaged(&self, what: &'static str) -> PackageError;

    /// The lowest `bits` bits of `value`, the highest first, each in the context of those before it; `models` has 2^bits.
    #[inline(always)]
    fn tree(&mut self, models: &mut [Bit], bits: u32, value: u32) -> Result<u32, PackageError> {
        let mut node = 1usize;
        for place in (0..bits).rev() {
            let bit = self.bit(&mut models[node], value >> place & 1 == 1)?;
            node = node << 1 | usize::from(bit);
        }
        Ok(node as u32 - (1 << bits))
    }

    /// A number below 2^32 - 1: the number of its binary digits, which `model` learns, then the digits (Elias gamma, adaptive).
    fn number(&mut self, model: &mut Number, value: u32) -> Result<u32, PackageError> {
        let digits = self.tree(&mut model.0, 5, (value + 1).ilog2())?;
        let rest = self.raw(digits, (value + 1) & !(1 << digits))?;
        Ok((1u32 << digits | rest) - 1)
    }

    /// A positive f32 or zero with `mantissa` of its 23 fraction bits; `exponents` learns its exponent.
    fn float(
        &mut self,
        exponents: &mut [Bit; 256],
        mantissa: u32,
        value: f32,
    ) -> Result<f32, PackageError> {
        let bits = value.to_bits() >> (23 - mantissa);
        let exponent = self.tree(exponents, 8, bits >> mantissa & 0xff)?;
        if exponent == 0xff {
            return Err(self.damaged("a value that is not finite"));
        }
        let fraction = self.raw(mantissa, bits & ((1 << mantissa) - 1))?;
        Ok(f32::from_bits(
            (exponent << mantissa | fraction) << (23 - mantissa),
        ))
    }

    /// At most `limit` bytes of UTF-8 without the character 0, which ends them.
    fn text(
        &mut self,
        model: &mut Text,
        limit: usize,
        what: &'static str,
        text: &str,
    ) -> Result<String, PackageError> {
        let (mut bytes, mut given) = (Vec::new(), text.bytes());
        let mut before = 0u8;
        loop {
            let context = Text::context(before);
            let byte = given.next().unwrap_or(0);
            let byte = self.tree(&mut model.0[context], 8, byte.into())? as u8;
            if byte == 0 {
                break;
            }
            if bytes.len() == limit {
                return Err(self.damaged(what));
            }
            bytes.push(byte);
            before = byte;
        }
        String::from_utf8(bytes).map_err(|_| self.damaged(what))
    }
}

/// What is learned of numbers of one meaning: how many digits they have.
#[derive(Clone)]
pub(super) struct Number([Bit; 32]);

impl Number {
    pub(super) const NEW: Self = Self([Bit::NEW; 32]);
}

/// What is learned of texts: bytes in the context of the kind of the byte before.
#[derive(Clone)]
pub(super) struct Text(Vec<[Bit; 256]>);

impl Text {
    pub(super) fn new() -> Self {
        Self(vec![[Bit::NEW; 256]; 11])
    }

    /// The start of a text, an ASCII character, the end of a longer character, or its lead byte, of which the lowest bits tell
    /// the halves of an alphabet apart.
    fn context(before: u8) -> usize {
        match before {
            0 => 0,
            1..=0x7f => 1,
            0x80..=0xbf => 2,
            lead => 3 + usize::from(lead & 7),
        }
    }
}

/// Writes a coded part.
#[derive(Clone)]
pub(super) struct Writer {
    bytes: Vec<u8>,
    low: u64,
    range: u64,
}

impl Writer {
    pub(super) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            low: 0,
            range: u64::MAX,
        }
    }

    /// Bits written so far, rounded up.
    pub(super) fn bits(&self) -> usize {
        self.bytes.len() * 8 + self.range.leading_zeros() as usize + 1
    }

    /// The bytes: as few as tell the last range apart when zeros follow, which the reader adds.
    pub(super) fn finish(mut self) -> Vec<u8> {
        for kept in 0..=LOOKAHEAD as u32 {
            let mask = u128::from(u64::MAX.checked_shr(8 * kept).unwrap_or(0));
            let value = (u128::from(self.low) + mask) & !mask;
            if value < u128::from(self.low) + u128::from(self.range) {
                if value > u128::from(u64::MAX) {
                    self.carry();
                }
                let bytes = (value as u64).to_be_bytes();
                self.bytes.extend(&bytes[..kept as usize]);
                break;
            }
        }
        self.bytes
    }

    fn carry(&mut self) {
        for byte in self.bytes.iter_mut().rev() {
            *byte = byte.wrapping_add(1);
            if *byte != 0 {
                break;
            }
        }
    }

    /// Takes the part of the range that begins `from` above its start.
    fn narrow(&mut self, from: u64, range: u64) {
        let (low, over) = self.low.overflowing_add(from);
        if over {
            self.carry();
        }
        (self.low, self.range) = (low, range);
        if self.range < NARROW {
            self.bytes.extend(&self.low.to_be_bytes()[..4]);
            self.low <<= 32;
            self.range <<= 32;
        }
    }
}

impl Coder for Writer {
    fn bit(&mut self, model: &mut Bit, bit: bool) -> Result<bool, PackageError> {
        let set = (self.range >> PROBABILITY_BITS) * u64::from(model.probability);
        if bit {
            self.narrow(0, set);
        } else {
            self.narrow(set, self.range - set);
        }
        model.learn(bit);
        Ok(bit)
    }

    fn raw(&mut self, count: u32, value: u32) -> Result<u32, PackageError> {
        let mut left = count;
        while left > 0 {
            let now = left.min(RAW_BITS);
            left -= now;
            let part = self.range >> now;
            let bits = value >> left & ((1 << now) - 1);
            self.narrow(part * u64::from(bits), part);
        }
        Ok(value)
    }

    fn bits_left(&self) -> usize {
        usize::MAX
    }

    fn damaged(&self, what: &'static str) -> PackageError {
        PackageError::Damaged { what, offset: 0 }
    }
}

/// Reads a coded part.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    /// Next byte to take; at most [`LOOKAHEAD`] past the end.
    next: usize,
    /// Where in the file `bytes` begins.
    offset: usize,
    /// Distance of the code from the start of the range.
    code: u64,
    range: u64,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`, which begin `offset` bytes into the file.
    pub(super) fn new(bytes: &'a [u8], offset: usize) -> Self {
        let mut reader = Self {
            bytes,
            next: 0,
            offset,
            code: 0,
            range: u64::MAX,
        };
        reader.code = u64::from(reader.four_bytes()) << 32;
        reader.code |= u64::from(reader.four_bytes());
        reader
    }

    fn four_bytes(&mut self) -> u32 {
        let rest = self.bytes.get(self.next..).unwrap_or_default();
        let four = rest.first_chunk().copied().unwrap_or_else(|| {
            let mut four = [0; 4];
            four[..rest.len()].copy_from_slice(rest);
            four
        });
        self.next += 4;
        u32::from_be_bytes(four)
    }

    #[inline(always)]
    fn widen(&mut self) -> Result<(), PackageError> {
        if self.range < NARROW {
            if self.next + 4 > self.bytes.len() + LOOKAHEAD {
                return Err(self.damaged("the end of the coded part"));
            }
            self.code = self.code << 32 | u64::from(self.four_bytes());
            self.range <<= 32;
        }
        Ok(())
    }

    /// Checks that nothing follows what was read.
    pub(super) fn finish(self) -> Result<(), PackageError> {
        if self.next < self.bytes.len() {
            return Err(self.damaged("bytes after the last change"));
        }
        Ok(())
    }
}

impl Coder for Reader<'_> {
    #[inline(always)]
    fn bit(&mut self, model: &mut Bit, _: bool) -> Result<bool, PackageError> {
        let set = (self.range >> PROBABILITY_BITS) * u64::from(model.probability);
        let bit = self.code < set;
        // Without a branch, which could not be foretold.
        let unset = u64::from(!bit).wrapping_neg();
        self.code -= set & unset;
        self.range = set ^ (set ^ (self.range - set)) & unset;
        model.learn(bit);
        self.widen()?;
        Ok(bit)
    }

    #[inline(always)]
    fn raw(&mut self, count: u32, _: u32) -> Result<u32, PackageError> {
        let (mut left, mut value) = (count, 0);
        while left > 0 {
            let now = left.min(RAW_BITS);
            left -= now;
            let part = self.range >> now;
            let bits = self.code / part;
            if bits >> now != 0 {
                return Err(self.damaged("a code that no writer makes"));
            }
            self.code -= bits * part;
            self.range = part;
            value = value << now | bits as u32;
            self.widen()?;
        }
        Ok(value)
    }

    fn bits_left(&self) -> usize {
        // Those looked ahead at, and those not yet taken.
        (2 * LOOKAHEAD + self.bytes.len() - self.next) * 8
    }

    #[cold]
    fn damaged(&self, what: &'static str) -> PackageError {
        PackageError::Damaged {
            what,
            offset: self.offset + self.next.min(self.bytes.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    proptest! {
        #[test]
        fn what_is_written_is_read(
            values in vec((0u32..5, any::<u32>()), 0..200),
            texts in vec("[a-zé-ÿ一-三]{0,9}", 0..9),
        ) {
            let pass = |coder: &mut dyn FnMut(u32, u32) -> u32| -> Vec<u32> {
                values.iter().map(|(kind, value)| coder(*kind, *value)).collect()
            };
            fn code(coder: &mut impl Coder, models: &mut (Bit, Number, [Bit; 256]), kind: u32, value: u32) -> u32 {
                match kind {
                    0 => coder.bit(&mut models.0, value & 1 == 1).map(u32::from),
                    1 => coder.raw(value >> 27, value & ((1u32 << (value >> 27)) - 1)),
                    2 => coder.number(&mut models.1, value - (value == u32::MAX) as u32),
                    3 => coder.tree(&mut models.2, 8, value & 255),
                    _ => coder.float(&mut models.2, 7, f32::from_bits((value >> 2) & 0x3fff_0000)).map(f32::to_bits),
                }.unwrap()
            }
            let new = || (Bit::NEW, Number::NEW, [Bit::NEW; 256]);
            let (mut writer, mut models, mut text) = (Writer::new(), new(), Text::new());
            let written = pass(&mut |kind, value| code(&mut writer, &mut models, kind, value));
            for given in &texts {
                writer.text(&mut text, 50, "text", given).unwrap();
            }
            let bits = writer.bits();
            let bytes = writer.finish();
            prop_assert!(bytes.len() <= bits.div_ceil(8), "{} bytes, {bits} bits", bytes.len());

            let (mut reader, mut models, mut text) = (Reader::new(&bytes, 0), new(), Text::new());
            // `raw` reads as many bits as it is told, which the value itself tells here.
            let read = pass(&mut |kind, value| code(&mut reader, &mut models, kind, value));
            for given in &texts {
                prop_assert_eq!(&reader.text(&mut text, 50, "text", "").unwrap(), given);
            }
            prop_assert_eq!(read, written);
            prop_assert!(reader.finish().is_ok());
        }

        #[test]
        fn bytes_at_random_end_in_an_error_not_in_a_panic(bytes in vec(any::<u8>(), 0..100)) {
            let (mut reader, mut number) = (Reader::new(&bytes, 0), Number::NEW);
            let end = (0..10_000).find_map(|_| reader.number(&mut number, 0).and_then(|_| reader.raw(9, 0)).err());
            let ended = matches!(end, Some(PackageError::Damaged { .. }));
            prop_assert!(ended);
        }
    }

    #[test]
    fn rare_bits_cost_what_their_entropy_is() {
        let (mut writer, mut model) = (Writer::new(), Bit::NEW);
        for i in 0..10_000 {
            writer.bit(&mut model, i % 50 == 0).unwrap();
        }
        // 10,000 bits of which every 50th is set: 10,000 x 0.1414.
        let bits = writer.bits();
        assert!((1_414..1_450).contains(&bits), "{bits}");
    }
}
