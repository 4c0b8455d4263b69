//! The bytes of a recording, which can be looked at before they are read: formats are recognised by how a file begins.

use std::io::{self, Read};

/// Bytes as they come, from a file in memory or a pipe.
pub(super) struct Input<'a> {
    /// Looked at; those before `next` are read.
    seen: Vec<u8>,
    next: usize,
    rest: Box<dyn Read + Send + Sync + 'a>,
}

impl<'a> Input<'a> {
    pub(super) fn new(bytes: impl Read + Send + Sync + 'a) -> Self {
        Self {
            seen: Vec::new(),
            next: 0,
            rest: Box::new(bytes),
        }
    }

    /// The next `count` bytes, fewer where the recording ends before; they stay to be read.
    pub(super) fn peek(&mut self, count: usize) -> io::Result<&[u8]> {
        self.seen.drain(..self.next);
        self.next = 0;
        let missing = count.saturating_sub(self.seen.len());
        (&mut self.rest)
            .take(missing as u64)
            .read_to_end(&mut self.seen)?;
        Ok(&self.seen[..count.min(self.seen.len())])
    }
}

impl Read for Input<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let mut seen = &self.seen[self.next..];
        if seen.is_empty() {
            return self.rest.read(bytes);
        }
        let read = seen.read(bytes)?;
        self.next += read;
        Ok(read)
    }
}
