//! Files that are either wholly there or not at all.

use std::io::Write;
use std::path::Path;

use anyhow::Context;
use atomic_write_file::AtomicWriteFile;

/// Writes a file, making its folder if need be: to a temporary one beside it, synced, then renamed.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
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
