//! The ONNX graph of causal BC-ResNet with explicit streaming state: named weights come in, the bytes of an `.onnx` file go out.
//!
//! Every convolution over time is `Concat(state, x)` followed by a valid convolution, and the new state is the tail of that concatenation,
//! so that zero states are zero padding on the left and any division of the frames into steps gives the same logits. Norms stay unfolded:
//! each weight tensor is an initialiser of its own name and shape, which is what a delta changes. All other initialisers are int64.

use alloc::{collections::BTreeMap, format, string::String, vec, vec::Vec};

use prost::Message;

use super::NetworkError;
use super::architecture::{Architecture, Block, MEL_BINS, SUB_BANDS};
use crate::package::{
    Tensors,
    onnx::{
        AttributeProto, Dimension, GraphProto, INT64, ModelProto, NodeProto, TensorProto,
        ValueInfoProto, initializers,
    },
};

/// Axis of frequency in `[1, channels, bands, frames]`.
const FREQUENCY_AXIS: i64 = 2;
/// Axis of time.
const TIME_AXIS: i64 = 3;

/// Bytes that a known graph may have beyond twice its own: names, comments, information about values.
const SPARE_BYTES: usize = 1 << 16;

/// Builds the streaming graph of causal BC-ResNet at width `tau` and returns the file's bytes.
///
/// Inputs: `frames` `[1, 1, 40, N]` (log-mel, frequency before time) and `state.<convolution>` for each of the 14 convolutions over time,
/// zero at the start. Outputs: `logits` `[1, classes, 1, N]`, one column per frame, and `next_state.<convolution>`. `N` and `classes` are
/// symbols; the number of classes is that of `classifier.weight`'s rows.
///
/// # Errors
/// If `tensors` are not exactly the network's: the message names a tensor that is missing, superfluous or of another shape.
pub fn streaming_graph(tau: f64, tensors: &Tensors) -> Result<Vec<u8>, NetworkError> {
    let architecture = Architecture::causal(tau);
    architecture.check(tensors)?;
    Ok(ModelProto::new(graph_of(&architecture, tensors)).to_bytes())
}

/// The network that an ONNX model is, if its graph is [`streaming_graph`]'s, operation by operation, and its weights. They may be stored in f16 or
/// int8.
pub fn recognise(onnx: &[u8]) -> Option<(Architecture, Tensors)> {
    let tensors = initializers(onnx).ok()?;
    let architecture = Architecture::of(&tensors).ok()?;
    let known = graph_of(&architecture, &tensors);
    // Many empty nodes would take much more in memory than in the file.
    if onnx.len() > 2 * known.encoded_len() + SPARE_BYTES {
        return None;
    }
    let found = ModelProto::decode(onnx).ok()?.graph?;
    let is_constant = |tensor: &&TensorProto| tensor.data_type == INT64;
    let constants = |graph: &GraphProto| -> BTreeMap<String, TensorProto> {
        let constants = graph.initializer.iter().filter(is_constant);
        constants.map(|c| (c.name.clone(), c.clone())).collect()
    };
    // What makes an f32 weight of a small one is part of how it is stored; names of nodes mean nothing.
    let nodes = |graph: GraphProto| -> Vec<NodeProto> {
        let computes = |node: &NodeProto| !node.output.iter().any(|o| tensors.contains_key(o));
        let nameless = |node| NodeProto {
            name: String::new(),
            ..node
        };
        let nodes = graph.node.into_iter().filter(computes);
        nodes.map(nameless).collect()
    };
    let same = constants(&known) == constants(&found) && nodes(known) == nodes(found);
    same.then_some((architecture, tensors))
}

/// The graph of tensors that are the architecture's.
pub(super) fn graph_of(architecture: &Architecture, tensors: &Tensors) -> GraphProto {
    let mut graph = Builder::new(tensors);
    let head = Conv {
        stride: 2,
        padding: 2,
        ..Conv::new(architecture.head_width(), 5, 5)
    };
    let frames = Signal::new("frames", 1, MEL_BINS);
    let mut x = graph.conv(frames, "head.conv", head);
    x = graph.norm(x, "head.norm");
    x = graph.activation("Relu", x, "head.relu");
    for block in architecture.blocks() {
        x = graph.block(x, &block);
    }
    let width = x.channels;
    let depthwise = Conv::new(width, SUB_BANDS, 5).depthwise();
    x = graph.conv(x, "tail.depthwise.conv", depthwise);
    let point = Conv::new(architecture.tail_width(), 1, 1);
    x = graph.conv(x, "tail.point.conv", point);
    x = graph.norm(x, "tail.norm");
    x = graph.activation("Relu", x, "tail.relu");
    graph.classifier(&x);
    graph.graph
}

/// A value of the graph: `[1, channels, bands, frames]`.
#[derive(Clone)]
struct Signal {
    name: String,
    channels: usize,
    bands: usize,
}

impl Signal {
    fn new(name: &str, channels: usize, bands: usize) -> Self {
        Self {
            name: name.into(),
            channels,
            bands,
        }
    }
}

/// A convolution without bias to `channels` channels, with a kernel of `bands` by `frames`.
struct Conv {
    channels: usize,
    bands: usize,
    frames: usize,
    /// Along frequency.
    stride: usize,
    /// Along frequency, on both sides.
    padding: usize,
    /// Along time.
    dilation: usize,
    groups: usize,
}

impl Conv {
    fn new(channels: usize, bands: usize, frames: usize) -> Self {
        Self {
            channels,
            bands,
            frames,
            stride: 1,
            padding: 0,
            dilation: 1,
            groups: 1,
        }
    }

    fn depthwise(self) -> Self {
        Self {
            groups: self.channels,
            ..self
        }
    }
}

/// Collects the graph's parts; nodes are named after the value they give. The tensors are already checked.
struct Builder<'a> {
    tensors: &'a Tensors,
    graph: GraphProto,
}

impl<'a> Builder<'a> {
    fn new(tensors: &'a Tensors) -> Self {
        let number = |number: usize| Dimension::Value(number as i64);
        let symbol = |name: &str| Dimension::Symbol(name.into());
        let frames = vec![number(1), number(1), number(MEL_BINS), symbol("N")];
        let logits = vec![number(1), symbol("classes"), number(1), symbol("N")];
        let graph = GraphProto {
            name: "bcresnet_causal_streaming".into(),
            input: vec![ValueInfoProto::f32("frames", frames)],
            output: vec![ValueInfoProto::f32("logits", logits)],
            ..GraphProto::default()
        };
        Self { tensors, graph }
    }

    /// Frequency branch with sub-band norm, time branch on its mean over frequency, both added, and the input where widths agree.
    fn block(&mut self, mut x: Signal, block: &Block) -> Signal {
        let name = |part: &str| format!("{}.{part}", block.name);
        let width = block.width;
        let input = x.clone();
        if block.has_entry() {
            x = self.conv(x, &name("entry.conv"), Conv::new(width, 1, 1));
            x = self.norm(x, &name("entry.norm"));
            x = self.activation("Relu", x, &name("entry.relu"));
        }
        let frequency = Conv {
            stride: block.stride,
            padding: 1,
            ..Conv::new(width, 3, 1).depthwise()
        };
        x = self.conv(x, &name("frequency.conv"), frequency);
        let aux = self.sub_band_norm(x, &name("frequency.norm"));

        let mut y = Signal::new(&name("mean"), width, 1);
        let axes = AttributeProto::ints("axes", &[FREQUENCY_AXIS]);
        self.node("ReduceMean", &[&aux.name], &y.name, vec![axes]);
        let time = Conv {
            dilation: block.dilation,
            ..Conv::new(width, 1, 3).depthwise()
        };
        y = self.conv(y, &name("time.conv"), time);
        y = self.norm(y, &name("time.norm"));
        let gate = self.activation("Sigmoid", y.clone(), &name("time.sigmoid"));
        y = self.binary("Mul", &y, &gate, &name("time.silu"));
        y = self.conv(y, &name("point.conv"), Conv::new(width, 1, 1));

        let mut sum = self.binary("Add", &aux, &y, &name("sum"));
        if !block.has_entry() {
            sum = self.binary("Add", &sum, &input, &name("residual"));
        }
        self.activation("Relu", sum, &name("relu"))
    }

    /// A convolution with weight `<name>.weight`; where it spans time, with a state in front of its input.
    fn conv(&mut self, x: Signal, name: &str, conv: Conv) -> Signal {
        let history = (conv.frames - 1) * conv.dilation;
        let input = if history > 0 {
            self.with_state(&x, name, history)
        } else {
            x.name
        };
        let weight = self.weight(&format!("{name}.weight"));
        let pair = |name, along_frequency: usize, along_time: usize| {
            AttributeProto::ints(name, &[along_frequency as i64, along_time as i64])
        };
        let padding = conv.padding as i64;
        let attributes = vec![
            pair("kernel_shape", conv.bands, conv.frames),
            pair("strides", conv.stride, 1),
            pair("dilations", 1, conv.dilation),
            AttributeProto::ints("pads", &[padding, 0, padding, 0]),
            AttributeProto::int("group", conv.groups as i64),
        ];
        self.node("Conv", &[&input, &weight], name, attributes);
        let bands = (x.bands + 2 * conv.padding - conv.bands) / conv.stride + 1;
        Signal::new(name, conv.channels, bands)
    }

    /// `x` behind its last `history` frames, which come from `state.<name>` and go on to `next_state.<name>`.
    fn with_state(&mut self, x: &Signal, name: &str, history: usize) -> String {
        let state = format!("state.{name}");
        let next_state = format!("next_state.{name}");
        let joined = format!("{name}.joined");
        let axis = AttributeProto::int("axis", TIME_AXIS);
        self.node("Concat", &[&state, &x.name], &joined, vec![axis]);
        let start = self.constant(&format!("{name}.history"), &[-(history as i64)]);
        let end = self.constant("end", &[i64::MAX]);
        let axis = self.constant("time_axis", &[TIME_AXIS]);
        self.node(
            "Slice",
            &[&joined, &start, &end, &axis],
            &next_state,
            vec![],
        );

        let shape = [1, x.channels, x.bands, history];
        let shape = shape.map(|size| Dimension::Value(size as i64)).to_vec();
        let input = ValueInfoProto::f32(&state, shape.clone());
        let output = ValueInfoProto::f32(&next_state, shape);
        self.graph.input.push(input);
        self.graph.output.push(output);
        joined
    }

    /// `x * scale + shift`, one pair per channel.
    fn norm(&mut self, x: Signal, name: &str) -> Signal {
        self.scale_and_shift(x, name, |graph, weight| {
            let axes = graph.constant("axes_around_channel", &[0, 2, 3]);
            let shaped = format!("{weight}.shaped");
            graph.node("Unsqueeze", &[weight, &axes], &shaped, vec![]);
            shaped
        })
    }

    /// `x * scale + shift`, one pair per channel and sub-band; a sub-band is a fifth of the bands, neighbours together.
    fn sub_band_norm(&mut self, x: Signal, name: &str) -> Signal {
        let bands = x.bands;
        self.scale_and_shift(x, name, |graph, weight| {
            let axes = graph.constant("axes_around_sub_band", &[0, 3]);
            let shaped = format!("{weight}.shaped");
            graph.node("Unsqueeze", &[weight, &axes], &shaped, vec![]);
            if bands == SUB_BANDS {
                return shaped;
            }
            let sub_band_of = |band| (band * SUB_BANDS / bands) as i64;
            let sub_bands: Vec<i64> = (0..bands).map(sub_band_of).collect();
            let sub_bands = graph.constant(&format!("sub_band_of_{bands}"), &sub_bands);
            let spread = format!("{weight}.spread");
            let axis = AttributeProto::int("axis", FREQUENCY_AXIS);
            graph.node("Gather", &[&shaped, &sub_bands], &spread, vec![axis]);
            spread
        })
    }

    /// Multiplication by `<name>.scale` and addition of `<name>.shift`, each brought by `shaped` to a shape that broadcasts over `x`.
    fn scale_and_shift(
        &mut self,
        x: Signal,
        name: &str,
        shaped: impl Fn(&mut Self, &str) -> String,
    ) -> Signal {
        let scale = self.weight(&format!("{name}.scale"));
        let shift = self.weight(&format!("{name}.shift"));
        let scale = shaped(self, &scale);
        let shift = shaped(self, &shift);
        let scaled = format!("{name}.scaled");
        self.node("Mul", &[&x.name, &scale], &scaled, vec![]);
        self.node("Add", &[&scaled, &shift], name, vec![]);
        Signal::new(name, x.channels, x.bands)
    }

    fn activation(&mut self, operator: &str, x: Signal, name: &str) -> Signal {
        self.node(operator, &[&x.name], name, vec![]);
        Signal::new(name, x.channels, x.bands)
    }

    /// An operation on two values, of which `b` may broadcast over `a`.
    fn binary(&mut self, operator: &str, a: &Signal, b: &Signal, name: &str) -> Signal {
        self.node(operator, &[&a.name, &b.name], name, vec![]);
        Signal::new(name, a.channels, a.bands)
    }

    /// Logits of each frame.
    fn classifier(&mut self, x: &Signal) {
        let weight = self.weight("classifier.weight");
        let bias = self.weight("classifier.bias");
        let kernel = AttributeProto::ints("kernel_shape", &[1, 1]);
        self.node("Conv", &[&x.name, &weight, &bias], "logits", vec![kernel]);
    }

    fn node(
        &mut self,
        operator: &str,
        inputs: &[&str],
        output: &str,
        attribute: Vec<AttributeProto>,
    ) {
        self.graph.node.push(NodeProto {
            input: inputs.iter().map(|&input| input.into()).collect(),
            output: vec![output.into()],
            name: output.into(),
            op_type: operator.into(),
            attribute,
        });
    }

    /// Adds the weight called `name` and gives the name back.
    fn weight(&mut self, name: &str) -> String {
        let weight = TensorProto::f32(name, &self.tensors[name]);
        self.graph.initializer.push(weight);
        name.into()
    }

    /// Adds the int64 constant `name`, unless it is there already, and gives the name back.
    fn constant(&mut self, name: &str, values: &[i64]) -> String {
        let known = self
            .graph
            .initializer
            .iter()
            .any(|known| known.name == name);
        if !known {
            let constant = TensorProto::int64(name, values);
            self.graph.initializer.push(constant);
        }
        name.into()
    }
}

#[cfg(test)]
mod tests {
    use alloc::string::ToString;

    use super::*;
    use crate::package::Tensor;

    fn network(tau: f64, classes: usize) -> Tensors {
        let architecture = Architecture::causal(tau);
        let mut shapes = architecture.body_tensors();
        shapes.extend(architecture.classifier_tensors(classes));
        let tensor = |shape: Vec<usize>| {
            let values = (0..shape.iter().product()).map(|i: usize| i as f32 / 64.0);
            Tensor::new(shape, values.collect())
        };
        shapes
            .into_iter()
            .map(|(name, shape)| (name, tensor(shape)))
            .collect()
    }

    #[test]
    fn initialisers_are_the_tensors_by_name_and_shape() {
        for tau in [1.0, 1.5, 2.0, 3.0, 6.0, 8.0] {
            let tensors = network(tau, 7);
            let graph = streaming_graph(tau, &tensors).unwrap();
            assert_eq!(initializers(&graph).unwrap(), tensors);
        }
    }

    #[test]
    fn tensors_that_are_not_the_network_are_refused_by_name() {
        let refused = |tau, alter: &dyn Fn(&mut Tensors)| {
            let mut tensors = network(1.0, 7);
            alter(&mut tensors);
            streaming_graph(tau, &tensors).unwrap_err().to_string()
        };
        let message = refused(1.0, &|tensors| drop(tensors.remove("tail.norm.scale")));
        assert!(message.contains("tail.norm.scale"), "{message}");
        let message = refused(2.0, &|_| ());
        assert!(message.contains("head.conv.weight"), "{message}");
        let message = refused(1.0, &|tensors| {
            let bias = tensors.get_mut("classifier.bias").unwrap();
            *bias = Tensor::new(vec![6], vec![0.0; 6]);
        });
        assert!(message.contains("classifier.weight"), "{message}");
        let message = refused(1.0, &|tensors| {
            tensors.insert("spare".into(), Tensor::new(vec![], vec![0.0]));
        });
        assert!(message.contains("spare"), "{message}");
    }
}
