//! The ONNX graph before tract sees it: it is checked, merged tensors take the place of its initialisers, its ends are found.

use std::collections::{HashMap, HashSet};

use swr_core::package::{Group, Tensor, Tensors};
use tract_onnx::pb;
use tract_onnx::prelude::Framework;

use crate::error::EngineError;

/// Where the graph's ends are: indexes into its inputs (without those that are initialisers) and outputs.
pub(super) struct Ends {
    pub(super) frames_input: usize,
    pub(super) logits_output: usize,
    pub(super) carried: Vec<(usize, usize)>,
}

impl Ends {
    pub(super) fn find(graph: &pb::GraphProto) -> Result<Ends, EngineError> {
        let initialisers: HashSet<&str> =
            graph.initializer.iter().map(|t| t.name.as_str()).collect();
        let inputs: Vec<&str> = graph
            .input
            .iter()
            .map(|input| input.name.as_str())
            .filter(|name| !initialisers.contains(name))
            .collect();
        let outputs: HashMap<&str, usize> = graph
            .output
            .iter()
            .enumerate()
            .map(|(index, output)| (output.name.as_str(), index))
            .collect();
        let output = |name: &str| {
            outputs
                .get(name)
                .copied()
                .ok_or_else(|| EngineError::Graph(format!("it has no output `{name}`")))
        };

        let mut frames_input = None;
        let mut carried = Vec::new();
        for (index, name) in inputs.iter().enumerate() {
            if *name == "frames" {
                frames_input = Some(index);
            } else if name.starts_with("state.") {
                carried.push((index, output(&format!("next_{name}"))?));
            } else {
                return Err(EngineError::Graph(format!(
                    "input `{name}` is neither `frames` nor `state.*`"
                )));
            }
        }
        Ok(Ends {
            frames_input: frames_input
                .ok_or_else(|| EngineError::Graph("it has no input `frames`".into()))?,
            logits_output: output("logits")?,
            carried,
        })
    }
}

/// Reads and checks a model and puts `merged`, if any, in the place of its initialisers. Its graph is there.
pub(super) fn parse(onnx: &[u8], merged: Option<&Tensors>) -> Result<pb::ModelProto, EngineError> {
    let mut proto = tract_onnx::onnx()
        .proto_model_for_read(&mut &onnx[..])
        .map_err(|e| EngineError::NotOnnx(format!("{e:#}")))?;
    let graph = proto
        .graph
        .as_mut()
        .ok_or_else(|| EngineError::NotOnnx("it holds no graph".into()))?;
    check(graph)?;
    if let Some(merged) = merged {
        replace(graph, merged)?;
    }
    Ok(proto)
}

/// Refuses what tract would not refuse by itself: values that do not fill their shape, data outside the file, outputs that nothing makes.
fn check(graph: &pb::GraphProto) -> Result<(), EngineError> {
    let mut known: HashSet<&str> = graph.input.iter().map(|i| i.name.as_str()).collect();
    for tensor in &graph.initializer {
        known.insert(&tensor.name);
        let wrong = |what: String| {
            Err(EngineError::Tensor {
                name: tensor.name.clone(),
                what,
            })
        };
        if tensor.data_location == Some(pb::tensor_proto::DataLocation::External as i32) {
            return wrong("its data lies outside the file; save the model in one file".into());
        }
        if is_f32(tensor) {
            let values = tensor.raw_data.len() / 4 + tensor.float_data.len();
            if !tensor.raw_data.len().is_multiple_of(4) || elements(&tensor.dims) != Some(values) {
                return wrong(format!(
                    "its shape {:?} and its {values} values do not fit",
                    tensor.dims
                ));
            }
        }
    }
    known.extend(
        graph
            .node
            .iter()
            .flat_map(|n| n.output.iter().map(|o| o.as_str())),
    );
    match graph
        .output
        .iter()
        .find(|o| !known.contains(o.name.as_str()))
    {
        Some(output) => Err(EngineError::Graph(format!(
            "no node makes its output `{}`",
            output.name
        ))),
        None => Ok(()),
    }
}

/// Puts `merged` in the place of the initialisers of the same name.
fn replace(graph: &mut pb::GraphProto, merged: &Tensors) -> Result<(), EngineError> {
    let places: HashMap<String, usize> = graph
        .initializer
        .iter()
        .enumerate()
        .map(|(index, tensor)| (tensor.name.clone(), index))
        .collect();
    let mut restored = HashSet::new();
    for (name, tensor) in merged {
        let misfit = |what| EngineError::Tensor {
            name: name.clone(),
            what,
        };
        let Some(index) = places.get(name) else {
            // A weight stored in f16 or int8, which a node makes f32, or in a node itself: the merged one takes the node's place.
            let makes_it = |node: &&pb::NodeProto| node.output.iter().any(|output| output == name);
            let node = graph.node.iter().find(makes_it);
            let kinds = ["Cast", "DequantizeLinear", "Constant"];
            if !node.is_some_and(|node| kinds.contains(&node.op_type.as_str())) {
                return Err(EngineError::UnknownTensor { name: name.clone() });
            }
            restored.insert(name);
            graph.initializer.push(pb::TensorProto {
                name: name.clone(),
                data_type: pb::tensor_proto::DataType::Float as i32,
                dims: tensor.shape.iter().map(|&d| d as i64).collect(),
                raw_data: raw(tensor),
                ..pb::TensorProto::default()
            });
            continue;
        };
        let initialiser = &mut graph.initializer[*index];
        initialiser.dims = fitted(initialiser, tensor).map_err(misfit)?;
        initialiser.float_data.clear();
        initialiser.raw_data = raw(tensor);
    }
    let is_restored = |node: &pb::NodeProto| node.output.iter().any(|o| restored.contains(o));
    let (gone, kept): (Vec<_>, Vec<_>) = std::mem::take(&mut graph.node)
        .into_iter()
        .partition(is_restored);
    graph.node = kept;
    // What they were made of is in nobody's way, but would stay in an exported file.
    let made_of: HashSet<&String> = gone.iter().flat_map(|node| &node.input).collect();
    let used: HashSet<&String> = graph.node.iter().flat_map(|node| &node.input).collect();
    graph
        .initializer
        .retain(|tensor| !made_of.contains(&tensor.name) || used.contains(&tensor.name));
    Ok(())
}

fn raw(tensor: &Tensor) -> Vec<u8> {
    tensor.data.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// The dimensions of `initialiser` once `tensor` has taken its place. The graph's own are kept, so that a tensor whose shape is written
/// shorter (`[C]` for `[1, C, 1, 1]`) fits as well; only the classifier may change its number of rows.
fn fitted(initialiser: &pb::TensorProto, tensor: &Tensor) -> Result<Vec<i64>, String> {
    if !is_f32(initialiser) {
        return Err("the graph's is not f32".into());
    }
    let shape: Vec<i64> = tensor.shape.iter().map(|&d| d as i64).collect();
    if elements(&shape) != Some(tensor.data.len()) {
        return Err(format!(
            "its shape {shape:?} and its {} values do not fit",
            tensor.data.len()
        ));
    }
    if elements(&initialiser.dims) == Some(tensor.data.len()) {
        return Ok(initialiser.dims.clone());
    }
    let differing = initialiser.dims.iter().zip(&shape).filter(|(a, b)| a != b);
    if Group::of(&initialiser.name) == Group::Classifier
        && initialiser.dims.len() == shape.len()
        && differing.count() == 1
    {
        return Ok(shape);
    }
    Err(format!(
        "its shape {shape:?} does not fit the graph's {:?}",
        initialiser.dims
    ))
}

fn is_f32(tensor: &pb::TensorProto) -> bool {
    tensor.data_type == pb::tensor_proto::DataType::Float as i32
}

/// Number of elements of a shape; `None` for negative dimensions and overflow.
fn elements(dims: &[i64]) -> Option<usize> {
    dims.iter().try_fold(1usize, |product, &dim| {
        product.checked_mul(usize::try_from(dim).ok()?)
    })
}
