//! Devices by name: what keeps their models, how much memory and clock they have, and where these numbers are from.

/// What keeps a device's models.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// NOR flash: bytes of a write word, bytes of a sector, number of sectors, whether words have ECC.
    Nor {
        /// Bytes of a write word.
        word_bytes: usize,
        /// Bytes of a sector.
        sector_bytes: usize,
        /// Sectors that hold models; the rest is the program's.
        sectors: usize,
        /// Whether a word is programmed once and unreadable when torn.
        ecc: bool,
        /// Erases that a sector bears.
        endurance: u32,
    },
    /// Files on an SD card.
    Card,
}

/// The processor whose instructions stand for a device's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processor {
    /// 64 bits, NEON.
    Aarch64,
    /// 32 bits, without NEON; also in place of the Cortex-M33, which has most of its instructions, but computes in f32 only.
    Armv7,
}

/// A device.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Device {
    /// Name for the command line.
    pub name: &'static str,
    /// What it is.
    pub about: &'static str,
    /// What keeps its models.
    pub storage: Storage,
    /// Memory for data.
    pub ram_bytes: u64,
    /// Whose instructions its core runs.
    pub processor: Processor,
    /// Clock of the core that listens.
    pub clock_hz: u64,
    /// Where these numbers are from.
    pub source: &'static str,
}

const MIB: u64 = 1 << 20;

/// All devices.
pub const DEVICES: [Device; 6] = [
    Device {
        name: "pico2",
        about: "Raspberry Pi Pico 2: RP2350, Cortex-M33, 4 MB of QSPI NOR (W25Q32RV), of which 2 MB hold models",
        storage: Storage::Nor {
            word_bytes: 1,
            sector_bytes: 4_096,
            sectors: 512,
            ecc: false,
            endurance: 100_000,
        },
        ram_bytes: 520 * 1024,
        processor: Processor::Armv7,
        clock_hz: 150_000_000,
        source: "RP2350 datasheet, section 1 (520 kB SRAM, 150 MHz); W25Q32RV datasheet, section 1 (4 kB sectors, 256-byte pages, 100,000 cycles)",
    },
    Device {
        name: "stm32u5",
        about: "STM32U5G9: Cortex-M33, 4 MB of internal flash, of which one bank of 2 MB holds models; words of 16 bytes with ECC",
        storage: Storage::Nor {
            word_bytes: 16,
            sector_bytes: 8_192,
            sectors: 256,
            ecc: true,
            endurance: 10_000,
        },
        ram_bytes: 3_026 * 1024,
        processor: Processor::Armv7,
        clock_hz: 160_000_000,
        source: "STM32U5 reference manual RM0456, section 7.3 (8 kB pages, quad-words of 128 bits with 9 bits of ECC); STM32U5G9 datasheet DS14217 (3,026 kB SRAM, 160 MHz, 10,000 cycles)",
    },
    Device {
        name: "pi-zero-2w",
        about: "Raspberry Pi Zero 2 W: Cortex-A53, 512 MB, SD card",
        storage: Storage::Card,
        ram_bytes: 512 * MIB,
        processor: Processor::Aarch64,
        clock_hz: 1_000_000_000,
        source: "Raspberry Pi Zero 2 W product brief",
    },
    Device {
        name: "pi-3",
        about: "Raspberry Pi 3 Model B+: Cortex-A53, 1 GB, SD card",
        storage: Storage::Card,
        ram_bytes: 1_024 * MIB,
        processor: Processor::Aarch64,
        clock_hz: 1_400_000_000,
        source: "Raspberry Pi 3 Model B+ product brief",
    },
    Device {
        name: "pi-4",
        about: "Raspberry Pi 4 Model B: Cortex-A72, 1 to 8 GB (here 1), SD card",
        storage: Storage::Card,
        ram_bytes: 1_024 * MIB,
        processor: Processor::Aarch64,
        clock_hz: 1_800_000_000,
        source: "Raspberry Pi 4 Model B product brief (1.8 GHz)",
    },
    Device {
        name: "pi-5",
        about: "Raspberry Pi 5: Cortex-A76, 2 to 16 GB (here 2), SD card",
        storage: Storage::Card,
        ram_bytes: 2_048 * MIB,
        processor: Processor::Aarch64,
        clock_hz: 2_400_000_000,
        source: "Raspberry Pi 5 product brief",
    },
];
