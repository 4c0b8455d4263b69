#!/usr/bin/env python3
"""Checks an exported streaming graph outside Rust: ONNX's own checker, ONNX Runtime in steps against the whole, and against numpy.

    python3 -m venv venv && venv/bin/pip install numpy onnx onnxruntime
    venv/bin/python trainer/scripts/check_onnx.py models/small/base.onnx [--expected FILE]...

An expected file holds frames and the logits that the network must give for them, from a zero state: an .npz with `frames` [T, 40] and
`logits` [T, classes], or a .csv without header whose rows are 40 log-mel values and then the logits of that frame.
Prints one line per check; exits 0 if all hold, 1 if one does not, 2 if the files cannot be used.
"""

import argparse
import sys

import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper

MEL_BINS = 40
SUB_BANDS = 5
BLOCKS = 12


def run(session, frames, step):
    """Logits [T, classes] of frames [T, 40], `step` frames at a time, with the state carried along; T is a multiple of `step`."""
    states = {i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs() if i.name != "frames"}
    names = [o.name for o in session.get_outputs()]
    pieces = []
    for start in range(0, len(frames), step):
        piece = frames[start : start + step].T[None, None]
        outputs = dict(zip(names, session.run(None, {"frames": piece, **states})))
        pieces.append(outputs["logits"][0, :, 0, :].T)
        states = {name: outputs["next_" + name] for name in states}
    return np.concatenate(pieces)


def reference(weights, frames):
    """Logits of causal BC-ResNet in float64, written from its description and not from the graph."""
    w = {name: value.astype(np.float64) for name, value in weights.items()}

    def conv(x, name, stride=1, padding=0, dilation=1, depthwise=False):
        # x [channels, bands, T]; the kernel ends at the present frame, so that time is padded on the left only.
        kernel = w[name + ".conv.weight"]
        height, length = kernel.shape[2:]
        x = np.pad(x, ((0, 0), (padding, padding), ((length - 1) * dilation, 0)))
        frames = x.shape[2] - (length - 1) * dilation
        bands = (x.shape[1] - height) // stride + 1
        y = 0
        for i in range(height):
            for j in range(length):
                part = x[:, i : i + stride * (bands - 1) + 1 : stride, j * dilation : j * dilation + frames]
                y = y + (kernel[:, 0, i, j, None, None] * part if depthwise else np.einsum("oi,ibt->obt", kernel[:, :, i, j], part))
        return y

    def norm(x, name):
        scale, shift = w[name + ".norm.scale"], w[name + ".norm.shift"]
        if scale.ndim == 2:  # one value per channel and sub-band
            scale, shift = (np.repeat(v, x.shape[1] // SUB_BANDS, axis=1) for v in (scale, shift))
        else:
            scale, shift = scale[:, None], shift[:, None]
        return x * scale[..., None] + shift[..., None]

    def relu(x):
        return np.maximum(x, 0)

    x = relu(norm(conv(frames.T[None].astype(np.float64), "head", stride=2, padding=2), "head"))
    for i in range(BLOCKS):
        name, dilation = f"block{i:02}", [1, 1, 2, 2, 4, 4, 4, 4, 8, 8, 8, 8][i]
        residual = 0 if f"{name}.entry.conv.weight" in w else x
        if residual is not x:
            x = relu(norm(conv(x, f"{name}.entry"), f"{name}.entry"))
        stride = 2 if i in (2, 4) else 1
        aux = norm(conv(x, f"{name}.frequency", stride=stride, padding=1, depthwise=True), f"{name}.frequency")
        y = norm(conv(aux.mean(axis=1, keepdims=True), f"{name}.time", dilation=dilation, depthwise=True), f"{name}.time")
        y = conv(y / (1 + np.exp(-y)), f"{name}.point")
        x = relu(y + aux + residual)
    x = conv(conv(x, "tail.depthwise", depthwise=True), "tail.point")
    x = relu(norm(x, "tail"))[:, 0]
    return (w["classifier.weight"][:, :, 0, 0] @ x + w["classifier.bias"][:, None]).T


def load_expected(path, classes):
    if path.endswith(".npz"):
        with np.load(path) as file:
            frames, logits = file["frames"], file["logits"]
    else:
        rows = np.loadtxt(path, delimiter=",", ndmin=2)
        frames, logits = rows[:, :MEL_BINS], rows[:, MEL_BINS:]
    if frames.shape[1:] != (MEL_BINS,) or logits.shape != (len(frames), classes):
        raise ValueError(f"{path}: expected frames [T, {MEL_BINS}] and logits [T, {classes}], found {frames.shape} and {logits.shape}")
    return frames.astype(np.float32), logits


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--expected", action="append", default=[], metavar="FILE", help="frames and logits to compare with")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="of other implementations, relative to the largest logit (default: 1e-4)")
    options = parser.parse_args()

    held = True

    def check(what, found, expected, tolerance):
        nonlocal held
        difference = float(np.abs(found - expected).max() / np.abs(expected).max())
        good = difference <= tolerance  # false for NaN, too
        held &= good
        print(f"{'ok' if good else 'FAILED'}: {what}: largest difference {difference:.1e} of the largest logit, at most {tolerance:.0e}")

    try:
        model = onnx.load(options.model)
        onnx.checker.check_model(model, full_check=True)
        print(f"ok: onnx.checker, {len(model.graph.node)} nodes, opset {model.opset_import[0].version}")
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = 1
        session = ort.InferenceSession(options.model, settings, providers=["CPUExecutionProvider"])
        weights = {i.name: numpy_helper.to_array(i) for i in model.graph.initializer if i.data_type == onnx.TensorProto.FLOAT}

        # Values like those of log-mels: from silence to loud.
        frames = np.random.default_rng(1).uniform(-14, 4, (240, MEL_BINS)).astype(np.float32)
        whole = run(session, frames, len(frames))
        for step in (1, 4, 10):
            check(f"steps of {step} against the whole", run(session, frames, step), whole, 1e-5)
        if "head.conv.weight" in weights:
            check("onnxruntime against numpy", whole, reference(weights, frames), options.tolerance)
        for path in options.expected:
            frames, logits = load_expected(path, whole.shape[1])
            check(f"onnxruntime against {path}", run(session, frames, len(frames)), logits, options.tolerance)
    except Exception as error:  # whatever the libraries raise, it is about the files
        print(f"{options.model}: {error}", file=sys.stderr)
        return 2
    return 0 if held else 1


if __name__ == "__main__":
    sys.exit(main())
