//! The program `swr-sim`: arguments come in, results go to the writer given (standard output), talk goes to standard error.
//! Exit codes: 0 nothing broke, 1 a device broke, 2 an error.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use swr_core::package::PublicKey;

use crate::card;
use crate::cuts::{Extent, Swept};
use crate::device::{DEVICES, Device, Storage};
use crate::flash::TORN_STATES;
use crate::fleet::{Lab, Plan, plot, roll_out};
use crate::page::{Section, page};
use crate::publisher::{Catalogue, Packages};
use crate::report::{ENERGY, TIMES, costs};
use crate::scenario::{self, Scenario};
use crate::sweep::{Part, sweep};

/// Simulated devices: power cuts and bad bytes, updates, and what models cost
#[derive(Debug, Parser)]
#[command(
    name = "swr-sim",
    version,
    after_help = "Exit codes: 0 nothing broke, 1 a device broke, 2 error."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The devices that are simulated, with the sources of their numbers
    Devices,
    /// The scenarios, and what each shows
    Scenarios,
    /// What models cost on each device: storage, bytes over the air, wear, memory
    Costs(CostsArguments),
    /// Roll out a good release and a bad one over a fleet
    Fleet(Fleet),
    /// Cut the power in every operation of one scenario
    Run(Run),
    /// Cut the power in every operation of every scenario
    Update(Update),
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  swr-sim costs --languages 20
  swr-sim costs --device pico2 --json

With more languages than the folder has, theirs stand for the others, so that sizes are those of real deltas.")]
struct CostsArguments {
    #[command(flatten)]
    devices: Devices,
    /// Languages beside the base
    #[arg(long, value_name = "N", default_value_t = 4)]
    languages: usize,
    /// One JSON object a device
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    models: ModelsFolder,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  swr-sim fleet --devices 10000 --languages 20 --loss 5%
  swr-sim fleet --plot fleet.svg             curves for fleets of 1,000 to 10,000,000

Stages of 1, 10, 50 and 100 %; the next one opens when 90 % of the devices of a stage have reported, and a release is halted when more than 2 % of the reports are of
failed trials. Each device asks once an hour and has one language beside the base.")]
struct Fleet {
    /// Devices
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    devices: u64,
    /// Languages among which they are divided
    #[arg(long, value_name = "N", default_value_t = 20)]
    languages: usize,
    /// Share of updates in which link or power fails
    #[arg(long, value_name = "P%", default_value = "5%", value_parser = share)]
    loss: f64,
    /// What the server sends, in megabits per second
    #[arg(long, value_name = "N", default_value_t = 10.0)]
    server_mbit: f64,
    /// Draws which devices fail, where and how
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write a plot of fleets of 1,000 to 10,000,000 devices
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// One JSON object a release
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    models: ModelsFolder,
}

fn share(typed: &str) -> Result<f64, String> {
    let number = typed.trim_end_matches('%').parse::<f64>();
    match number.map(|percent| percent / 100.0) {
        Ok(share) if (0.0..1.0).contains(&share) => Ok(share),
        _ => Err("expected a share from 0% to below 100%".into()),
    }
}

/// Which devices.
#[derive(Debug, Args)]
struct Devices {
    /// Devices, with commas between, or `all`
    #[arg(long, value_name = "D", default_value = "all", value_delimiter = ',')]
    device: Vec<String>,
}

/// Where models come from.
#[derive(Debug, Args)]
struct ModelsFolder {
    /// Folder with base, deltas and golden clips
    #[arg(long, value_name = "DIR", default_value = "models/small")]
    models: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  swr-sim run new-base
  swr-sim run languages --device pico2 --json")]
struct Run {
    /// Name of the scenario; `swr-sim scenarios` lists them
    scenario: String,
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  swr-sim update --device all --cut every --json
  swr-sim update --device pico2 --html cuts.html
  swr-sim update --cut 10 --torn 4           every tenth operation, four in-between states of each

The last line of --json sums up: cuts, torn flashes, and what broke.")]
struct Update {
    #[command(flatten)]
    how: How,
}

#[derive(Debug, Args)]
struct How {
    #[command(flatten)]
    devices: Devices,
    /// Cut `every` operation, or every N-th
    #[arg(long, value_name = "N", default_value = "every", value_parser = every)]
    cut: usize,
    /// In-between states that each cut leaves, at most 18
    #[arg(long, value_name = "N", default_value_t = TORN_STATES, value_parser = clap::value_parser!(u32).range(1..=i64::from(TORN_STATES)))]
    torn: u32,
    /// Draws the bits of in-between states
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write a page with a map of every cut and what came of it
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// One JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    models: ModelsFolder,
}

fn every(typed: &str) -> Result<usize, String> {
    match typed {
        "every" => Ok(1),
        number => match number.parse() {
            Ok(number) if number > 0 => Ok(number),
            _ => Err("expected `every` or a number from 1".into()),
        },
    }
}

/// Runs the program on `arguments`, whose first is the program's name. Gives the exit code.
pub fn run<I>(arguments: I, out: &mut dyn Write) -> u8
where
    I: IntoIterator,
    I::Item: Into<OsString> + Clone,
{
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { 2 } else { 0 };
            // Nobody is there to be told if this fails.
            let _ = error.print();
            return code;
        }
    };
    let done = match &cli.command {
        Command::Devices => devices(out).map(|()| true),
        Command::Scenarios => scenarios(out).map(|()| true),
        Command::Costs(costs) => costs.run(out).map(|()| true),
        Command::Fleet(fleet) => fleet.run(out),
        Command::Run(run) => run.run(out),
        Command::Update(update) => update.how.run(&scenario::all(), out),
    };
    match done {
        Ok(true) => 0,
        Ok(false) => 1,
        // Whoever read the output has seen enough.
        Err(error)
            if error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe) =>
        {
            0
        }
        Err(error) => {
            eprintln!("swr-sim: {error:#}");
            2
        }
    }
}

fn devices(out: &mut dyn Write) -> Result<()> {
    for device in DEVICES {
        writeln!(out, "{:<12} {}", device.name, device.about)?;
        writeln!(out, "{:<12} source: {}", "", device.source)?;
    }
    Ok(())
}

fn scenarios(out: &mut dyn Write) -> Result<()> {
    for scenario in scenario::all() {
        writeln!(out, "{:<16} {}", scenario.name, scenario.about)?;
    }
    Ok(())
}

impl Run {
    fn run(&self, out: &mut dyn Write) -> Result<bool> {
        let mut scenarios = scenario::all();
        let names: Vec<&str> = scenarios.iter().map(|scenario| scenario.name).collect();
        if !names.contains(&self.scenario.as_str()) {
            bail!(
                "no scenario `{}`; there are {}",
                self.scenario,
                names.join(", ")
            );
        }
        scenarios.retain(|scenario| scenario.name == self.scenario);
        self.how.run(&scenarios, out)
    }
}

/// A scenario on a device; a line of `--json`.
#[derive(Serialize)]
struct Line<'a> {
    device: &'a str,
    scenario: &'a str,
    #[serde(flatten)]
    swept: &'a Swept,
}

/// Sweeps a scenario on a device's kind of storage.
fn sweep_on(
    device: &Device,
    scenario: &Scenario,
    packages: &Packages,
    key: &PublicKey,
    extent: &Extent,
) -> Result<Swept> {
    let Storage::Nor {
        word_bytes,
        sector_bytes,
        sectors,
        ecc,
        ..
    } = device.storage
    else {
        return card::sweep(scenario, packages, key, extent, false);
    };
    let part = Part { sectors, ecc };
    match (word_bytes, sector_bytes) {
        (1, 4_096) => sweep::<1, 4_096>(scenario, packages, key, &part, extent, None),
        (16, 8_192) => sweep::<16, 8_192>(scenario, packages, key, &part, extent, None),
        _ => bail!("{}: no flash of this kind is simulated", device.name),
    }
}

impl Devices {
    fn find(&self) -> Result<Vec<Device>> {
        if self.device == ["all"] {
            return Ok(DEVICES.to_vec());
        }
        let find = |name: &String| {
            let device = DEVICES.iter().find(|device| device.name == name);
            device.copied().with_context(|| {
                let names: Vec<&str> = DEVICES.iter().map(|device| device.name).collect();
                format!("no device `{name}`; there are {}", names.join(", "))
            })
        };
        self.device.iter().map(find).collect()
    }
}

impl CostsArguments {
    fn run(&self, out: &mut dyn Write) -> Result<()> {
        let catalogue = Catalogue::open(&self.models.models)?;
        for device in self.devices.find()? {
            let costs = costs(&device, &catalogue, self.languages)?;
            if self.json {
                writeln!(out, "{}", serde_json::to_string(&costs)?)?;
                continue;
            }
            let kib = |bytes: u64| bytes as f64 / 1024.0;
            let room = match costs.storage_bytes {
                Some(room) => format!("of {:.0} KiB", kib(room)),
                None => "on a card".into(),
            };
            writeln!(
                out,
                "{}: base and {} languages",
                device.name, costs.languages
            )?;
            writeln!(
                out,
                "  storage   {:>9.1} KiB {room}; as whole networks {:.1} KiB, {:.1} times as much",
                kib(costs.occupied_bytes),
                kib(costs.whole_models_bytes),
                costs.whole_models_bytes as f64 / costs.occupied_bytes as f64
            )?;
            writeln!(
                out,
                "  over air  {:>9} B for a language (a whole network {} B), {} B for a new base with all languages",
                costs.language_update_bytes,
                costs.whole_model_update_bytes,
                costs.base_update_bytes
            )?;
            writeln!(
                out,
                "  memory    {:>9.1} KiB to load a language, {:.1} in a trial, {:.1} while it listens; the device has {:.0}",
                kib(costs.load_peak_bytes),
                kib(costs.trial_peak_bytes),
                kib(costs.loaded_bytes),
                kib(costs.ram_bytes)
            )?;
            let times = costs.times;
            writeln!(
                out,
                "  time      {:>9.0} ms from the program's start to a language that listens: verifying {:.0}, merging {:.0}; {:.0} for its trial after an update; {:.1} % of the time a second of audio takes",
                times.boot_ms,
                times.verify_ms,
                times.merge_ms,
                times.trial_ms,
                100.0 * times.real_time_factor
            )?;
            if let Some(wear) = &costs.wear {
                writeln!(
                    out,
                    "  wear      {:>9} erases of the most worn sector in a year of weekly updates, {:.0} years to the data sheet's limit; {:.1} mJ an update",
                    wear.most_erases, wear.years, wear.update_millijoule
                )?;
            }
        }
        if !self.json {
            writeln!(out, "{TIMES}\nenergy: {ENERGY}")?;
        }
        Ok(())
    }
}

impl Fleet {
    fn plan(&self, devices: u64) -> Plan {
        Plan {
            devices,
            languages: self.languages,
            loss: self.loss,
            server_bytes_per_s: self.server_mbit * 1e6 / 8.0,
            seed: self.seed,
        }
    }

    fn run(&self, out: &mut dyn Write) -> Result<bool> {
        let catalogue = Catalogue::open(&self.models.models)?;
        let mut lab = Lab::new(&catalogue)?;
        let rollouts = roll_out(&self.plan(self.devices), &catalogue, &mut lab)?;
        for rollout in &rollouts {
            if self.json {
                writeln!(out, "{}", serde_json::to_string(rollout)?)?;
                continue;
            }
            writeln!(
                out,
                "{} release: {} h{}; new {}, old {}, went back {}, bricked {}; {} updates cut; {:.1} MB sent, as whole networks {:.1}; {} different updates run",
                rollout.release,
                rollout.hours,
                if rollout.halted {
                    ", then halted by its trials"
                } else {
                    ""
                },
                rollout.new,
                rollout.old,
                rollout.reverted,
                rollout.bricked,
                rollout.interrupted,
                rollout.bytes as f64 / 1e6,
                rollout.whole_model_bytes as f64 / 1e6,
                rollout.updates_run
            )?;
        }
        if let Some(path) = &self.plot {
            let mut curves = Vec::new();
            for exponent in 3..=7 {
                let [good, _] = roll_out(&self.plan(10u64.pow(exponent)), &catalogue, &mut lab)?;
                curves.push(good);
            }
            std::fs::write(path, plot(&curves)?)
                .with_context(|| format!("{}: could not be written", path.display()))?;
            eprintln!("{}: written", path.display());
        }
        let [good, bad] = &rollouts;
        let bricked = good.bricked + bad.bricked;
        Ok(bricked == 0 && !good.halted && bad.halted && bad.new == 0)
    }
}

/// Devices with equal storage fare alike: they are swept once. Their names together, and one of them.
fn alike(devices: &[Device]) -> Vec<(String, Device)> {
    let mut kinds: Vec<(String, Device)> = Vec::new();
    for device in devices {
        match kinds
            .iter_mut()
            .find(|(_, kind)| kind.storage == device.storage)
        {
            Some((names, _)) => names.extend(["/", device.name]),
            None => kinds.push((device.name.into(), *device)),
        }
    }
    kinds
}

impl How {
    fn run(&self, scenarios: &[Scenario], out: &mut dyn Write) -> Result<bool> {
        let devices = alike(&self.devices.find()?);
        let catalogue = Catalogue::open(&self.models.models)?;
        let key = catalogue.public_key()?;
        let packages = Packages::new(&catalogue, scenarios.iter().flat_map(Scenario::items))?;
        let extent = Extent {
            every: self.cut,
            torn_states: self.torn,
            seed: self.seed,
        };
        let mut sum = Swept::default();
        let mut seen = Vec::new();
        let progress = ProgressBar::new((devices.len() * scenarios.len()) as u64).with_style(
            ProgressStyle::with_template("{bar:30} {pos}/{len} {msg} {eta}")?,
        );
        for (names, device) in &devices {
            for scenario in scenarios {
                progress.set_message(format!("{names} {}", scenario.name));
                let swept = sweep_on(device, scenario, &packages, &key, &extent)?;
                let line = Line {
                    device: names,
                    scenario: scenario.name,
                    swept: &swept,
                };
                if self.json {
                    writeln!(out, "{}", serde_json::to_string(&line)?)?;
                } else {
                    writeln!(
                        out,
                        "{:<25} {:<14} {:>5} cuts, {:>6} torn, {:>5} recoveries, {:>5} cut again: woke old {}, new {}; bricked {}, lost {}, wrong model {}",
                        names,
                        scenario.name,
                        swept.cuts,
                        swept.torn,
                        swept.recoveries_run,
                        swept.cut_again,
                        swept.woke_old,
                        swept.woke_new,
                        swept.bricked,
                        swept.lost,
                        swept.wrong_model
                    )?;
                    for finding in &swept.findings {
                        writeln!(
                            out,
                            "  step {}, operation {}, state {}: {:?}: {}",
                            finding.step,
                            finding.operation,
                            finding.torn,
                            finding.failure,
                            finding.what
                        )?;
                    }
                }
                progress.inc(1);
                if self.html.is_some() {
                    seen.push((names, scenario, swept.clone()));
                }
                sum = sum.and(Swept {
                    columns: Vec::new(),
                    ..swept
                });
            }
        }
        progress.finish_and_clear();
        if let Some(path) = &self.html {
            let sections: Vec<Section<'_>> = seen
                .iter()
                .map(|(device, scenario, swept)| Section {
                    device,
                    scenario: scenario.name,
                    about: scenario.about,
                    swept,
                })
                .collect();
            std::fs::write(path, page(&sections))
                .with_context(|| format!("{}: could not be written", path.display()))?;
            eprintln!("{}: written", path.display());
        }
        sum.findings.clear();
        if self.json {
            writeln!(out, "{}", serde_json::to_string(&sum)?)?;
        } else {
            writeln!(
                out,
                "{} cuts, {} torn flashes, {} different ones started, {} golden clips run in trials: {} bricked, {} lost, {} wrong model",
                sum.cuts,
                sum.torn,
                sum.recoveries_run,
                sum.trials_run,
                sum.bricked,
                sum.lost,
                sum.wrong_model
            )?;
        }
        Ok(sum.is_clean())
    }
}
