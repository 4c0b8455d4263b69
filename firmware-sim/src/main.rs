//! `swr-sim`; see [`swr_firmware_sim::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    let code = swr_firmware_sim::cli::run(std::env::args_os(), &mut std::io::stdout().lock());
    ExitCode::from(code)
}
