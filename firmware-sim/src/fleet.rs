//! A fleet that is updated in stages: a good release, then a bad one that its trials halt. Links break and power fails at any operation.
//!
//! Every device is the real update code on a flash of its own. Devices of equal flashes to which the same happens are computed once. Beyond so many, one stands for
//! several: the fleet is planned, its statistics are drawn.

use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use swr_core::package::PublicKey;
use swr_update::{Device, UpdateError};

use crate::flash::{Cut, Nor, TORN_STATES};
use crate::publisher::{Catalogue, Flaw, Item, Package, SHIPPED};

type Flash = Nor<1, 4_096>;
/// Sectors of a device's flash.
const SECTORS: usize = 128;
/// Devices that are simulated one by one; more are stood for.
const MOST_AGENTS: u64 = 20_000;
/// Share of the fleet that each stage opens, until all.
const STAGES: [f64; 4] = [0.01, 0.1, 0.5, 1.0];
/// Share of a stage that must have reported before the next one opens.
const REPORTED: f64 = 0.9;
/// Share of reports of a failed trial that halts a release, from so many reports on.
const MOST_FAILED: f64 = 0.02;
const LEAST_REPORTS: usize = 10;
/// Hours after which a release that has not ended is said to be stuck.
const MOST_HOURS: u32 = 24 * 365;

/// What is planned.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Devices.
    pub devices: u64,
    /// Languages among which they are divided; each has one beside the base.
    pub languages: usize,
    /// Share of updates in which the link breaks or power fails.
    pub loss: f64,
    /// What the server sends, in bytes per second.
    pub server_bytes_per_s: f64,
    /// Draws everything.
    pub seed: u64,
}

/// What came of a release.
#[derive(Clone, Debug, Serialize)]
pub struct Rollout {
    /// `"good"` or `"bad"`.
    pub release: &'static str,
    /// Devices of the fleet.
    pub devices: u64,
    /// Hours until every device had it, or until it was halted.
    pub hours: u32,
    /// Whether failed trials halted it.
    pub halted: bool,
    /// Devices with the models before, which never got it.
    pub old: u64,
    /// Devices with the new models.
    pub new: u64,
    /// Devices that tried it and went back.
    pub reverted: u64,
    /// Devices that run nothing.
    pub bricked: u64,
    /// Updates that were cut.
    pub interrupted: u64,
    /// Bytes that the server sent.
    pub bytes: u64,
    /// The same, had every update been a whole network a language.
    pub whole_model_bytes: u64,
    /// Updates really run, which the lab did not know: different flashes, different cuts.
    pub updates_run: usize,
    /// Devices with the new models at the end of each hour.
    #[serde(skip)]
    pub new_by_hour: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Old,
    New,
    Reverted,
    Bricked,
}

/// What an update made of a flash.
#[derive(Clone, Copy)]
struct After {
    image: usize,
    status: Status,
    bytes: u32,
    /// Erasures and writes that it took.
    operations: u64,
}

/// A package sent to a flash, both by number, and the operation that is cut with the state it leaves.
type Sending = (usize, usize, Option<(u64, u32)>);

/// The real updates, by what they began with: of one folder of models, for as many fleets as one likes.
pub struct Lab {
    keys: [PublicKey; 1],
    images: Vec<Flash>,
    numbers: HashMap<[u8; 32], usize>,
    known: HashMap<Sending, After>,
}

impl Lab {
    /// A lab in which nothing has been updated yet.
    ///
    /// # Errors
    /// If the models have no key.
    pub fn new(catalogue: &Catalogue) -> Result<Self> {
        Ok(Self {
            keys: [catalogue.public_key()?],
            images: Vec::new(),
            numbers: HashMap::new(),
            known: HashMap::new(),
        })
    }

    fn keep(&mut self, flash: Flash) -> usize {
        let images = &mut self.images;
        *self.numbers.entry(flash.digest()).or_insert_with(|| {
            images.push(flash);
            images.len() - 1
        })
    }

    /// Sends a package to a flash, with a cut in the given operation, and starts the device afterwards.
    fn update(
        &mut self,
        image: usize,
        number: usize,
        package: &Package,
        cut: Option<(u64, u32)>,
    ) -> After {
        let key = (image, number, cut);
        if let Some(after) = self.known.get(&key) {
            return *after;
        }
        let mut flash = self.images[image].clone();
        let before = flash.operations();
        flash.cut_at(cut.map(|(operation, torn)| Cut {
            operation: before + operation,
            torn,
            seed: operation,
        }));
        let mut bytes = 0;
        let sent = (|| {
            let mut device = Device::open(&mut flash, &self.keys)?;
            let from = device.stage(&package.entry)? as usize;
            for chunk in package.bytes[from..].chunks(1_000) {
                bytes += chunk.len() as u32;
                device.write(chunk)?;
            }
            device.finish()?;
            device.commit(&[])?;
            device.start()
        })();
        // After a cut, the device is on again; without one, what it said is what it is.
        let was_cut = !flash.power().is_on();
        let operations = flash.operations() - before;
        flash.power_on();
        let status = match (sent, was_cut) {
            (Err(UpdateError::Flash { .. } | UpdateError::NotProvisioned), false) => {
                Status::Bricked
            }
            _ => self.look(&mut flash, package),
        };
        let after = After {
            image: self.keep(flash),
            status,
            bytes,
            operations,
        };
        self.known.insert(key, after);
        after
    }

    /// Starts a device and looks at what it runs.
    fn look(&self, flash: &mut Flash, package: &Package) -> Status {
        let mut see = || -> Result<Status, UpdateError> {
            let mut device = Device::open(&mut *flash, &self.keys)?;
            let started = device.start()?;
            let languages: Vec<String> = device.installed().map(|(l, _)| l.to_owned()).collect();
            for language in languages {
                device.load(&language)?;
            }
            Ok(if device.has(&package.entry) {
                Status::New
            } else if started.refused.is_some() {
                Status::Reverted
            } else {
                Status::Old
            })
        };
        see().unwrap_or(Status::Bricked)
    }
}

/// A device, or several that fare alike.
struct Agent {
    image: usize,
    language: usize,
    status: Status,
    /// When in the hour it asks for updates.
    minute: f64,
}

/// Rolls out a good release and then a bad one; `lab` is of the same models.
///
/// # Errors
/// If the models are missing, or the plan is none.
pub fn roll_out(plan: &Plan, catalogue: &Catalogue, lab: &mut Lab) -> Result<[Rollout; 2]> {
    if plan.devices == 0 || plan.languages == 0 || !(0.0..1.0).contains(&plan.loss) {
        bail!("a fleet has devices, languages, and a loss from 0 to below 100 %");
    }
    let there = catalogue.languages()?;
    let kinds = there.len() - 1;
    if kinds == 0 {
        bail!("the folder of models has no language beside its base");
    }
    let base = catalogue.package(Item::good(&there[0], SHIPPED))?;
    let mut factory = Vec::new();
    for language in &there[1..] {
        let package = catalogue.package(Item::good(language, SHIPPED))?;
        let release = [&base, &package].map(|p| (p.entry.clone(), p.bytes.clone()));
        let mut flash = Flash::new(SECTORS, false);
        Device::provision(&mut flash, &lab.keys, &release).context("in the factory")?;
        factory.push(lab.keep(flash));
    }
    let mut random = ChaCha8Rng::seed_from_u64(plan.seed);
    let mut agents: Vec<Agent> = (0..plan.devices.min(MOST_AGENTS))
        .map(|_| {
            // More languages than there are: theirs stand for the others.
            let language = random.random_range(0..plan.languages) % kinds;
            Agent {
                image: factory[language],
                language,
                status: Status::Old,
                minute: random.random_range(0.0..1.0),
            }
        })
        .collect();
    let mut release = |name, version, flaw, number| -> Result<Rollout> {
        let mut packages = Vec::new();
        for language in &there[1..] {
            packages.push(catalogue.package(Item {
                flaw,
                ..Item::good(language, version)
            })?);
        }
        for agent in &mut agents {
            agent.status = Status::Old;
        }
        Ok(stages(
            plan,
            name,
            number,
            &packages,
            &mut agents,
            lab,
            &mut random,
            base.bytes.len(),
        ))
    };
    Ok([
        release("good", SHIPPED + 1, Flaw::None, 0)?,
        release("bad", SHIPPED + 2, Flaw::Deaf, 1)?,
    ])
}

#[allow(clippy::too_many_arguments, reason = "one loop, called from one place")]
fn stages(
    plan: &Plan,
    name: &'static str,
    number: usize,
    packages: &[Package],
    agents: &mut [Agent],
    lab: &mut Lab,
    random: &mut ChaCha8Rng,
    whole_model_bytes: usize,
) -> Rollout {
    let each = plan.devices as f64 / agents.len() as f64;
    let scaled = |count: usize| (count as f64 * each).round() as u64;
    let (mut stage, mut hours, mut halted) = (0, 0, false);
    let (mut bytes, mut whole, mut interrupted) = (0.0, 0.0, 0);
    let (known, mut new_by_hour) = (lab.known.len(), Vec::new());
    // Operations of an update that is not cut, from which cuts are drawn.
    let operations: Vec<u64> = (0..packages.len())
        .map(|language| {
            let agent = agents.iter().find(|agent| agent.language == language);
            agent.map_or(1, |agent| {
                let number = number * packages.len() + language;
                lab.update(agent.image, number, &packages[language], None)
                    .operations
            })
        })
        .collect();
    while hours < MOST_HOURS {
        hours += 1;
        let open = ((agents.len() as f64 * STAGES[stage]).ceil() as usize).min(agents.len());
        let mut left = plan.server_bytes_per_s * 3_600.0 / each;
        // In the order in which they ask.
        let mut asking: Vec<usize> = (0..open)
            .filter(|a| agents[*a].status == Status::Old)
            .collect();
        asking.sort_by(|a, b| agents[*a].minute.total_cmp(&agents[*b].minute));
        for index in asking {
            let agent = &mut agents[index];
            let package = &packages[agent.language];
            if left < package.bytes.len() as f64 {
                break;
            }
            let cut = random.random_bool(plan.loss).then(|| {
                let operation = random.random_range(0..operations[agent.language]);
                (operation, random.random_range(0..TORN_STATES))
            });
            let after = lab.update(
                agent.image,
                number * packages.len() + agent.language,
                package,
                cut,
            );
            interrupted += usize::from(cut.is_some());
            (agent.image, agent.status) = (after.image, after.status);
            left -= f64::from(after.bytes);
            bytes += f64::from(after.bytes) * each;
            // What was cut would be sent again from the start.
            whole += whole_model_bytes as f64 * each;
        }
        let count = |status| agents[..open].iter().filter(|a| a.status == status).count();
        new_by_hour.push(scaled(count(Status::New)));
        let (new, failed) = (
            count(Status::New),
            count(Status::Reverted) + count(Status::Bricked),
        );
        let reports = new + failed;
        if reports >= LEAST_REPORTS && failed as f64 > MOST_FAILED * reports as f64 {
            halted = true;
            break;
        }
        if reports == agents.len() {
            break;
        }
        if reports as f64 >= REPORTED * open as f64 && stage + 1 < STAGES.len() {
            stage += 1;
        }
    }
    let count = |status| scaled(agents.iter().filter(|a| a.status == status).count());
    Rollout {
        release: name,
        devices: plan.devices,
        hours,
        halted,
        old: count(Status::Old),
        new: count(Status::New),
        reverted: count(Status::Reverted),
        bricked: count(Status::Bricked),
        interrupted: scaled(interrupted),
        bytes: bytes as u64,
        whole_model_bytes: whole as u64,
        updates_run: lab.known.len() - known,
        new_by_hour,
    }
}

/// Share of each fleet that has a release, against hours, as SVG.
///
/// # Errors
/// If nothing can be drawn.
pub fn plot(curves: &[Rollout]) -> Result<String> {
    use plotters::prelude::*;
    let mut svg = String::new();
    let most = curves.iter().map(|c| c.hours).max().unwrap_or(1);
    {
        let area = SVGBackend::with_string(&mut svg, (720, 480)).into_drawing_area();
        area.fill(&WHITE)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(
                "Devices with the new models, staged rollout",
                ("sans-serif", 18),
            )
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(52)
            .build_cartesian_2d(0.0..f64::from(most), 0.0..100.0)?;
        chart
            .configure_mesh()
            .x_desc("hours")
            .y_desc("devices with the release, %")
            .draw()?;
        for (number, curve) in curves.iter().enumerate() {
            let colour = Palette99::pick(number).to_rgba();
            let share = |count: &u64| 100.0 * *count as f64 / curve.devices as f64;
            let points = curve.new_by_hour.iter().enumerate();
            let points = points.map(|(hour, count)| ((hour + 1) as f64, share(count)));
            let line = LineSeries::new(
                [(0.0, 0.0)].into_iter().chain(points),
                colour.stroke_width(2),
            );
            chart
                .draw_series(line)?
                .label(format!("{} devices: {} h", curve.devices, curve.hours))
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::LowerRight)
            .background_style(WHITE.mix(0.8))
            .border_style(BLACK)
            .draw()?;
        area.present()?;
    }
    Ok(svg)
}
