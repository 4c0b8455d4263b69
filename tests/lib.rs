//! What the tests of this package share: where the project's models and, if present, the recordings lie.

use std::path::{Path, PathBuf};

/// The top of the project.
pub fn project() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("this package lies in the project")
        .to_path_buf()
}

/// The released models, the small ones.
pub fn models() -> PathBuf {
    project().join("models/small")
}

/// The released models of both sizes.
pub fn sizes() -> [PathBuf; 2] {
    [models(), project().join("models/large")]
}

/// The recordings beside the project; says loudly on stderr when they are not there, so that nobody takes a skipped test for a
/// passed one.
pub fn recordings(test: &str) -> Option<PathBuf> {
    let path = project().parent()?.join("shared/speech");
    if path.is_dir() {
        return Some(path);
    }
    eprintln!(
        "SKIPPED {test}: needs the recordings in {}, which are not there",
        path.display()
    );
    None
}
