//! A Linux file system on an SD card that loses power: what was not synced may be there, or not, or in part, and in another order.
//!
//! Contents are on the card once their file was synced, names once their folder was. A rename is one change. A cut keeps any selection of the other changes to names,
//! and of each file that was not synced the old contents, the new ones, a part of them, or zeros: the worst that ext4, f2fs and FAT are known for, and more.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::Arc;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use sha2::{Digest, Sha256};
use swr_runtime::install::Disk;
use tempfile::TempDir;

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Node {
    /// A file, by its number.
    File(usize),
    Folder,
}

type Names = BTreeMap<String, Node>;

#[derive(Clone, Debug)]
struct Contents {
    now: Arc<Vec<u8>>,
    synced: Arc<Vec<u8>>,
}

#[derive(Clone, Debug)]
enum Change {
    Add(String, Node),
    Rename(String, String),
    Remove(String),
}

/// The card, as a program sees it and as a cut would leave it.
#[derive(Clone, Debug, Default)]
pub struct Card {
    files: Vec<Contents>,
    names: Names,
    synced: Names,
    /// Changes to names since, in their order.
    pending: Vec<Change>,
    record: Option<Vec<(String, Card)>>,
    /// Whether it says that it has synced without having done so.
    lies: bool,
}

impl Card {
    /// From now on the card acknowledges every sync and does none, as some do: to show that the sweep notices.
    pub fn lie(&mut self) {
        self.lies = true;
    }

    /// Keeps a snapshot before every operation from now on.
    pub fn record(&mut self) {
        self.record = Some(Vec::new());
    }

    /// Operations recorded so far.
    pub fn recorded_so_far(&self) -> usize {
        self.record.as_ref().map_or(0, Vec::len)
    }

    /// The operations since [`Card::record`], which ends, each with the card before it.
    pub fn recorded(&mut self) -> Vec<(String, Card)> {
        self.record.take().unwrap_or_default()
    }

    fn step(&mut self, operation: &str, path: &str) {
        if let Some(mut record) = self.record.take() {
            record.push((format!("{operation} {path}"), self.clone()));
            self.record = Some(record);
        }
    }

    /// The card after a cut, mounted again: state `torn` of those it may be in, of which 0 has lost all that was not synced, and 1 nothing.
    pub fn torn(&self, torn: u32, seed: u64) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(seed ^ u64::from(torn) << 32);
        let mut names = self.synced.clone();
        let half = self.pending.len() / 2;
        for (number, change) in self.pending.iter().enumerate() {
            let kept = match torn {
                0 | 5 => false,
                1 | 4 => true,
                2 => number < half,
                3 => number >= half,
                _ => random.random_bool(0.5),
            };
            if kept {
                apply(&mut names, change);
            }
        }
        let files: Vec<Contents> = self
            .files
            .iter()
            .map(|file| {
                let kept = match torn {
                    _ if file.now == file.synced => Arc::clone(&file.now),
                    0 | 4 => Arc::clone(&file.synced),
                    1 | 5 => Arc::clone(&file.now),
                    _ => match random.random_range(0..4) {
                        0 => Arc::clone(&file.synced),
                        1 => Arc::clone(&file.now),
                        2 => {
                            let part = random.random_range(0..=file.now.len());
                            Arc::new(file.now[..part].to_vec())
                        }
                        _ => Arc::new(vec![0; file.now.len()]),
                    },
                };
                Contents {
                    now: Arc::clone(&kept),
                    synced: kept,
                }
            })
            .collect();
        Self {
            files,
            names: names.clone(),
            synced: names,
            pending: Vec::new(),
            record: None,
            lies: self.lies,
        }
    }

    /// SHA-256 over names and contents as a program sees them.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        for (name, node) in &self.names {
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
            if let Node::File(number) = node {
                let bytes = &self.files[*number].now;
                hash.update((bytes.len() as u64).to_le_bytes());
                hash.update(bytes.as_slice());
            }
        }
        hash.finalize().into()
    }

    /// Makes a real folder like the card, as a program sees it.
    ///
    /// # Errors
    /// Of the real file system.
    pub fn to_folder(&self) -> io::Result<TempDir> {
        // In memory, where there is such a place, since thousands are made.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir())?;
        for (name, node) in &self.names {
            let path = folder.path().join(name);
            match node {
                Node::Folder => std::fs::create_dir_all(path)?,
                Node::File(number) => {
                    if let Some(parent) = path.parent() {
                        std::fs::create_dir_all(parent)?;
                    }
                    std::fs::write(path, self.files[*number].now.as_slice())?;
                }
            }
        }
        Ok(folder)
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.names, &change);
        self.pending.push(change);
    }

    fn file(&self, path: &str) -> io::Result<usize> {
        match self.names.get(path) {
            Some(Node::File(number)) => Ok(*number),
            _ => Err(missing(path)),
        }
    }
}

fn missing(path: &str) -> io::Error {
    io::Error::new(ErrorKind::NotFound, format!("{path}: is not there"))
}

/// The folder of a path.
fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

/// Makes a change, where it can be made: its folder and what it moves must be there.
fn apply(names: &mut Names, change: &Change) {
    let has_folder =
        |names: &Names, path: &str| parent(path).is_empty() || names.contains_key(parent(path));
    match change {
        Change::Add(path, node) if has_folder(names, path) => {
            names.insert(path.clone(), *node);
        }
        Change::Remove(path) => {
            names.remove(path);
            let inside = format!("{path}/");
            names.retain(|name, _| !name.starts_with(&inside));
        }
        Change::Rename(from, to) if names.contains_key(from) && has_folder(names, to) => {
            let inside = format!("{from}/");
            let moved: Vec<(String, Node)> = names
                .iter()
                .filter(|(name, _)| *name == from || name.starts_with(&inside))
                .map(|(name, node)| (format!("{to}{}", &name[from.len()..]), *node))
                .collect();
            names.retain(|name, _| name != from && !name.starts_with(&inside));
            names.extend(moved);
        }
        Change::Add(..) | Change::Rename(..) => {}
    }
}

impl Disk for Card {
    type View = TempDir;

    fn view(&mut self) -> io::Result<TempDir> {
        self.to_folder()
    }

    fn write(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.step("write", path);
        let now = Arc::new(bytes.to_vec());
        match self.file(path) {
            Ok(number) => self.files[number].now = now,
            Err(_) => {
                let folder = parent(path);
                if !folder.is_empty() && !self.names.contains_key(folder) {
                    return Err(missing(folder));
                }
                self.files.push(Contents {
                    now,
                    synced: Arc::default(),
                });
                self.change(Change::Add(path.into(), Node::File(self.files.len() - 1)));
            }
        }
        Ok(())
    }

    fn read(&mut self, path: &str) -> io::Result<Vec<u8>> {
        Ok(self.files[self.file(path)?].now.to_vec())
    }

    fn sync(&mut self, path: &str) -> io::Result<()> {
        self.step("sync", path);
        let number = self.file(path)?;
        if self.lies {
            return Ok(());
        }
        let file = &mut self.files[number];
        file.synced = Arc::clone(&file.now);
        Ok(())
    }

    fn sync_folder(&mut self, path: &str) -> io::Result<()> {
        self.step("sync folder", path);
        if self.lies {
            return Ok(());
        }
        let mut pending = Vec::new();
        for change in std::mem::take(&mut self.pending) {
            let here = match &change {
                Change::Add(name, _) | Change::Remove(name) => parent(name) == path,
                // Where it moves to; where it came from is the other half of one change.
                Change::Rename(_, to) => parent(to) == path,
            };
            if here {
                apply(&mut self.synced, &change);
            } else {
                pending.push(change);
            }
        }
        self.pending = pending;
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.step("rename to", to);
        if !self.names.contains_key(from) {
            return Err(missing(from));
        }
        if self.names.get(to) == Some(&Node::Folder) {
            return Err(io::Error::other(format!("{to}: a folder is there")));
        }
        self.change(Change::Rename(from.into(), to.into()));
        Ok(())
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        self.step("remove", path);
        if self.names.contains_key(path) {
            self.change(Change::Remove(path.into()));
        }
        Ok(())
    }

    fn make_folder(&mut self, path: &str) -> io::Result<()> {
        self.step("make folder", path);
        if !self.names.contains_key(path) {
            self.change(Change::Add(path.into(), Node::Folder));
        }
        Ok(())
    }

    fn remove_folder(&mut self, path: &str) -> io::Result<()> {
        self.step("remove folder", path);
        for name in self.names(path)? {
            self.change(Change::Remove(format!("{path}/{name}")));
        }
        if self.names.contains_key(path) {
            self.change(Change::Remove(path.into()));
        }
        Ok(())
    }

    fn names(&mut self, folder: &str) -> io::Result<Vec<String>> {
        let inside = match folder {
            "" => String::new(),
            folder => format!("{folder}/"),
        };
        let files = self.names.iter().filter(|(_, node)| **node != Node::Folder);
        let names = files.filter_map(|(name, _)| name.strip_prefix(&inside));
        Ok(names
            .filter(|name| !name.contains('/'))
            .map(str::to_owned)
            .collect())
    }
}
