//! SWR and its baselines compared: a benchmark file tells languages, methods, budgets and seeds; every run is a row of one results file, from which
//! the report is made. A run whose row is there is not run again.

pub mod benchmark;
pub mod clips;
pub mod place;
pub mod report;
pub mod row;
pub mod run;
pub mod statistics;
