//! Units: weights that share a gate, and what they cost.

use anyhow::{Result, ensure};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use super::Layout;

/// How many weights share a gate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// No gate: always changed.
    Open,
    /// No gate: never changed.
    Closed,
    /// All weights of the group's tensors.
    Layer,
    /// The group's weights of one index in the first dimension.
    Channel,
    /// The group's weights of one place: a single weight, or the scale and shift of a norm.
    Weight,
}

/// Tensors that are gated together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// Names of the tensors. With [`Level::Channel`] they have an equal first dimension, with [`Level::Weight`] equal shapes.
    pub tensors: Vec<String>,
    /// What shares a gate in them.
    pub level: Level,
}

/// Every weight's unit, and every unit's cost.
#[derive(Clone, Debug, PartialEq)]
pub struct Units {
    /// Unit of every weight; [`Units::len`] for those that always change, one more for those that never do.
    of: Vec<u32>,
    /// Cost of every unit, in the unit of the budget.
    costs: Vec<f64>,
    /// Weights of every unit.
    sizes: Vec<usize>,
    /// Kind of every unit: input channels and places of the kernel of its first tensor, 1 and 1 where it has neither.
    kinds: Vec<[usize; 2]>,
}

impl Units {
    /// The units of `groups`; tensors in no group never change. `cost` tells what one weight of a tensor costs.
    ///
    /// # Errors
    /// If a group names a tensor that is not there or is in two groups, or joins tensors of different shapes.
    pub fn new(layout: &Layout, groups: &[Group], cost: impl Fn(&str) -> f64) -> Result<Self> {
        let (open, closed) = (u32::MAX - 1, u32::MAX);
        let mut of = vec![closed; layout.weights()];
        let mut named = std::collections::BTreeSet::new();
        let (mut costs, mut sizes, mut kinds) = (Vec::new(), Vec::new(), Vec::new());
        for group in groups {
            let first = costs.len();
            let mut units = None;
            for name in &group.tensors {
                let slot = layout.slot(name)?;
                ensure!(named.insert(name), "tensor `{name}` is in two groups");
                let weights = slot.range.len();
                let rows = slot.shape.first().copied().unwrap_or(1).max(1);
                let (count, share) = match group.level {
                    Level::Open | Level::Closed => (0, 1),
                    Level::Layer => (1, weights),
                    Level::Channel => (rows, weights / rows),
                    Level::Weight => (weights, 1),
                };
                ensure!(
                    *units.get_or_insert(count) == count,
                    "tensor `{name}`: has {count} units, the first of its group has {}",
                    units.unwrap_or(count)
                );
                if costs.len() < first + count {
                    costs.resize(first + count, 0.0);
                    sizes.resize(first + count, 0);
                    let inputs = slot.shape.get(1).copied().unwrap_or(1);
                    let kernel = slot.shape.iter().skip(2).product();
                    kinds.resize(first + count, [inputs, kernel]);
                }
                for (place, of) in of[slot.range.clone()].iter_mut().enumerate() {
                    *of = match group.level {
                        Level::Open => open,
                        Level::Closed => closed,
                        Level::Layer | Level::Channel | Level::Weight => {
                            let unit = first + place / share.max(1);
                            costs[unit] += cost(name);
                            sizes[unit] += 1;
                            unit as u32
                        }
                    };
                }
            }
        }
        let count = costs.len() as u32;
        for of in &mut of {
            *of = match *of {
                of if of == open => count,
                of if of == closed => count + 1,
                of => of,
            };
        }
        Ok(Self {
            of,
            costs,
            sizes,
            kinds,
        })
    }

    /// No units: weights that change and weights that do not.
    pub fn fixed(open: &[bool]) -> Self {
        Self {
            of: open.iter().map(|open| u32::from(!open)).collect(),
            costs: Vec::new(),
            sizes: Vec::new(),
            kinds: Vec::new(),
        }
    }

    /// Number of units.
    pub fn len(&self) -> usize {
        self.costs.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.costs.is_empty()
    }

    /// Cost of every unit.
    pub fn costs(&self) -> &[f64] {
        &self.costs
    }

    /// Weights of every unit.
    pub fn sizes(&self) -> &[usize] {
        &self.sizes
    }

    /// Kind of every unit: input channels and places of the kernel of its first tensor, 1 and 1 where it has neither.
    pub fn kinds(&self) -> &[[usize; 2]] {
        &self.kinds
    }

    /// The unit of a weight, if it has a gate.
    pub fn of(&self, weight: usize) -> Option<usize> {
        let unit = self.of[weight] as usize;
        (unit < self.len()).then_some(unit)
    }

    /// Whether every weight changes, when the units do so as told.
    pub fn mask(&self, open: &[bool]) -> Vec<bool> {
        let state = |of: &u32| {
            let of = *of as usize;
            open.get(of).copied().unwrap_or(of == self.len())
        };
        self.of.iter().map(state).collect()
    }

    /// Gates of all weights, `[weights]`, from those of the units, `[units]`; gradients flow through.
    pub fn spread(&self, gates: &Tensor) -> Result<Tensor> {
        let ends = Tensor::new(&[1f32, 0.0], &Device::Cpu)?;
        let gates = Tensor::cat(&[gates, &ends], 0)?;
        let of = Tensor::from_slice(&self.of, self.of.len(), &Device::Cpu)?;
        Ok(gates.index_select(&of, 0)?)
    }

    /// A value for every unit: the sum over its weights.
    pub fn sum(&self, values: &[f32]) -> Vec<f64> {
        let mut sums = vec![0.0; self.len()];
        for (of, value) in self.of.iter().zip(values) {
            if let Some(sum) = sums.get_mut(*of as usize) {
                *sum += f64::from(*value);
            }
        }
        sums
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout::new([
            ("a".to_string(), vec![2, 3]),
            ("scale".to_string(), vec![2]),
            ("shift".to_string(), vec![2]),
            ("left".to_string(), vec![1]),
        ])
    }

    fn group(tensors: &[&str], level: Level) -> Group {
        let tensors = tensors.iter().map(|name| name.to_string()).collect();
        Group { tensors, level }
    }

    #[test]
    fn levels_divide_weights_as_they_say() {
        for (level, of_a, costs) in [
            (Level::Layer, [0, 0, 0, 0, 0, 0], vec![6.0]),
            (Level::Channel, [0, 0, 0, 1, 1, 1], vec![3.0, 3.0]),
            (Level::Weight, [0, 1, 2, 3, 4, 5], vec![1.0; 6]),
        ] {
            let groups = [
                group(&["a"], level),
                group(&["scale", "shift"], Level::Weight),
            ];
            let units = Units::new(
                &layout(),
                &groups,
                |name| if name == "a" { 1.0 } else { 2.0 },
            )
            .unwrap();
            let (n, found) = (units.len(), |w| units.of(w).unwrap());
            assert_eq!((0..6).map(found).collect::<Vec<_>>(), of_a);
            assert_eq!(
                (6..10).map(found).collect::<Vec<_>>(),
                [n - 2, n - 1, n - 2, n - 1]
            );
            assert_eq!(units.of(10), None);
            assert_eq!(units.costs()[..n - 2], costs);
            assert_eq!(units.costs()[n - 2..], [4.0, 4.0]);
            let open = vec![true; n];
            assert_eq!(units.mask(&open)[9..], [true, false]);
        }
    }

    #[test]
    fn open_and_closed_groups_have_no_gate() {
        let groups = [group(&["a"], Level::Open), group(&["scale"], Level::Closed)];
        let units = Units::new(&layout(), &groups, |_| 1.0).unwrap();
        assert!(units.is_empty());
        let expected = [[true; 6].as_slice(), &[false; 5]].concat();
        assert_eq!(units.mask(&[]), expected);
        let none = Tensor::from_vec(Vec::<f32>::new(), 0, &Device::Cpu).unwrap();
        let spread: Vec<f32> = units.spread(&none).unwrap().to_vec1().unwrap();
        assert_eq!(spread, expected.map_or_ones());
    }

    trait Ones {
        fn map_or_ones(&self) -> Vec<f32>;
    }
    impl Ones for Vec<bool> {
        fn map_or_ones(&self) -> Vec<f32> {
            self.iter().map(|open| f32::from(u8::from(*open))).collect()
        }
    }

    #[test]
    fn groups_that_cannot_be_are_refused() {
        for (groups, says) in [
            (vec![group(&["b"], Level::Layer)], "no tensor `b`"),
            (
                vec![group(&["a"], Level::Layer), group(&["a"], Level::Open)],
                "in two groups",
            ),
            (vec![group(&["a", "scale"], Level::Weight)], "units"),
        ] {
            let error = Units::new(&layout(), &groups, |_| 1.0)
                .unwrap_err()
                .to_string();
            assert!(error.contains(says), "{error}");
        }
    }
}
