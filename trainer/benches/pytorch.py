#!/usr/bin/env python3
"""The training step of `swr-train bench` against PyTorch eager on the same machine, in the same run.

Installs PyTorch from PyPI into a throw-away environment (--env), then measures both programs by turns, each in a process of its
own: causal BC-ResNet (arXiv 2106.04140) of the same width, the same batch, frames, threads, channel dropout and SGD. Prints the
medians over the rounds and their ratio. Run it on a quiet machine.

    trainer/benches/pytorch.py --tau 1 --threads 2
    trainer/benches/pytorch.py --tau 3 --threads 2 --json
"""
import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path

MEL_BINS, SUB_BANDS, CLASSES = 40, 5, 12
ROOT = Path(__file__).resolve().parents[2]


def network(tau, dropout):
    """Causal BC-ResNet: every convolution in time is padded on the left only."""
    import torch
    from torch import nn
    from torch.nn.functional import pad

    class SubSpectralNorm(nn.Module):
        """Batch norm per channel and sub-band (arXiv 2103.13620)."""

        def __init__(self, channels):
            super().__init__()
            self.norm = nn.BatchNorm2d(channels * SUB_BANDS)

        def forward(self, x):
            b, c, f, t = x.shape
            return self.norm(x.view(b, c * SUB_BANDS, f // SUB_BANDS, t)).view(b, c, f, t)

    class Block(nn.Module):
        def __init__(self, inputs, width, stride, dilation):
            super().__init__()
            self.ahead = 2 * dilation
            self.entry = (
                nn.Sequential(nn.Conv2d(inputs, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
                if inputs != width
                else None
            )
            self.frequency = nn.Conv2d(width, width, (3, 1), stride=(stride, 1), padding=(1, 0), groups=width, bias=False)
            self.frequency_norm = SubSpectralNorm(width)
            self.time = nn.Conv2d(width, width, (1, 3), dilation=(1, dilation), groups=width, bias=False)
            self.time_norm = nn.BatchNorm2d(width)
            self.point = nn.Conv2d(width, width, 1, bias=False)
            self.dropout = nn.Dropout2d(dropout)
            self.silu, self.relu = nn.SiLU(), nn.ReLU()

        def forward(self, x):
            aux = self.frequency_norm(self.frequency(x if self.entry is None else self.entry(x)))
            branch = pad(aux.mean(2, keepdim=True), (self.ahead, 0))
            branch = self.dropout(self.point(self.silu(self.time_norm(self.time(branch)))))
            out = aux + branch
            return self.relu(out + x if self.entry is None else out)

    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            c = round(8 * tau)
            self.head = nn.Conv2d(1, 2 * c, 5, stride=(2, 1), padding=(2, 0), bias=False)
            self.head_norm = nn.Sequential(nn.BatchNorm2d(2 * c), nn.ReLU())
            blocks, inputs = [], 2 * c
            for width, count, stride, dilation in [(c, 2, 1, 1), (c * 3 // 2, 2, 2, 2), (2 * c, 4, 2, 4), (c * 5 // 2, 4, 1, 8)]:
                for i in range(count):
                    blocks.append(Block(inputs, width, stride if i == 0 else 1, dilation))
                    inputs = width
            self.blocks = nn.Sequential(*blocks)
            self.depthwise = nn.Conv2d(inputs, inputs, 5, groups=inputs, bias=False)
            self.point = nn.Sequential(nn.Conv2d(inputs, 4 * c, 1, bias=False), nn.BatchNorm2d(4 * c), nn.ReLU())
            self.classifier = nn.Conv2d(4 * c, CLASSES, 1)

        def forward(self, x):
            x = self.blocks(self.head_norm(self.head(pad(x, (4, 0)))))
            x = self.point(self.depthwise(pad(x, (4, 0))))
            return self.classifier(x[..., -98:].mean(3, keepdim=True)).flatten(1)

    return Network()


def measure(a):
    """One measurement of PyTorch, as one JSON object like that of `swr-train bench --json`."""
    import torch

    torch.manual_seed(1)
    torch.set_num_threads(a.threads)
    model = network(a.tau, a.dropout)
    model.train()
    x = torch.rand(a.batch, 1, MEL_BINS, a.frames) * 4 - 2
    labels = torch.randint(0, CLASSES, (a.batch,))
    optimiser = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-3)
    loss_of = torch.nn.CrossEntropyLoss()

    def step():
        optimiser.zero_grad()
        loss = loss_of(model(x), labels)
        loss.backward()
        optimiser.step()
        return loss.item()

    for _ in range(a.warmup):
        step()
    walls, cpu = [], time.process_time()
    for _ in range(a.steps):
        started = time.perf_counter()
        step()
        walls.append((time.perf_counter() - started) * 1e3)
    wall = statistics.median(walls)
    print(
        json.dumps(
            {
                "step_ms_wall": wall,
                "step_ms_cpu": (time.process_time() - cpu) * 1e3 / a.steps,
                "clips_per_s": a.batch / wall * 1e3,
                "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "parameters": sum(p.numel() for p in model.parameters()),
                "torch": torch.__version__,
            }
        )
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tau", type=float, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=100)
    parser.add_argument("--frames", type=int, default=101)
    parser.add_argument("--steps", type=int, default=20, help="steps a round")
    parser.add_argument("--warmup", type=int, default=3, help="steps before each round is measured")
    parser.add_argument("--dropout", type=float, default=0.1)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON object with all rounds")
    parser.add_argument("--env", type=Path, default=ROOT / "target/pytorch", help="environment with PyTorch; made if absent")
    parser.add_argument("--swr-train", type=Path, default=ROOT / "target/debug/swr-train", help="the program; built if absent")
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.measure:
        return measure(a)

    python = a.env / "bin/python"
    if not python.exists():
        venv.create(a.env, with_pip=True)
    if subprocess.run([python, "-c", "import torch"], capture_output=True).returncode != 0:
        print("installing PyTorch (several GB) ...", file=sys.stderr)
        subprocess.run([a.env / "bin/pip", "install", "--quiet", "torch", "numpy"], check=True)
    if not a.swr_train.exists():
        subprocess.run(["cargo", "build", "--workspace", "--all-targets"], cwd=ROOT, check=True)

    names = ["tau", "threads", "batch", "frames", "steps", "warmup", "dropout"]
    shared = [word for name in names for word in (f"--{name}", f"{getattr(a, name):g}")]
    commands = {
        "pytorch": [python, __file__, "--measure", *shared],
        "swr": [a.swr_train, "bench", "--json", *shared],
    }
    rounds = {name: [] for name in commands}
    for i in range(a.rounds):
        for name, command in commands.items():
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            rounds[name].append(found)
            print(f"round {i + 1}, {name}: {found['step_ms_wall']:.1f} ms wall", file=sys.stderr)
    keys = ["step_ms_wall", "step_ms_cpu", "clips_per_s", "peak_rss_mib"]
    median = {name: {k: statistics.median(r[k] for r in found) for k in keys} for name, found in rounds.items()}
    ratio = {k: median["swr"][k] / median["pytorch"][k] for k in keys}
    if a.json:
        print(json.dumps({"tau": a.tau, "threads": a.threads, "batch": a.batch, "frames": a.frames, "median": median, "ratio": ratio, "rounds": rounds}))
        return None
    print(f"tau {a.tau:g}, {a.threads} threads, batch {a.batch}, {a.frames} frames: medians of {a.rounds} rounds")
    for k in keys:
        print(f"  {k:13} swr {median['swr'][k]:9.1f}   pytorch {median['pytorch'][k]:9.1f}   ratio {ratio[k]:.2f}")
    return None


if __name__ == "__main__":
    sys.exit(main())
