//! Why a device keeps its record by itself (`swr_update::record`): the same records, the same cuts, in well-known stores.
//!
//! Eight records are written one after the other. Every program and erase operation of ours, some of the others', is cut, and leaves each in-between state; then the store must give the last
//! record that was acknowledged, or the one under way, and must take further ones. `SWR_ALL=1 cargo test -p swr-firmware-sim --test stores -- --nocapture` cuts all
//! and prints the counts.

use ekv::flash::PageID;
use embassy_futures::block_on;
use embassy_sync::blocking_mutex::raw::NoopRawMutex;
use embedded_storage::nor_flash::{NorFlash as _, ReadNorFlash as _};
use sequential_storage::cache::Cache;
use sequential_storage::map::{MapConfig, MapStorage};
use swr_firmware_sim::flash::{Defects, FlashError, Nor, TORN_STATES};
use swr_update::record;

/// The part with single bytes, which all stores take.
type Flash = Nor<1, 4_096>;
const RECORDS: u8 = 8;

/// A place for one record.
trait Store<const W: usize, const E: usize> {
    const SECTORS: usize;
    fn format(_flash: &mut Nor<W, E>) {}
    /// Whether the record was acknowledged.
    fn write(flash: &mut Nor<W, E>, number: u64, record: &[u8]) -> bool;
    fn read(flash: &mut Nor<W, E>) -> Option<Vec<u8>>;
}

/// About as long as a device's record with ten languages.
fn record_of(number: u8) -> Vec<u8> {
    (0..900u32).map(|at| (at * 7) as u8 ^ number).collect()
}

struct Ours;

impl<const W: usize, const E: usize> Store<W, E> for Ours {
    const SECTORS: usize = record::RECORD_SECTORS as usize;

    fn write(flash: &mut Nor<W, E>, number: u64, record: &[u8]) -> bool {
        record::write(flash, number, record)
    }

    fn read(flash: &mut Nor<W, E>) -> Option<Vec<u8>> {
        record::newest(flash).map(|(version, _)| version.record)
    }
}

struct SequentialStorage;

/// What is synchronous here, as `embedded-storage-async` wants it.
struct Async<'a, const W: usize, const E: usize>(&'a mut Nor<W, E>);

impl<const W: usize, const E: usize> embedded_storage_async::nor_flash::ErrorType
    for Async<'_, W, E>
{
    type Error = FlashError;
}

impl<const W: usize, const E: usize> embedded_storage_async::nor_flash::ReadNorFlash
    for Async<'_, W, E>
{
    const READ_SIZE: usize = 1;

    async fn read(&mut self, offset: u32, bytes: &mut [u8]) -> Result<(), FlashError> {
        self.0.read(offset, bytes)
    }

    fn capacity(&self) -> usize {
        self.0.capacity()
    }
}

impl<const W: usize, const E: usize> embedded_storage_async::nor_flash::NorFlash
    for Async<'_, W, E>
{
    const WRITE_SIZE: usize = W;
    const ERASE_SIZE: usize = E;

    async fn erase(&mut self, from: u32, to: u32) -> Result<(), FlashError> {
        self.0.erase(from, to)
    }

    async fn write(&mut self, offset: u32, bytes: &[u8]) -> Result<(), FlashError> {
        self.0.write(offset, bytes)
    }
}

impl<const W: usize, const E: usize> Store<W, E> for SequentialStorage {
    const SECTORS: usize = 4;

    fn write(flash: &mut Nor<W, E>, _number: u64, record: &[u8]) -> bool {
        let config = MapConfig::new(0..4 * E as u32);
        let mut map = MapStorage::<u8, _, _>::new(Async(flash), config, Cache::new_uncached());
        let mut buffer = [0; 2_048];
        block_on(map.store_item(&mut buffer, &1, &record)).is_ok()
    }

    fn read(flash: &mut Nor<W, E>) -> Option<Vec<u8>> {
        let config = MapConfig::new(0..4 * E as u32);
        let mut map = MapStorage::<u8, _, _>::new(Async(flash), config, Cache::new_uncached());
        let mut buffer = [0; 2_048];
        let found = block_on(map.fetch_item::<&[u8]>(&mut buffer, &1)).ok()??;
        Some(found.to_vec())
    }
}

struct Ekv;

struct Pages<'a>(&'a mut Flash);

impl ekv::flash::Flash for Pages<'_> {
    type Error = FlashError;

    fn page_count(&self) -> usize {
        <Ekv as Store<1, 4_096>>::SECTORS
    }

    async fn erase(&mut self, page: PageID) -> Result<(), FlashError> {
        let from = page.index() as u32 * 4_096;
        self.0.erase(from, from + 4_096)
    }

    async fn read(
        &mut self,
        page: PageID,
        offset: usize,
        bytes: &mut [u8],
    ) -> Result<(), FlashError> {
        self.0.read((page.index() * 4_096 + offset) as u32, bytes)
    }

    async fn write(&mut self, page: PageID, offset: usize, bytes: &[u8]) -> Result<(), FlashError> {
        self.0.write((page.index() * 4_096 + offset) as u32, bytes)
    }
}

impl Ekv {
    fn database<'a>(flash: &'a mut Flash) -> ekv::Database<Pages<'a>, NoopRawMutex> {
        ekv::Database::new(Pages(flash), ekv::Config::default())
    }
}

impl Store<1, 4_096> for Ekv {
    const SECTORS: usize = 32;

    fn format(flash: &mut Flash) {
        block_on(Self::database(flash).format()).expect("a flash that works");
    }

    fn write(flash: &mut Flash, _number: u64, record: &[u8]) -> bool {
        let database = Self::database(flash);
        block_on(async {
            if database.mount().await.is_err() {
                return false;
            }
            let mut transaction = database.write_transaction().await;
            transaction.write(b"record", record).await.is_ok() && transaction.commit().await.is_ok()
        })
    }

    fn read(flash: &mut Flash) -> Option<Vec<u8>> {
        let database = Self::database(flash);
        block_on(async {
            database.mount().await.ok()?;
            let mut buffer = [0; 1_024];
            let transaction = database.read_transaction().await;
            let length = transaction.read(b"record", &mut buffer).await.ok()?;
            Some(buffer[..length].to_vec())
        })
    }
}

#[derive(Debug, Default, PartialEq)]
struct Counts {
    operations: usize,
    torn: usize,
    /// The last acknowledged record was gone, and no newer one there.
    lost: usize,
    /// Nothing, or something else, was read.
    unreadable: usize,
    /// No record was taken any more.
    stuck: usize,
    panicked: usize,
}

/// Cuts one in `every` operations.
fn sweep<S: Store<W, E>, const W: usize, const E: usize>(every: usize) -> Counts {
    let mut flash = Nor::<W, E>::new(S::SECTORS, W > 1);
    S::format(&mut flash);
    assert!(S::write(&mut flash, 1, &record_of(0)), "the first record");
    flash.record();
    let (mut ends, start) = (Vec::new(), flash.operations());
    for number in 1..=RECORDS {
        assert!(S::write(
            &mut flash,
            u64::from(number) + 1,
            &record_of(number)
        ));
        ends.push((flash.operations() - start) as usize);
    }
    assert_eq!(S::read(&mut flash), Some(record_of(RECORDS)));
    let mut counts = Counts::default();
    for (operation, snapshot) in flash.recorded().iter().enumerate().step_by(every) {
        counts.operations += 1;
        let under_way = ends.partition_point(|end| *end <= operation) as u8 + 1;
        for torn in 0..TORN_STATES {
            counts.torn += 1;
            let seen = std::panic::catch_unwind(|| {
                let mut flash = Nor::torn(snapshot, torn, operation as u64);
                let found = S::read(&mut flash);
                // As many more as bring every sector into use.
                let taken = (100..100 + 2 * S::SECTORS as u64).all(|number| {
                    let another = record_of(number as u8);
                    S::write(&mut flash, number, &another) && S::read(&mut flash) == Some(another)
                });
                (found, taken)
            });
            let Ok((found, taken)) = seen else {
                counts.panicked += 1;
                continue;
            };
            let known = (0..=RECORDS).find(|number| found == Some(record_of(*number)));
            match known {
                Some(number) if number == under_way || number + 1 == under_way => {}
                Some(_) => counts.lost += 1,
                None => counts.unreadable += 1,
            }
            counts.stuck += usize::from(!taken);
        }
    }
    counts
}

/// A sector that fails from now on, each in turn: how often a record is not taken or the last one gone.
fn failing_sectors<S: Store<1, 4_096>>() -> usize {
    let failed = |sector: &u32| {
        let mut flash = Flash::new(S::SECTORS, false);
        S::format(&mut flash);
        assert!(S::write(&mut flash, 1, &record_of(1)));
        let mut flash = flash.with_defects(Defects {
            failing_sectors: [*sector].into(),
            ..Defects::default()
        });
        !(2..40).all(|number| {
            let record = record_of(number as u8);
            S::write(&mut flash, number, &record) && S::read(&mut flash) == Some(record)
        })
    };
    (0..S::SECTORS as u32).filter(failed).count()
}

/// A bit of the newest record that tips over: whether another one than the last comes out.
fn rotten_bits<S: Store<1, 4_096>>() -> usize {
    let mut flash = Flash::new(S::SECTORS, false);
    S::format(&mut flash);
    for number in 1..=5 {
        assert!(S::write(&mut flash, number, &record_of(number as u8)));
    }
    let bytes = S::SECTORS as u32 * 4_096;
    let rotten = |at: &u32| {
        let mut flash = flash.clone();
        flash.flip(*at, (*at % 8) as u8);
        S::read(&mut flash) != Some(record_of(5))
    };
    (0..bytes).step_by(37).filter(rotten).count()
}

#[test]
fn the_record_survives_every_cut_and_every_fault() {
    let clean = |counts: &Counts| {
        counts.operations > 50
            && *counts
                == Counts {
                    operations: counts.operations,
                    torn: counts.torn,
                    ..Counts::default()
                }
    };
    let (plain, ecc) = (sweep::<Ours, 1, 4_096>(1), sweep::<Ours, 16, 8_192>(1));
    let faults = (failing_sectors::<Ours>(), rotten_bits::<Ours>());
    eprintln!("ours: {plain:?}, ECC {ecc:?}, failing sectors and rotten bits {faults:?}");
    assert!(clean(&plain) && clean(&ecc));
    assert_eq!(faults, (0, 0));
}

/// If this fails because a store has become clean, it could take the place of our own.
#[test]
fn other_stores_do_not() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    // All of them with SWR_ALL=1, in some twenty seconds.
    let every = if std::env::var_os("SWR_ALL").is_some() {
        1
    } else {
        11
    };
    let plain = sweep::<SequentialStorage, 1, 4_096>(every);
    let ecc = sweep::<SequentialStorage, 16, 8_192>(every);
    let faults = (
        failing_sectors::<SequentialStorage>(),
        rotten_bits::<SequentialStorage>(),
    );
    eprintln!(
        "sequential-storage: {plain:?}, ECC {ecc:?}, failing sectors and rotten bits {faults:?}"
    );
    let ekv = sweep::<Ekv, 1, 4_096>(every);
    let ekv_faults = (failing_sectors::<Ekv>(), rotten_bits::<Ekv>());
    eprintln!("ekv: {ekv:?}, failing sectors and rotten bits {ekv_faults:?}");
    std::panic::set_hook(hook);
    // Without ECC, sequential-storage keeps its promise; with it, a torn word is a read error that it passes on for ever.
    let plain_failures = plain.lost + plain.unreadable + plain.stuck + plain.panicked;
    assert_eq!(plain_failures, 0);
    assert!(ecc.unreadable > 0 && faults.0 > 0 && faults.1 > 0);
    assert!(ekv.unreadable > 0 && ekv_faults.0 > 0 && ekv_faults.1 > 0);
}
