//! The program `swr`; everything it does is in [`swr_runtime::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    swr_runtime::cli::main()
}
