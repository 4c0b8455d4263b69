//! Tests of the trainer as a whole, in one binary: most of them wait for one core, and so run side by side.

mod another_network;
mod base;
mod calibrate;
mod compare;
mod ds_cnn;
mod fused;
mod release;
mod runs;
mod tones;
