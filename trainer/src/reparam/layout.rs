//! Named tensors in one flat vector, in which gates, deltas and costs are vectors too.

use std::collections::BTreeMap;
use std::ops::Range;

use anyhow::{Context, Result};
use candle_core::{Device, Tensor};

/// Where one tensor lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// Its shape.
    pub shape: Vec<usize>,
    /// Its weights in the flat vector, row-major.
    pub range: Range<usize>,
}

/// The order of named tensors in a flat vector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    slots: Vec<Slot>,
    places: BTreeMap<String, usize>,
}

impl Layout {
    /// The tensors one after another, as given.
    pub fn new(tensors: impl IntoIterator<Item = (String, Vec<usize>)>) -> Self {
        let mut next = 0;
        let slots: Vec<Slot> = tensors
            .into_iter()
            .map(|(name, shape)| {
                let start = next;
                next += shape.iter().product::<usize>();
                Slot {
                    name,
                    shape,
                    range: start..next,
                }
            })
            .collect();
        let places = slots.iter().enumerate();
        let places = places.map(|(i, slot)| (slot.name.clone(), i)).collect();
        Self { slots, places }
    }

    /// All tensors, in order.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    /// Weights of all tensors together.
    pub fn weights(&self) -> usize {
        self.slots.last().map_or(0, |slot| slot.range.end)
    }

    /// The tensor called `name`.
    ///
    /// # Errors
    /// If there is none.
    pub fn slot(&self, name: &str) -> Result<&Slot> {
        let place = self.places.get(name);
        let place = place.with_context(|| format!("the network has no tensor `{name}`"))?;
        Ok(&self.slots[*place])
    }

    /// One value for every weight, by the tensor that it belongs to.
    pub fn by_tensor<T: Copy>(&self, value: impl Fn(&str) -> T) -> Vec<T> {
        let slots = self.slots.iter();
        slots
            .flat_map(|slot| std::iter::repeat_n(value(&slot.name), slot.range.len()))
            .collect()
    }

    /// Named tensors as a flat vector; those that are not given are zero.
    ///
    /// # Errors
    /// If a given tensor has another number of weights than the layout says.
    pub fn pack(&self, tensors: &BTreeMap<String, Tensor>) -> Result<Vec<f32>> {
        let mut flat = vec![0.0; self.weights()];
        for slot in &self.slots {
            if let Some(tensor) = tensors.get(&slot.name) {
                let values: Vec<f32> = tensor.flatten_all()?.to_vec1()?;
                anyhow::ensure!(
                    values.len() == slot.range.len(),
                    "tensor `{}`: expected shape {:?}, found {:?}",
                    slot.name,
                    slot.shape,
                    tensor.dims()
                );
                flat[slot.range.clone()].copy_from_slice(&values);
            }
        }
        Ok(flat)
    }

    /// A flat vector as named tensors.
    pub fn unpack(&self, flat: &[f32]) -> Result<BTreeMap<String, Tensor>> {
        let slots = self.slots.iter();
        slots
            .map(|slot| {
                let values = &flat[slot.range.clone()];
                let tensor = Tensor::from_slice(values, slot.shape.as_slice(), &Device::Cpu)?;
                Ok((slot.name.clone(), tensor))
            })
            .collect()
    }
}
