//! The few ONNX messages that this project writes, and the reader of a model's f32 initialisers.
//! A graph goes out as bytes, named weights come in; nothing is run. Field numbers are those of `onnx.proto` (ONNX 1.17, IR version 8).

use alloc::{format, string::String, vec::Vec};

use prost::Message;

use super::{PackageError, Tensor, Tensors};

/// Largest ONNX file that is read.
pub const MAX_ONNX_BYTES: usize = 64 << 20;
/// Intermediate-representation version of written models; any runtime that knows opset 17 reads it.
pub const IR_VERSION: i64 = 8;
/// Operator set of written models.
pub const OPSET_VERSION: i64 = 17;

/// `TensorProto.DataType.FLOAT`.
const FLOAT: i32 = 1;
/// `TensorProto.DataType.INT64`.
const INT64: i32 = 7;
/// `TensorProto.DataLocation.EXTERNAL`: the values are in another file.
const EXTERNAL: i32 = 1;

/// A model: one graph with the operator sets it uses.
#[derive(Clone, PartialEq, Message)]
pub struct ModelProto {
    /// Version of the intermediate representation.
    #[prost(int64, optional, tag = "1")]
    pub ir_version: Option<i64>,
    /// Program that wrote the model.
    #[prost(string, tag = "2")]
    pub producer_name: String,
    /// Version of that program.
    #[prost(string, tag = "3")]
    pub producer_version: String,
    /// The graph.
    #[prost(message, optional, tag = "7")]
    pub graph: Option<GraphProto>,
    /// Operator sets.
    #[prost(message, repeated, tag = "8")]
    pub opset_import: Vec<OperatorSetIdProto>,
}

/// Version of an operator set.
#[derive(Clone, PartialEq, Message)]
pub struct OperatorSetIdProto {
    /// Empty for the standard operators.
    #[prost(string, tag = "1")]
    pub domain: String,
    /// Its version.
    #[prost(int64, optional, tag = "2")]
    pub version: Option<i64>,
}

/// Nodes in topological order, with weights, inputs and outputs.
#[derive(Clone, PartialEq, Message)]
pub struct GraphProto {
    /// Operations.
    #[prost(message, repeated, tag = "1")]
    pub node: Vec<NodeProto>,
    /// Name of the graph.
    #[prost(string, tag = "2")]
    pub name: String,
    /// Weights and constants.
    #[prost(message, repeated, tag = "5")]
    pub initializer: Vec<TensorProto>,
    /// What is given at each run.
    #[prost(message, repeated, tag = "11")]
    pub input: Vec<ValueInfoProto>,
    /// What each run gives.
    #[prost(message, repeated, tag = "12")]
    pub output: Vec<ValueInfoProto>,
}

/// One operation.
#[derive(Clone, PartialEq, Message)]
pub struct NodeProto {
    /// Names of the values it takes.
    #[prost(string, repeated, tag = "1")]
    pub input: Vec<String>,
    /// Names of the values it gives.
    #[prost(string, repeated, tag = "2")]
    pub output: Vec<String>,
    /// Name of the node.
    #[prost(string, tag = "3")]
    pub name: String,
    /// Operator.
    #[prost(string, tag = "4")]
    pub op_type: String,
    /// Settings of the operator.
    #[prost(message, repeated, tag = "5")]
    pub attribute: Vec<AttributeProto>,
}

/// A setting of an operator: an integer or a list of integers.
#[derive(Clone, PartialEq, Message)]
pub struct AttributeProto {
    /// Name of the setting.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Value of an integer.
    #[prost(int64, optional, tag = "3")]
    pub i: Option<i64>,
    /// Values of a list.
    #[prost(int64, repeated, packed = "false", tag = "8")]
    pub ints: Vec<i64>,
    /// `AttributeType`: 2 for an integer, 7 for a list.
    #[prost(int32, tag = "20")]
    pub r#type: i32,
}

/// A weight or constant.
#[derive(Clone, PartialEq, Message)]
pub struct TensorProto {
    /// Shape.
    #[prost(int64, repeated, packed = "false", tag = "1")]
    pub dims: Vec<i64>,
    /// `DataType`: 1 for f32, 7 for int64.
    #[prost(int32, tag = "2")]
    pub data_type: i32,
    /// Values of an f32 tensor, where `raw_data` is empty.
    #[prost(float, repeated, tag = "4")]
    pub float_data: Vec<f32>,
    /// Name of the value.
    #[prost(string, tag = "8")]
    pub name: String,
    /// Values as little-endian bytes.
    #[prost(bytes = "vec", tag = "9")]
    pub raw_data: Vec<u8>,
    /// 1 if the values are in another file.
    #[prost(int32, tag = "14")]
    pub data_location: i32,
}

/// Name and type of an input or output.
#[derive(Clone, PartialEq, Message)]
pub struct ValueInfoProto {
    /// Name of the value.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Its type.
    #[prost(message, optional, tag = "2")]
    pub r#type: Option<TypeProto>,
}

/// Type of a value: here always a tensor.
#[derive(Clone, PartialEq, Message)]
pub struct TypeProto {
    /// The tensor's type.
    #[prost(message, optional, tag = "1")]
    pub tensor_type: Option<TensorTypeProto>,
}

/// Element type and shape of a tensor (`TypeProto.Tensor`).
#[derive(Clone, PartialEq, Message)]
pub struct TensorTypeProto {
    /// `DataType` of the elements.
    #[prost(int32, tag = "1")]
    pub elem_type: i32,
    /// Shape.
    #[prost(message, optional, tag = "2")]
    pub shape: Option<TensorShapeProto>,
}

/// A shape.
#[derive(Clone, PartialEq, Message)]
pub struct TensorShapeProto {
    /// Dimensions, outermost first.
    #[prost(message, repeated, tag = "1")]
    pub dim: Vec<DimensionProto>,
}

/// One dimension (`TensorShapeProto.Dimension`).
#[derive(Clone, PartialEq, Message)]
pub struct DimensionProto {
    /// Number or symbol.
    #[prost(oneof = "Dimension", tags = "1, 2")]
    pub value: Option<Dimension>,
}

/// A dimension's number or symbol.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Dimension {
    /// A fixed number.
    #[prost(int64, tag = "1")]
    Value(i64),
    /// A name for a number that is known when the model is used.
    #[prost(string, tag = "2")]
    Symbol(String),
}

impl ModelProto {
    /// A model around `graph`, with [`IR_VERSION`] and [`OPSET_VERSION`].
    pub fn new(graph: GraphProto) -> Self {
        Self {
            ir_version: Some(IR_VERSION),
            producer_name: "swr".into(),
            producer_version: env!("CARGO_PKG_VERSION").into(),
            graph: Some(graph),
            opset_import: alloc::vec![OperatorSetIdProto {
                domain: String::new(),
                version: Some(OPSET_VERSION),
            }],
        }
    }

    /// The bytes of the model's file.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.encode_to_vec()
    }
}

impl AttributeProto {
    /// An integer setting.
    pub fn int(name: &str, value: i64) -> Self {
        Self {
            name: name.into(),
            i: Some(value),
            ints: Vec::new(),
            r#type: 2,
        }
    }

    /// A setting that is a list of integers.
    pub fn ints(name: &str, values: &[i64]) -> Self {
        Self {
            name: name.into(),
            i: None,
            ints: values.to_vec(),
            r#type: 7,
        }
    }
}

impl TensorProto {
    /// An f32 weight, its values as raw bytes.
    pub fn f32(name: &str, tensor: &Tensor) -> Self {
        Self {
            dims: tensor
                .shape
                .iter()
                .map(|&dimension| dimension as i64)
                .collect(),
            data_type: FLOAT,
            name: name.into(),
            raw_data: tensor
                .data
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
            ..Self::default()
        }
    }

    /// A list of int64 constants, such as axes or indices.
    pub fn int64(name: &str, values: &[i64]) -> Self {
        Self {
            dims: alloc::vec![values.len() as i64],
            data_type: INT64,
            name: name.into(),
            raw_data: values
                .iter()
                .flat_map(|value| value.to_le_bytes())
                .collect(),
            ..Self::default()
        }
    }
}

impl ValueInfoProto {
    /// An f32 tensor of the given shape.
    pub fn f32(name: &str, shape: Vec<Dimension>) -> Self {
        let dim = shape
            .into_iter()
            .map(|value| DimensionProto { value: Some(value) })
            .collect();
        Self {
            name: name.into(),
            r#type: Some(TypeProto {
                tensor_type: Some(TensorTypeProto {
                    elem_type: FLOAT,
                    shape: Some(TensorShapeProto { dim }),
                }),
            }),
        }
    }
}

/// The part of a model that [`initializers`] looks at; everything else is skipped unread, and initialisers stay bytes,
/// so that a hostile file of many empty messages takes at most twelve times its size in memory.
#[derive(Clone, PartialEq, Message)]
struct ModelWeights {
    #[prost(message, optional, tag = "7")]
    graph: Option<GraphWeights>,
}

#[derive(Clone, PartialEq, Message)]
struct GraphWeights {
    #[prost(bytes = "vec", repeated, tag = "5")]
    initializer: Vec<Vec<u8>>,
}

/// Every f32 initialiser of an ONNX model's main graph, with names and shapes as stored; of other types none.
///
/// # Errors
/// [`PackageError::TooLarge`] beyond [`MAX_ONNX_BYTES`]; [`PackageError::BadOnnx`] for what is no ONNX model, has no f32 initialiser,
/// two of one name, values in another file, or values that do not fill the shape.
pub fn initializers(bytes: &[u8]) -> Result<Tensors, PackageError> {
    let bad = |reason: String| PackageError::BadOnnx { reason };
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
    let mut tensors = Tensors::new();
    for encoded in &graph.initializer {
        let proto = TensorProto::decode(encoded.as_slice())
            .map_err(|error| bad(format!("an initialiser is damaged: {error}")))?;
        if proto.data_type != FLOAT {
            continue;
        }
        let tensor = read_tensor(&proto).map_err(|reason| {
            bad(format!(
                "initialiser {:?}: {reason}; export the model again",
                proto.name
            ))
        })?;
        if let Some(_first) = tensors.insert(proto.name.clone(), tensor) {
            return Err(bad(format!(
                "initialiser {:?} occurs twice; export the model again",
                proto.name
            )));
        }
    }
    if tensors.is_empty() {
        return Err(bad("it has no f32 initialiser; give an f32 model".into()));
    }
    Ok(tensors)
}

fn read_tensor(proto: &TensorProto) -> Result<Tensor, String> {
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
    let data = match (proto.raw_data.as_slice(), proto.float_data.as_slice()) {
        (raw, []) => {
            let (words, rest) = raw.as_chunks::<4>();
            if !rest.is_empty() {
                return Err(format!("{} bytes are no whole number of f32", raw.len()));
            }
            words.iter().map(|word| f32::from_le_bytes(*word)).collect()
        }
        ([], floats) => floats.to_vec(),
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
