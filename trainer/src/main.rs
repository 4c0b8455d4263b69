//! `swr-train`: see [`swr_trainer::cli`].

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    swr_trainer::cli::main()
}
