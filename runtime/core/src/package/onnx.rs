//! The weights of an ONNX model, read and stored otherwise: f32 initialisers, and those in f16 or int8. The messages that make a model are in
//! `messages`. Bytes come in, named weights or bytes go out; nothing is run.

mod messages;

use alloc::{
    collections::{BTreeMap, BTreeSet},
    format,
    string::String,
    vec::Vec,
};

use half::f16;
use prost::Message;

use super::{PackageError, Tensor, Tensors};
pub use messages::{
    AttributeProto, Dimension, DimensionProto, GraphProto, ModelProto, NodeProto,
    OperatorSetIdProto, TensorProto, TensorShapeProto, TensorTypeProto, TypeProto, ValueInfoProto,
};

/// Largest ONNX file that is read.
pub const MAX_ONNX_BYTES: usize = 64 << 20;
/// Intermediate-representation version of written models; any runtime that knows opset 17 reads it.
pub const IR_VERSION: i64 = 8;
/// Operator set of written models.
pub const OPSET_VERSION: i64 = 17;

/// `TensorProto.DataType.FLOAT`.
const FLOAT: i32 = 1;
/// `TensorProto.DataType.INT8`.
const INT8: i32 = 3;
/// `TensorProto.DataType.FLOAT16`.
const FLOAT16: i32 = 10;
/// `TensorProto.DataType.INT64`.
pub(crate) const INT64: i32 = 7;
/// `TensorProto.DataLocation.EXTERNAL`: the values are in another file.
const EXTERNAL: i32 = 1;

/// How [`store`] lays weights down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Storage {
    /// As f32.
    F32,
    /// As f16, and a `Cast` to f32.
    F16,
    /// As int8 with an f32 scale per row, and a `DequantizeLinear`; tensors whose rows are short, such as norms and biases, as f16.
    Int8,
}

/// Rows of fewer values are not worth a scale.
const LEAST_INT8_ROW: usize = 8;

/// The part of a model that is looked at here; everything else is skipped unread, and initialisers and nodes stay bytes,
/// so that a hostile file of many empty messages takes at most twelve times its size in memory.
#[derive(Clone, PartialEq, Message)]
struct ModelWeights {
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphWeights>,
}

#[derive(Clone, PartialEq, Message)]
struct GraphWeights {
    #[prost(bytes = "vec", repeated, tag = "1")]
    node: Vec<Vec<u8>>,
    #[prost(bytes = "vec", repeated, tag = "5")]
    initializer: Vec<Vec<u8>>,
}

/// A node as far as it may hold a weight: `Constant`, with the values in its attribute `value`.
#[derive(Clone, PartialEq, Message)]
struct ConstantNode {
    #[prost(string, repeated, tag = "2")]
    output: Vec<String>,
    #[prost(string, tag = "4")]
    op_type: String,
    #[prost(message, repeated, tag = "5")]
    attribute: Vec<ConstantAttribute>,
}

#[derive(Clone, PartialEq, Message)]
struct ConstantAttribute {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, optional, tag = "5")]
    value: Option<TensorProto>,
}

impl GraphWeights {
    /// Weights may be `Constant` nodes instead of initialisers: some exporters write no other. A graph with initialisers has its weights there, and a constant in it is
    /// none, whatever its type.
    fn has_constant_weights(&self) -> bool {
        self.initializer.iter().all(|encoded| {
            let proto = TensorProto::decode(encoded.as_slice());
            proto.is_ok_and(|proto| ![FLOAT, FLOAT16, INT8].contains(&proto.data_type))
        })
    }
}

/// The f32 values of a `Constant` node, under the name of its output; none for any other node.
fn constant(node: &[u8]) -> Option<TensorProto> {
    let node = ConstantNode::decode(node).ok()?;
    if node.op_type != "Constant" {
        return None;
    }
    let mut values = node.attribute.into_iter();
    let value = values.find(|attribute| attribute.name == "value")?.value?;
    (value.data_type == FLOAT).then_some(TensorProto {
        name: node.output.into_iter().next()?,
        ..value
    })
}

fn bad(reason: String) -> PackageError {
    PackageError::BadOnnx { reason }
}

/// The weights of an ONNX model's main graph, with names and shapes as stored: f32 initialisers, and what `Cast` or `DequantizeLinear` make of
/// initialisers in f16 or int8, under the name that the rest of the graph knows them by (see [`store`]); where there are none of these, f32 `Constant` nodes.
///
/// # Errors
/// [`PackageError::TooLarge`] beyond [`MAX_ONNX_BYTES`]; [`PackageError::BadOnnx`] for what is no ONNX model, has no f32 weight,
/// two of one name, values in another file, or values that do not fill the shape.
pub fn initializers(bytes: &[u8]) -> Result<Tensors, PackageError> {
    if bytes.len() > MAX_ONNX_BYTES {
        return Err(PackageError::TooLarge {
            what: "the onnx file, in bytes,",
            found: bytes.len(),
            limit: MAX_ONNX_BYTES,
        });
    }
    let graph = ModelWeights::decode(bytes)
        .map_err(|error| bad(format!("it is damaged or no onnx model: {error}")))?
        .graph
        .ok_or_else(|| bad("it has no graph; give an onnx model".into()))?;
    let (mut tensors, mut small) = (Tensors::new(), BTreeMap::new());
    for encoded in &graph.initializer {
        let proto = TensorProto::decode(encoded.as_slice())
            .map_err(|error| bad(format!("an initialiser is damaged: {error}")))?;
        let name = proto.name.clone();
        let twice = match proto.data_type {
            FLOAT => tensors.insert(name, read_tensor(&proto)?).is_some(),
            // Read when a node turns out to make a weight of it.
            FLOAT16 | INT8 => small.insert(name, Some(proto.clone())).is_some(),
            _ => false,
        };
        if twice {
            return Err(unfit(&proto.name, "it occurs twice"));
        }
    }
    if !small.is_empty() {
        let mut scales = BTreeSet::new();
        for encoded in &graph.node {
            let node = NodeProto::decode(encoded.as_slice())
                .map_err(|error| bad(format!("a node is damaged: {error}")))?;
            let Some(restored) = Restored::of(&node, &small, &tensors) else {
                continue;
            };
            let stored = small.get_mut(restored.stored).and_then(Option::take);
            // Once: a file of many nodes would otherwise make many weights of one.
            let stored =
                stored.ok_or_else(|| unfit(restored.stored, "two nodes make weights of it"))?;
            let mut tensor = read_tensor(&stored)?;
            if let Some(scale) = restored.scale {
                scales.insert(String::from(scale));
                let values = &tensors[scale].data;
                if !tensor.data.len().is_multiple_of(values.len()) {
                    return Err(unfit(restored.stored, "its scales do not fit"));
                }
                let row = (tensor.data.len() / values.len()).max(1);
                for (row, scale) in tensor.data.chunks_mut(row).zip(values) {
                    row.iter_mut().for_each(|value| *value *= scale);
                }
            }
            if tensors.insert(restored.weight.into(), tensor).is_some() {
                return Err(unfit(restored.weight, "it occurs twice"));
            }
        }
        // Scales are no weights, but part of how some are stored.
        tensors.retain(|name, _| !scales.contains(name));
    }
    if graph.has_constant_weights() {
        for proto in graph.node.iter().filter_map(|node| constant(node)) {
            if tensors
                .insert(proto.name.clone(), read_tensor(&proto)?)
                .is_some()
            {
                return Err(unfit(&proto.name, "it occurs twice"));
            }
        }
    }
    if tensors.is_empty() {
        return Err(bad(
            "it has no f32 weight, as an initialiser or a Constant node; give an f32 model".into(),
        ));
    }
    Ok(tensors)
}

fn unfit(initialiser: &str, reason: &str) -> PackageError {
    bad(format!(
        "initialiser {initialiser:?}: {reason}; export the model again"
    ))
}

/// A node that makes an f32 weight of an initialiser in f16 or int8.
struct Restored<'a> {
    weight: &'a str,
    stored: &'a str,
    /// f32 initialiser with a factor per row, or one for all.
    scale: Option<&'a str>,
}

impl<'a> Restored<'a> {
    fn of(
        node: &'a NodeProto,
        small: &BTreeMap<String, Option<TensorProto>>,
        tensors: &Tensors,
    ) -> Option<Self> {
        let attribute = |name: &str| node.attribute.iter().find(|a| a.name == name)?.i;
        let [weight] = node.output.as_slice() else {
            return None;
        };
        let (stored, scale) = match (node.op_type.as_str(), node.input.as_slice()) {
            ("Cast", [stored]) if attribute("to") == Some(FLOAT.into()) => (stored, None),
            ("DequantizeLinear", [stored, scale]) => {
                // Rows are the first axis, which is not the operator's default.
                let scales = tensors.get(scale)?.data.len();
                let rows = attribute("axis") == Some(0) && scales > 0;
                (rows || scales == 1).then_some(())?;
                (stored, Some(scale.as_str()))
            }
            _ => return None,
        };
        small.contains_key(stored).then_some(Self {
            weight,
            stored,
            scale,
        })
    }
}

/// Checks that two models differ in their weights alone: the same nodes but for their names, and the same other initialisers.
///
/// # Errors
/// [`PackageError::BadOnnx`] if they differ in more, or one is damaged.
pub fn check_same_graph(a: &[u8], b: &[u8]) -> Result<(), PackageError> {
    if graph_without_weights(a)? == graph_without_weights(b)? {
        return Ok(());
    }
    Err(bad(
        "the two networks differ in more than the values of f32 weights; give two of one graph, saved by the same program".into(),
    ))
}

/// Nodes without names and comments, and initialisers that are not f32, by name.
type Graph = (Vec<Vec<u8>>, BTreeMap<String, Vec<u8>>);

fn graph_without_weights(bytes: &[u8]) -> Result<Graph, PackageError> {
    let damaged = || bad("it is damaged or no onnx model".into());
    let graph = ModelWeights::decode(bytes).map_err(|_| damaged())?.graph;
    let graph = graph.ok_or_else(damaged)?;
    let mut nodes = Vec::new();
    let constants = graph.has_constant_weights();
    for node in &graph.node {
        if let Some(weight) = constants.then(|| constant(node)).flatten() {
            nodes.push(weight.name.into_bytes());
            continue;
        }
        let mut bare = Vec::new();
        for field in fields(node) {
            // 3 is the name, 6 the comment.
            match field.ok_or_else(damaged)? {
                (3 | 6, ..) => {}
                (_, whole, _) => bare.extend_from_slice(whole),
            }
        }
        nodes.push(bare);
    }
    let mut others = BTreeMap::new();
    for encoded in graph.initializer {
        let proto = TensorProto::decode(encoded.as_slice()).map_err(|_| damaged())?;
        if proto.data_type != FLOAT {
            others.insert(proto.name, encoded);
        }
    }
    Ok((nodes, others))
}

/// The model with those of its f32 initialisers stored otherwise that get shorter by it; everything else stays, byte for byte. Weights stored
/// before in f16 or int8 stay so.
///
/// The result is an ordinary ONNX model, whose weights are what [`initializers`] reads from it; their digest, and so what deltas fit,
/// changes with the rounding.
///
/// # Errors
/// Those of [`initializers`]; [`PackageError::NotFinite`] for a weight that f16 cannot hold.
pub fn store(bytes: &[u8], storage: Storage) -> Result<Vec<u8>, PackageError> {
    initializers(bytes)?;
    if storage == Storage::F32 {
        return Ok(bytes.to_vec());
    }
    let weights = ModelWeights::decode(bytes).ok().and_then(|m| m.graph);
    let weights = weights.unwrap_or_default();
    let constants = weights.has_constant_weights();
    let scales: Vec<String> = {
        // Scales of int8 weights that are there already are no weights.
        let nodes = weights
            .node
            .iter()
            .filter_map(|n| NodeProto::decode(n.as_slice()).ok());
        let scales = nodes.filter(|node| node.op_type == "DequantizeLinear");
        scales
            .flat_map(|node| node.input.into_iter().skip(1))
            .collect()
    };
    let damaged = || bad("it is damaged or no onnx model".into());
    let (mut nodes, mut rest) = (Vec::new(), Vec::new());
    let mut other_fields = Vec::new();
    let mut graph = None;
    for field in fields(bytes) {
        let (number, whole, content) = field.ok_or_else(damaged)?;
        if number != 7 {
            other_fields.extend_from_slice(whole);
        } else if graph.replace(content).is_some() {
            return Err(bad("it has two graphs; export the model again".into()));
        }
    }
    let graph = graph.ok_or_else(damaged)?;
    for field in fields(graph) {
        let (number, whole, content) = field.ok_or_else(damaged)?;
        let constant = (number == 1 && constants)
            .then(|| constant(content))
            .flatten();
        // Weights are initialisers or constants, never both.
        let hoisted = constant.is_some();
        let proto = match number {
            5 => TensorProto::decode(content).map_err(|_| damaged())?,
            _ => constant.unwrap_or_default(),
        };
        if proto.data_type != FLOAT || scales.contains(&proto.name) {
            rest.extend_from_slice(whole);
            continue;
        }
        let tensor = read_tensor(&proto)?;
        let (initialisers, node) = stored(&proto.name, &tensor, storage)?;
        let (mut new_node, mut new_rest) = (Vec::new(), Vec::new());
        put_field(1, &node.encode_to_vec(), &mut new_node);
        for initialiser in initialisers {
            put_field(5, &initialiser.encode_to_vec(), &mut new_rest);
        }
        // A node with its names takes more than a few values save.
        if new_node.len() + new_rest.len() < whole.len() {
            nodes.extend(new_node);
            rest.extend(new_rest);
        } else if hoisted {
            put_field(
                5,
                &TensorProto::f32(&proto.name, &tensor).encode_to_vec(),
                &mut rest,
            );
        } else {
            rest.extend_from_slice(whole);
        }
    }
    // Nodes are in topological order: those that make weights come first.
    let mut model = other_fields;
    put_field(7, &[nodes, rest].concat(), &mut model);
    // Now that some weights are stored smaller, nodes are read that were not before, and may be damaged.
    initializers(&model)?;
    Ok(model)
}

/// The initialisers that hold a weight, and the node that makes it of them.
fn stored(
    name: &str,
    tensor: &Tensor,
    storage: Storage,
) -> Result<(Vec<TensorProto>, NodeProto), PackageError> {
    let dims: Vec<i64> = tensor.shape.iter().map(|&d| d as i64).collect();
    let row = tensor.data.len() / tensor.rows().max(1);
    let node = |op_type: &str, input: &[String], attribute| NodeProto {
        input: input.to_vec(),
        output: alloc::vec![name.into()],
        name: String::new(),
        op_type: op_type.into(),
        attribute: alloc::vec![attribute],
    };
    if storage == Storage::Int8 && row >= LEAST_INT8_ROW && tensor.shape.len() > 1 {
        let (small, scale) = (format!("{name}.int8"), format!("{name}.int8_scale"));
        let scales: Vec<f32> = tensor
            .data
            .chunks(row)
            .map(|row| row.iter().fold(0f32, |most, v| most.max(v.abs())) / 127.0)
            .collect();
        let quantised = tensor
            .data
            .chunks(row)
            .zip(&scales)
            .flat_map(|(row, scale)| {
                row.iter().map(move |value| match *scale {
                    0.0 => 0,
                    scale => libm::roundf(value / scale) as i8 as u8,
                })
            });
        let values = TensorProto {
            dims,
            data_type: INT8,
            name: small.clone(),
            raw_data: quantised.collect(),
            ..TensorProto::default()
        };
        let scale_values =
            TensorProto::f32(&scale, &Tensor::new(alloc::vec![scales.len()], scales));
        let axis = AttributeProto::int("axis", 0);
        let node = node("DequantizeLinear", &[small, scale], axis);
        return Ok((alloc::vec![values, scale_values], node));
    }
    let small = format!("{name}.f16");
    let halves: Vec<f16> = tensor.data.iter().map(|v| f16::from_f32(*v)).collect();
    if halves.iter().any(|half| !half.is_finite()) {
        return Err(PackageError::NotFinite {
            tensor: name.into(),
        });
    }
    let values = TensorProto {
        dims,
        data_type: FLOAT16,
        name: small.clone(),
        raw_data: halves.iter().flat_map(|half| half.to_le_bytes()).collect(),
        ..TensorProto::default()
    };
    let to_f32 = AttributeProto::int("to", FLOAT.into());
    Ok((alloc::vec![values], node("Cast", &[small], to_f32)))
}

/// The fields of a protobuf message: number, all bytes, and the content of those with a length; `None` where the message is damaged.
fn fields(mut message: &[u8]) -> impl Iterator<Item = Option<(u64, &[u8], &[u8])>> {
    core::iter::from_fn(move || {
        if message.is_empty() {
            return None;
        }
        let whole = message;
        let mut read = || {
            let key = prost::encoding::decode_varint(&mut message).ok()?;
            let length = match key & 7 {
                0 => prost::encoding::decode_varint(&mut message)
                    .map(|_| 0)
                    .ok()?,
                1 => 8,
                2 => usize::try_from(prost::encoding::decode_varint(&mut message).ok()?).ok()?,
                5 => 4,
                _ => return None,
            };
            let (content, rest) = message.split_at_checked(length)?;
            message = rest;
            Some((key >> 3, &whole[..whole.len() - rest.len()], content))
        };
        let field = read();
        if field.is_none() {
            message = &[];
        }
        Some(field)
    })
}

fn put_field(number: u64, content: &[u8], bytes: &mut Vec<u8>) {
    prost::encoding::encode_varint(number << 3 | 2, bytes);
    prost::encoding::encode_varint(content.len() as u64, bytes);
    bytes.extend_from_slice(content);
}

fn read_tensor(proto: &TensorProto) -> Result<Tensor, PackageError> {
    tensor_of(proto).map_err(|reason| unfit(&proto.name, &reason))
}

fn tensor_of(proto: &TensorProto) -> Result<Tensor, String> {
    if proto.data_location == EXTERNAL {
        return Err("its values are in another file, expected inside".into());
    }
    let shape: Option<Vec<usize>> = proto
        .dims
        .iter()
        .map(|&dimension| usize::try_from(dimension).ok())
        .collect();
    let shape =
        shape.ok_or_else(|| format!("shape {:?} has an impossible dimension", proto.dims))?;
    let raw = proto.raw_data.as_slice();
    let whole = |size: usize, kind: &str| {
        if raw.len().is_multiple_of(size) {
            return Ok(());
        }
        Err(format!("{} bytes are no whole number of {kind}", raw.len()))
    };
    let data: Vec<f32> = match (proto.data_type, proto.float_data.as_slice()) {
        (INT8, []) => raw.iter().map(|byte| f32::from(*byte as i8)).collect(),
        (FLOAT16, []) => {
            whole(2, "f16")?;
            let (words, _) = raw.as_chunks::<2>();
            let halves = words.iter().map(|word| f16::from_le_bytes(*word));
            halves.map(f16::to_f32).collect()
        }
        (_, []) => {
            whole(4, "f32")?;
            let (words, _) = raw.as_chunks::<4>();
            words.iter().map(|word| f32::from_le_bytes(*word)).collect()
        }
        (FLOAT, floats) if raw.is_empty() => floats.to_vec(),
        _ => return Err("it has its values twice".into()),
    };
    let expected = shape
        .iter()
        .try_fold(1usize, |product, &dimension| product.checked_mul(dimension));
    if expected != Some(data.len()) {
        return Err(format!(
            "shape {shape:?} does not fit {} values",
            data.len()
        ));
    }
    Ok(Tensor { shape, data })
}
