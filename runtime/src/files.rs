//! Files that are either wholly there or not at all.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use atomic_write_file::AtomicWriteFile;
use tempfile::NamedTempFile;

/// Writes a file under the first of `names` that nobody has taken, not even another program at this moment; none if all are taken.
pub(crate) fn write_new(
    names: &mut dyn Iterator<Item = PathBuf>,
    bytes: &[u8],
) -> anyhow::Result<Option<PathBuf>> {
    let mut written: Option<NamedTempFile> = None;
    for name in names {
        if name.exists() {
            continue;
        }
        let shown = || format!("{}: could not be written", name.display());
        let file = match written.take() {
            Some(file) => file,
            None => {
                let folder = name.parent().unwrap_or(Path::new("."));
                // Readable for all, as files are that are not temporary.
                let mut made = tempfile::Builder::new();
                #[cfg(unix)]
                made.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o644));
                let mut file = made.tempfile_in(folder).with_context(shown)?;
                file.write_all(bytes).with_context(shown)?;
                file.as_file().sync_all().with_context(shown)?;
                file
            }
        };
        match file.persist_noclobber(&name) {
            Ok(_) => return Ok(Some(name)),
            // Another one was faster.
            Err(error) if error.error.kind() == ErrorKind::AlreadyExists => {
                written = Some(error.file);
            }
            Err(error) => return Err(error.error).with_context(shown),
        }
    }
    Ok(None)
}

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
