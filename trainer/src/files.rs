//! Files that are either wholly there or not at all.

use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use atomic_write_file::AtomicWriteFile;

/// Writes through a temporary file in the same folder, synced and renamed, making the folder if need be.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    let write = || -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut file = AtomicWriteFile::open(path)?;
        file.write_all(bytes)?;
        file.commit()
    };
    write().with_context(|| {
        format!(
            "{}: could not be written; check the free space and the folder's permissions",
            path.display()
        )
    })
}

/// As [`write_atomically`]; a signature beside the file is removed, since it was another file's.
pub fn write_package(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".minisig");
    write_atomically(path, bytes)?;
    match std::fs::remove_file(Path::new(&beside)) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| Path::new(&beside).display().to_string())
        }
        _ => Ok(()),
    }
}

/// Reads a whole file; the error names it.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("{}: could not be read", path.display()))
}
