//! Training of `swr`: the base network, and one sparse weight delta per language under a budget.
//!
//! [`architecture`] is the network's shape, [`network`] computes it, [`fused`] computes it fast.

pub mod adapt;
pub mod augment;
pub mod babble;
pub mod base;
pub mod baselines;
pub mod batches;
pub mod calibrate;
pub mod checkpoint;
pub mod cli;
pub mod compare;
pub mod config;
pub mod evaluate;
pub mod examples;
pub mod files;
pub mod fused;
pub mod learner;
pub mod loss;
pub mod models;
pub mod network;
pub mod progress;
pub mod random;
pub mod reparam;
pub mod scene;
pub mod synth;
pub mod train;
pub mod weights;

pub use swr_core::network::architecture;
