#!/usr/bin/env bash
# The standard codec for updates of networks (ISO/IEC 15938-17) takes three and a half times the bytes for a small network's hundred tensors that it takes for the same
# integers in one.
#
# Guessed: made for updates of networks, its adaptive models run on from tensor to tensor, and a tensor's frame is a byte or two; a hundred small tensors then take about what one of
# all their values does.
# Seen with nncodec 2.1.3 (torch 2.15.0, numpy 1.26.4): 100 tensors of 40 integers, half of them 0 and the others geometric, whose entropy is 1,254 bytes: 4,534 bytes
# under names such as "block07.norm.scale", 2,924 under their numbers, 1,316 as one tensor; all decode to the same integers. Names are stored as they are, every tensor has about 16 bytes beside, and its
# models begin anew. Who compares codecs on a keyword spotter's update compares frames, unless tensors are put together first.
#
# Exits with 0 if this is still so, with 1 if it has changed. Needs python3 with venv and headers, g++, a network and 6 GB, since it brings PyTorch.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet nncodec==2.1.3 torch==2.15.0 torchvision==0.29.2 numpy==1.26.4
venv/bin/python - <<'PYTHON'
import contextlib, io, sys, tempfile

import numpy as np
from nncodec.nn import decode, encode

random = np.random.default_rng(1)


def update(count):
    values = random.geometric(0.5, count) * random.choice([-1, 1], count)
    values[random.random(count) < 0.5] = 0
    return values.astype(np.int32)


def size(model):
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as results:
        stream = encode(model, args={"verbose": False, "results": results})
        back = decode(stream)
    assert all(np.array_equal(np.asarray(back[name]).reshape(values.shape), values) for name, values in model.items())
    return len(stream)


tensors = {f"block{n:02}.norm.scale": update(40) for n in range(100)}
together = np.concatenate(list(tensors.values()))
_, counts = np.unique(together, return_counts=True)
shares = counts / counts.sum()
entropy = -(shares * np.log2(shares)).sum() * len(together) / 8
named, numbered = size(tensors), size({str(n): values for n, values in enumerate(tensors.values())})
one = size({"all": together})
print(f"entropy {entropy:.0f} bytes; 100 tensors {named}, under short names {numbered}, as one tensor {one}")
same = named > 3 * one and numbered > 2 * one and one < 1.1 * entropy
print("still so" if same else "changed")
sys.exit(0 if same else 1)
PYTHON
