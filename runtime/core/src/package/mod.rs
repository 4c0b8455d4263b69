//! The package: a base (ONNX file and manifest) and one small delta per language; the only reader and writer of both, and the merge.
//!
//! Bytes come in, named tensors and checked settings go out, and the other way round; no graph is run and no file opened here.
//! A file from outside never panics, never allocates by its own claim, and is never half applied. `runtime/core/FORMAT.md` has the layout.
//!
//! ```
//! use swr_core::package::{Delta, DeltaHeader, Label, Precision, Tensor, Tensors, merge};
//!
//! let network = |weight, rows: usize| {
//!     Tensors::from([
//!         ("head.conv.weight".to_string(), Tensor::new(vec![2, 1], vec![weight, 0.5])),
//!         ("classifier.bias".to_string(), Tensor::new(vec![rows], vec![0.25; rows])),
//!     ])
//! };
//! let header = DeltaHeader {
//!     language: "de".into(),
//!     model_version: 1,
//!     manifest: None,
//!     labels: ["ja", "nein", "_unknown_", "_silence_"].map(Label::from).to_vec(),
//!     thresholds: vec![0.5; 4],
//!     calibration: None,
//!     budget: Some("10%".parse()?),
//!     synthetic: false,
//!     provenance: String::new(),
//! };
//! let base = network(1.0, 3);
//! let file = Delta::build(&base, &network(2.0, 4), header, Precision::Lossless)?.write();
//! assert_eq!(merge(&base, &Delta::read(&file)?)?, network(2.0, 4));
//! # Ok::<(), swr_core::package::PackageError>(())
//! ```

mod budget;
mod bytes;
mod change;
mod coder;
mod coding;
mod delta;
mod early;
mod error;
mod fields;
mod index;
mod label;
mod manifest;
mod merge;
pub mod onnx;
mod signature;
mod tensors;

pub use budget::{Budget, Limit};
pub use change::{
    Change, ChangeBytes, Edit, MAX_QUANTISED_BITS, Positions, Precision, Steps, Values, multiple,
    quantise,
};
pub use delta::{DELTA_VERSION, Delta, DeltaHeader, MAX_DELTA_BYTES, Sizes, embed_signature};
pub use error::PackageError;
pub(crate) use fields::check_language;
pub use index::{Entry, INDEX_VERSION, Index, IndexedFile, MAX_INDEX_BYTES, MAX_INDEXED_BYTES};
pub use label::Label;
pub use manifest::{Calibration, MANIFEST_VERSION, Manifest, Thresholds};
pub use merge::{merge, merge_into};
pub use signature::{DetachedSignature, KeyId, PublicKey};
pub use tensors::{Counts, Digest, Group, Tensor, Tensors, changed, digest};
