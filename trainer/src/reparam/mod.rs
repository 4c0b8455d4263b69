//! Scalable weight reparametrization: which weights of a network change, decided by gates that are learned under a budget.
//!
//! A network is a list of named tensors, laid out in one flat vector ([`Layout`]). Its weights become `W + g * D`: `D` is learned, and `g` is the
//! gate of the *unit* that a weight belongs to ([`Units`]): a tensor, an output channel, a weight, or the pair of a norm's scale and shift. What a unit
//! costs is told by the caller; here, weights are counted. Gates come from [`gates`], whose expected cost is the budget in every step, or from
//! [`policy`], the published method as far as it is known. [`choose`] makes them 0 or 1 without ever exceeding the budget. Only the deltas of open
//! units are kept; the gates' scores are thrown away.
//!
//! Named tensors, groups and costs enter, gates and deltas leave; nothing here knows which network they belong to.
//! Source: Kim et al., "Scalable Weight Reparametrization for Efficient Transfer Learning", arXiv 2302.13435, abstract, and
//! patent application US 2024/0185088, abstract. Their equations could not be read: this is a re-implementation from those.

pub mod affine;
pub mod choose;
pub mod gates;
pub mod layout;
pub mod policy;
pub mod quantise;
pub mod units;

pub use layout::Layout;
pub use units::{Group, Level, Units};
