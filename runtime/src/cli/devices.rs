//! `swr devices`: the microphones that can be listened to.

use std::io::Write;

use clap::Args;

use super::{Outcome, json_line};
use crate::capture::devices;

/// List the microphones that `swr listen --device` takes
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  swr devices
  swr listen --device \"USB Audio\"

Exits with 1 if there is none.")]
pub(super) struct Devices {
    /// One JSON object per device
    #[arg(long)]
    json: bool,
}

impl Devices {
    pub(super) fn run(&self, out: &mut dyn Write) -> anyhow::Result<Outcome> {
        let devices = devices()?;
        for device in &devices {
            if self.json {
                json_line(out, device)?;
                continue;
            }
            let mark = if device.default { '*' } else { ' ' };
            let records = device.records.as_deref().unwrap_or("busy");
            writeln!(out, "{mark} {} ({})\n    {records}", device.name, device.id)?;
        }
        Ok(match devices.is_empty() {
            true => Outcome::Negative,
            false => Outcome::Success,
        })
    }
}
