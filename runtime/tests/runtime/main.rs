//! Tests of the runtime as a whole, in one binary, since tract is linked into each.

mod cli;
mod common;
mod engine;
mod listening;
mod models;
mod release;
mod servers;
