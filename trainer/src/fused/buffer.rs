//! Large buffers that live on from step to step: fresh pages from the system, zeroed by it and again here, cost a sixth of a step.

use std::ops::{Deref, DerefMut};
use std::sync::Mutex;

/// Memory that no buffer uses now.
static FREE: Mutex<Vec<Vec<f32>>> = Mutex::new(Vec::new());

/// Values of a whole batch. Goes back to the free ones when dropped.
pub(super) struct Buffer(Vec<f32>);

impl Buffer {
    /// `length` values, whatever they are: every sweep writes all of what it is given.
    pub(super) fn new(length: usize) -> Self {
        let mut free = FREE.lock().expect("no holder of free buffers panics");
        let fits = |v: &Vec<f32>| v.capacity() >= length && v.capacity() <= length + length / 4;
        let best = (0..free.len())
            .filter(|i| fits(&free[*i]))
            .min_by_key(|i| free[*i].capacity());
        match best {
            Some(i) => {
                let mut values = free.swap_remove(i);
                values.resize(length, 0.0);
                Self(values)
            }
            None => {
                // Batches have another size now, so these would lie about for ever.
                free.clear();
                Self(vec![0.0; length])
            }
        }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let values = std::mem::take(&mut self.0);
        if let Ok(mut free) = FREE.lock() {
            free.push(values);
        }
    }
}

impl Deref for Buffer {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        &self.0
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.0
    }
}
