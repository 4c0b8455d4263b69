//! A NOR flash that can lose its power inside any operation. Erasing sets bits, programming clears them; what is not aligned, or written twice where the
//! part has ECC, is refused; wear and operations are counted. Nothing is known here of packages.
//!
//! Contents are shared between clones until they are changed, so that a snapshot before every operation costs next to nothing.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use embedded_storage::nor_flash::{
    ErrorType, NorFlash, NorFlashError, NorFlashErrorKind, ReadNorFlash, check_erase, check_read,
    check_write,
};
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};

/// In-between states that a cut leaves of an operation; the first two are "nothing happened" and "all of it, but nobody was told".
pub const TORN_STATES: u32 = 18;
/// Bytes that a part programs at once; a longer write is several operations.
const PAGE_BYTES: usize = 256;

/// Why the flash refused an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlashError {
    /// Beyond the end, or not a multiple of a unit.
    #[error("out of bounds or not aligned: {0}")]
    Range(NorFlashErrorKind),
    /// The power is off.
    #[error("the power is off")]
    PowerOff,
    /// A word with ECC that was programmed since its last erase.
    #[error("a word with ECC is programmed twice at {0:#x}")]
    WrittenTwice(u32),
    /// A word with ECC that was torn.
    #[error("ECC cannot correct the word at {0:#x}")]
    Ecc(u32),
    /// The part reports a failure.
    #[error("the sector at {0:#x} fails")]
    BadSector(u32),
}

impl NorFlashError for FlashError {
    fn kind(&self) -> NorFlashErrorKind {
        match self {
            Self::Range(kind) => *kind,
            _ => NorFlashErrorKind::Other,
        }
    }
}

/// What happens to the power.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The program or erase operation, counted from 0 since the flash was made, in which power fails.
    pub operation: u64,
    /// Which in-between state it leaves, below [`TORN_STATES`].
    pub torn: u32,
    /// Draws the bits of that state.
    pub seed: u64,
}

/// The power supply of a flash. A clone is another one, in the same state: what becomes of a cloned flash leaves the first alone.
#[derive(Debug)]
pub struct Power(Arc<AtomicBool>);

impl Clone for Power {
    fn clone(&self) -> Self {
        Self(Arc::new(AtomicBool::new(self.is_on())))
    }
}

impl Power {
    fn on() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }

    /// Cuts it.
    pub fn off(&self) {
        self.0.store(false, Ordering::Relaxed);
    }

    /// Whether there is any.
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Defects of a part.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Defects {
    /// Sectors that report an error for every program and erase.
    pub failing_sectors: BTreeSet<u32>,
    /// Bits (address, mask) that read as zero whatever was erased or programmed.
    pub stuck_bits: Vec<(u32, u8)>,
}

/// What was done to the flash since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Program operations, at most a page each.
    pub programs: u64,
    /// Bytes programmed.
    pub programmed_bytes: u64,
    /// Sectors erased.
    pub erases: u64,
    /// Bytes read.
    pub read_bytes: u64,
}

/// An operation as it is about to happen, with the flash before it.
#[derive(Clone, Debug)]
pub struct Snapshot<const WRITE: usize, const ERASE: usize> {
    /// The flash before the operation.
    pub before: Nor<WRITE, ERASE>,
    /// The operation.
    pub operation: Operation,
}

/// A program or erase operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Bytes programmed from an address on, within a page.
    Program {
        /// First byte.
        address: u32,
        /// What is programmed.
        bytes: Vec<u8>,
    },
    /// A sector erased.
    Erase {
        /// Its first byte.
        address: u32,
    },
}

impl fmt::Display for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Program { address, bytes } => {
                write!(formatter, "program {} bytes at {address:#x}", bytes.len())
            }
            Self::Erase { address } => write!(formatter, "erase the sector at {address:#x}"),
        }
    }
}

#[derive(Debug)]
struct Sector {
    bytes: Vec<u8>,
    /// Words programmed since the last erase, and words that ECC cannot correct; looked at in parts with ECC only.
    programmed: BTreeSet<u32>,
    torn: BTreeSet<u32>,
    digest: OnceLock<[u8; 32]>,
}

impl Sector {
    fn new(bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            programmed: BTreeSet::new(),
            torn: BTreeSet::new(),
            digest: OnceLock::new(),
        }
    }

    fn digest(&self) -> &[u8; 32] {
        self.digest.get_or_init(|| {
            let mut hash = Sha256::new();
            hash.update(&self.bytes);
            for word in self.programmed.iter().chain([&u32::MAX]).chain(&self.torn) {
                hash.update(word.to_le_bytes());
            }
            hash.finalize().into()
        })
    }
}

impl Clone for Sector {
    fn clone(&self) -> Self {
        Self {
            bytes: self.bytes.clone(),
            programmed: self.programmed.clone(),
            torn: self.torn.clone(),
            digest: OnceLock::new(),
        }
    }
}

/// A NOR flash of words of `WRITE` bytes and sectors of `ERASE` bytes.
#[derive(Clone, Debug)]
pub struct Nor<const WRITE: usize, const ERASE: usize> {
    sectors: Vec<Arc<Sector>>,
    wear: Vec<u32>,
    ecc: bool,
    defects: Arc<Defects>,
    operations: u64,
    counters: Counters,
    cut: Option<Cut>,
    power: Power,
    record: Option<Vec<Snapshot<WRITE, ERASE>>>,
}

impl<const WRITE: usize, const ERASE: usize> Nor<WRITE, ERASE> {
    /// An erased part of `sectors` sectors; with `ecc`, a word is programmed once, and a torn one cannot be read.
    pub fn new(sectors: usize, ecc: bool) -> Self {
        let blank = Arc::new(Sector::new(vec![0xff; ERASE]));
        Self {
            sectors: vec![blank; sectors],
            wear: vec![0; sectors],
            ecc,
            defects: Arc::default(),
            operations: 0,
            counters: Counters::default(),
            cut: None,
            power: Power::on(),
            record: None,
        }
    }

    /// The same part with defects.
    pub fn with_defects(self, defects: Defects) -> Self {
        Self {
            defects: Arc::new(defects),
            ..self
        }
    }

    /// Power fails where `cut` says.
    pub fn cut_at(&mut self, cut: Option<Cut>) {
        self.cut = cut;
    }

    /// This very power supply, to be cut from elsewhere.
    pub fn power(&self) -> Power {
        Power(Arc::clone(&self.power.0))
    }

    /// Power comes back; contents are as the cut left them.
    pub fn power_on(&mut self) {
        (self.power, self.cut) = (Power::on(), None);
    }

    /// Program and erase operations so far.
    pub fn operations(&self) -> u64 {
        self.operations
    }

    /// What was done so far.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Erases of each sector.
    pub fn wear(&self) -> &[u32] {
        &self.wear
    }

    /// Keeps a snapshot before every operation from now on.
    pub fn record(&mut self) {
        self.record = Some(Vec::new());
    }

    /// The snapshots kept since [`Nor::record`], which ends.
    pub fn recorded(&mut self) -> Vec<Snapshot<WRITE, ERASE>> {
        self.record.take().unwrap_or_default()
    }

    /// SHA-256 over everything that can be read.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for sector in &self.sectors {
            hash.update(sector.digest());
        }
        hash.finalize().into()
    }

    /// Bit rot: flips one bit.
    pub fn flip(&mut self, address: u32, bit: u8) {
        let (sector, offset) = split::<ERASE>(address);
        let sector = Arc::make_mut(&mut self.sectors[sector]);
        sector.bytes[offset] ^= 1 << (bit % 8);
        sector.digest = OnceLock::new();
    }

    /// Puts garbage, or a hostile image, in the place of what is there.
    pub fn overwrite(&mut self, address: u32, bytes: &[u8]) {
        for (at, byte) in (address..).zip(bytes) {
            let (sector, offset) = split::<ERASE>(at);
            let sector = Arc::make_mut(&mut self.sectors[sector]);
            sector.bytes[offset] = *byte;
            sector.digest = OnceLock::new();
        }
    }

    /// The flash as a cut in `snapshot`'s operation leaves it, with the power back on.
    pub fn torn(snapshot: &Snapshot<WRITE, ERASE>, torn: u32, seed: u64) -> Self {
        let mut flash = snapshot.before.clone();
        flash.apply(&snapshot.operation, Some((torn, seed)));
        flash.power_on();
        flash
    }

    /// Does an operation, or has it cut.
    fn perform(&mut self, operation: Operation) -> Result<(), FlashError> {
        if !self.power.is_on() {
            return Err(FlashError::PowerOff);
        }
        let address = match operation {
            Operation::Program { address, .. } | Operation::Erase { address } => address,
        };
        let (sector, offset) = split::<ERASE>(address);
        if self.defects.failing_sectors.contains(&(sector as u32)) {
            return Err(FlashError::BadSector(address));
        }
        if let Operation::Program { bytes, .. } = &operation
            && self.ecc
        {
            let words = offset / WRITE..(offset + bytes.len()) / WRITE;
            let programmed = &self.sectors[sector].programmed;
            if let Some(word) = words
                .into_iter()
                .find(|w| programmed.contains(&(*w as u32)))
            {
                let at = sector * ERASE + word * WRITE;
                return Err(FlashError::WrittenTwice(at as u32));
            }
        }
        if let Some(mut record) = self.record.take() {
            let before = self.clone();
            record.push(Snapshot {
                before,
                operation: operation.clone(),
            });
            self.record = Some(record);
        }
        let cut = self.cut.filter(|cut| cut.operation == self.operations);
        self.operations += 1;
        match &operation {
            Operation::Program { bytes, .. } => {
                self.counters.programs += 1;
                self.counters.programmed_bytes += bytes.len() as u64;
            }
            Operation::Erase { .. } => {
                self.counters.erases += 1;
                self.wear[sector] += 1;
            }
        }
        self.apply(&operation, cut.map(|cut| (cut.torn, cut.seed)));
        if cut.is_some() {
            self.power.off();
            return Err(FlashError::PowerOff);
        }
        Ok(())
    }

    fn apply(&mut self, operation: &Operation, torn: Option<(u32, u64)>) {
        let (address, length) = match operation {
            Operation::Program { address, bytes } => (*address, bytes.len()),
            Operation::Erase { address } => (*address, ERASE),
        };
        let (index, offset) = split::<ERASE>(address);
        let sector = Arc::make_mut(&mut self.sectors[index]);
        sector.digest = OnceLock::new();
        let before = sector.bytes[offset..offset + length].to_vec();
        let after: Vec<u8> = match operation {
            Operation::Program { bytes, .. } => {
                before.iter().zip(bytes).map(|(a, b)| a & b).collect()
            }
            Operation::Erase { .. } => vec![0xff; length],
        };
        let mut now = match torn {
            None => after.clone(),
            Some((torn, seed)) => between(&before, &after, operation, torn, seed),
        };
        for &(at, mask) in &self.defects.stuck_bits {
            if let Some(byte) = at
                .checked_sub(address)
                .and_then(|at| now.get_mut(at as usize))
            {
                *byte &= !mask;
            }
        }
        if self.ecc {
            let erased = matches!(operation, Operation::Erase { .. });
            for (word, bytes) in (offset / WRITE..).zip(now.chunks(WRITE)) {
                let at = (word * WRITE - offset)..(word * WRITE - offset + bytes.len());
                let number = word as u32;
                let (is_old, is_new) = (*bytes == before[at.clone()], *bytes == after[at]);
                // What is neither the old nor the new word has check bits that fit neither.
                match (is_new, is_old) {
                    (true, _) => {
                        sector.torn.remove(&number);
                        if erased {
                            sector.programmed.remove(&number);
                        } else {
                            sector.programmed.insert(number);
                        }
                    }
                    (false, true) => {}
                    (false, false) => {
                        sector.torn.insert(number);
                        sector.programmed.insert(number);
                    }
                }
            }
        }
        sector.bytes[offset..offset + length].copy_from_slice(&now);
    }
}

/// The in-between state `torn` of an operation on the way from `before` to `after`. Bits only move as the operation moves them, except that some parts program a
/// sector to zeros before they erase it, and that an erase cut early may leave any level.
fn between(before: &[u8], after: &[u8], operation: &Operation, torn: u32, seed: u64) -> Vec<u8> {
    let mut random = ChaCha8Rng::seed_from_u64(seed ^ u64::from(torn) << 32);
    let length = before.len();
    let upto = |end: usize| [&after[..end], &before[end..]].concat();
    // Each bit on its own is where it was or where it goes.
    let mixed = |random: &mut ChaCha8Rng, share: f64, from: usize| -> Vec<u8> {
        let mut bytes = upto(from);
        for (byte, to) in bytes[from..].iter_mut().zip(&after[from..]) {
            let mask = (0..8).fold(0u8, |m, bit| m | u8::from(random.random_bool(share)) << bit);
            *byte = (*byte & !mask) | (*to & mask);
        }
        bytes
    };
    let erase = matches!(operation, Operation::Erase { .. });
    match torn {
        0 => before.to_vec(),
        1 => after.to_vec(),
        // The first bytes: one, half a word, most of it; then fractions.
        2 => upto(1.min(length)),
        3 => upto(2.min(length)),
        4 => upto(7.min(length)),
        5 => upto(length / 4),
        6 => upto(length / 2),
        7 => upto(length * 3 / 4 / 4 * 4),
        8 => upto(length - 1),
        // The last bytes before the first.
        9 => [&before[..length / 2], &after[length / 2..]].concat(),
        10 => [&before[..1], &after[1..]].concat(),
        11 => mixed(&mut random, 0.1, 0),
        12 => mixed(&mut random, 0.5, 0),
        13 => mixed(&mut random, 0.97, 0),
        14 => mixed(&mut random, 0.5, random_place(seed, length)),
        // Every second word of four bytes.
        15 => {
            let mut bytes = before.to_vec();
            for (word, to) in bytes.chunks_mut(4).zip(after.chunks(4)).step_by(2) {
                word.copy_from_slice(to);
            }
            bytes
        }
        16 if erase => vec![0; length],
        17 if erase => {
            let mut bytes = vec![0; length];
            random.fill_bytes(&mut bytes);
            // Blank at both ends, as a half-erased sector may look to a program that reads its markers only.
            let margin = length / 64;
            bytes[..margin].fill(0xff);
            bytes[length - margin..].fill(0xff);
            bytes
        }
        16 => mixed(&mut random, 0.5, length - (length / 16).max(1)),
        _ => mixed(&mut random, 0.8, length / 2),
    }
}

fn random_place(seed: u64, length: usize) -> usize {
    ChaCha8Rng::seed_from_u64(!seed).random_range(0..length)
}

fn split<const ERASE: usize>(address: u32) -> (usize, usize) {
    (address as usize / ERASE, address as usize % ERASE)
}

impl<const WRITE: usize, const ERASE: usize> ErrorType for Nor<WRITE, ERASE> {
    type Error = FlashError;
}

impl<const WRITE: usize, const ERASE: usize> ReadNorFlash for Nor<WRITE, ERASE> {
    const READ_SIZE: usize = 1;

    fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), FlashError> {
        check_read(self, offset, bytes.len()).map_err(FlashError::Range)?;
        if !self.power.is_on() {
            return Err(FlashError::PowerOff);
        }
        self.counters.read_bytes += bytes.len() as u64;
        let (mut from, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let (index, start) = split::<ERASE>(from);
            let (now, later) = rest.split_at_mut(rest.len().min(ERASE - start));
            let sector = &self.sectors[index];
            let words = (start / WRITE) as u32..=((start + now.len() - 1) / WRITE) as u32;
            if let Some(word) = sector.torn.range(words).next() {
                let at = index * ERASE + *word as usize * WRITE;
                return Err(FlashError::Ecc(at as u32));
            }
            now.copy_from_slice(&sector.bytes[start..start + now.len()]);
            from += now.len() as u32;
            rest = later;
        }
        Ok(())
    }

    fn capacity(&self) -> usize {
        self.sectors.len() * ERASE
    }
}

impl<const WRITE: usize, const ERASE: usize> NorFlash for Nor<WRITE, ERASE> {
    const WRITE_SIZE: usize = WRITE;
    const ERASE_SIZE: usize = ERASE;

    fn erase(&mut self, from: u32, to: u32) -> Result<(), FlashError> {
        check_erase(self, from, to).map_err(FlashError::Range)?;
        (from..to)
            .step_by(ERASE)
            .try_for_each(|address| self.perform(Operation::Erase { address }))
    }

    fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), FlashError> {
        check_write(self, offset, bytes.len()).map_err(FlashError::Range)?;
        let (mut address, mut rest) = (offset, bytes);
        while !rest.is_empty() {
            let in_page = PAGE_BYTES - address as usize % PAGE_BYTES;
            let (now, later) = rest.split_at(rest.len().min(in_page));
            self.perform(Operation::Program {
                address,
                bytes: now.to_vec(),
            })?;
            address += now.len() as u32;
            rest = later;
        }
        Ok(())
    }
}
