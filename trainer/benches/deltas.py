#!/usr/bin/env python3
"""Our delta against other ways to turn one network into another: bytes, time and memory to apply, and what each does with another base or a
flipped bit. Two cases, each on the same base and the same tuned network for all:

  language  the released base and the Arabic network (norms, one convolution, another classifier), as `swr export` writes it
  dense     the released base with every weight moved a little at random: made up, as after full fine-tuning

zstd --patch-from, bsdiff and xdelta3 work on the two ONNX files. The others are packings of the same change by numpy, for their size alone, and
without labels, thresholds, digests and signature, which our delta holds; low rank is cut to the least rank whose accuracy on development clips is that of the delta (needs --data), its factors in
int8, norms and classifier as in our delta.

nncodec (ISO/IEC 15938-17) codes the integers of our grids, so that it is the same network to the bit: as it takes a model, a tensor at a time, and as four
tensors of all convolutions, scales, shifts and the classifier, put together by hand, which leaves out names and shapes. Both leave out the step of every tensor.

Needs the programs (apt-get install zstd bsdiff xdelta3 time) and `cargo build --release`, or `cargo build`; installs numpy, onnx and safetensors into a throw-away environment, with
--nncodec that too, and with it PyTorch: 6 GB.

    trainer/benches/deltas.py
    trainer/benches/deltas.py --data ../shared/speech --nncodec --json
"""
import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILT = next((folder for folder in (ROOT / "target/release", ROOT / "target/debug") if (folder / "swr-train").exists()), ROOT / "target/debug")
SWR, TRAIN = BUILT / "swr", BUILT / "swr-train"
ROUNDS = 7


def run(command):
    """Wall time in ms, peak memory in MiB and exit code of a program; memory by GNU time, since a child of Python's begins with Python's own."""
    with tempfile.NamedTemporaryFile("r") as report:
        started = time.perf_counter()
        code = subprocess.run(["/usr/bin/time", "-q", "-f", "%M", "-o", report.name, *map(str, command)], capture_output=True).returncode
        wall = (time.perf_counter() - started) * 1e3
        return wall, int(report.read().split()[-1]) / 1024, code


def must(*command):
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if done.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(map(str, command))}: {done.stderr}")
    return done.stdout


def tensors_of(path):
    import onnx
    from onnx import numpy_helper
    return {t.name: numpy_helper.to_array(t).copy() for t in onnx.load(path).graph.initializer if t.data_type == 1}


def with_tensors(source, tensors, path):
    import onnx
    from onnx import numpy_helper
    model = onnx.load(source)
    for t in model.graph.initializer:
        if t.name in tensors:
            t.CopyFrom(numpy_helper.from_array(tensors[t.name], t.name))
    onnx.save(model, path)


def tools(base, tuned, delta, folder):
    """Name, the patch, how to make it, how to apply it to `{base}` with `{patch}`, giving `{out}`."""
    zst, bs, xd = folder / "zst", folder / "bs", folder / "xd"
    make_delta = None if delta else [TRAIN, "delta", base, tuned, "--out", folder / "swr.swr"]
    return [
        ("swr", delta or folder / "swr.swr", make_delta, [SWR, "export", "--base", "{base}", "--delta", "{patch}", "-o", "{out}"]),
        ("zstd --patch-from", zst, ["zstd", "-q", "-f", "--ultra", "-22", f"--patch-from={base}", tuned, "-o", zst],
         ["zstd", "-q", "-f", "-d", "--patch-from={base}", "{patch}", "-o", "{out}"]),
        ("bsdiff", bs, ["bsdiff", base, tuned, bs], ["bspatch", "{base}", "{out}", "{patch}"]),
        ("xdelta3", xd, ["xdelta3", "-q", "-f", "-e", "-9", "-S", "lzma", "-s", base, tuned, xd],
         ["xdelta3", "-q", "-f", "-d", "-s", "{base}", "{patch}", "{out}"]),
    ]


def verdict(code, out, right):
    """What a program did with what it should refuse."""
    if code != 0:
        return "refused"
    return "the right file" if out.exists() and right(out) else "A WRONG FILE, without a word"


def flips(apply, patch, base, folder, right):
    """What happens to a patch with one flipped bit, at 24 places."""
    data, seen = patch.read_bytes(), {}
    for i in range(24):
        place = (2 * i + 1) * len(data) * 8 // 48
        bad = bytearray(data)
        bad[place // 8] ^= 1 << (place % 8)
        broken, out = folder / ("broken" + patch.suffix), folder / "flipped"
        broken.write_bytes(bad)
        out.unlink(missing_ok=True)
        code = run(fill(apply, base, broken, out))[2]
        what = verdict(code, out, right)
        seen[what] = seen.get(what, 0) + 1
    return ", ".join(f"{n} {what}" for what, n in sorted(seen.items()))


def fill(command, base, patch, out):
    return [str(c).format(base=base, patch=patch, out=out) for c in command]


def compare(case, base, tuned, delta, folder):
    import numpy as np
    wanted = tensors_of(tuned)

    def right(out):
        try:
            found = tensors_of(out)
        except Exception:  # Not even a model.
            return False
        return found.keys() == wanted.keys() and all(np.array_equal(found[n], wanted[n]) for n in wanted)

    other = folder / "other.onnx"
    moved = {n: t + np.float32(1e-3) for n, t in tensors_of(base).items()}
    with_tensors(base, moved, other)
    rows = []
    for name, patch, make, apply in tools(base, tuned, delta, folder):
        if make:
            must(*make)
        out = folder / "out.onnx"
        runs = [run(fill(apply, base, patch, out)) for _ in range(ROUNDS)]
        if any(code for _, _, code in runs) or not right(out):
            raise SystemExit(f"{case}, {name}: does not give the tuned network")
        out.unlink()
        wrong_base = verdict(run(fill(apply, other, patch, out))[2], out, right)
        rows.append({
            "case": case, "way": name, "bytes": patch.stat().st_size,
            "apply_ms": round(statistics.median(ms for ms, _, _ in runs), 2),
            "peak_mib": round(statistics.median(mib for _, mib, _ in runs), 1),
            "wrong_base": wrong_base, "flipped_bits": flips(apply, patch, base, folder, right),
        })
    return rows, wanted


def packings(case, base, wanted):
    """Sizes of the change as dense int8, and as safetensors of indices and values, both compressed by zstd."""
    import numpy as np
    from safetensors.numpy import save
    old = tensors_of(base)
    dense, sparse = [], {}
    for name, new in wanted.items():
        before = old[name] if old[name].shape == new.shape else np.zeros_like(new)
        change = (new - before).reshape(-1)
        scale = np.abs(change).max() / 127 or 1
        dense += [np.float32(scale).tobytes(), np.round(change / scale).astype(np.int8).tobytes()]
        index = np.flatnonzero(change)
        if len(index):
            sparse[name + ".index"], sparse[name + ".value"] = index.astype(np.uint16), change[index]
    sizes = [("dense int8 in even steps, zstd", b"".join(dense)), ("safetensors with indices, zstd", save(sparse))]
    return [{"case": case, "way": way, "bytes": len(subprocess.run(["zstd", "-q", "-19", "-c"], input=data, capture_output=True, check=True).stdout)}
            for way, data in sizes]


def weights_bytes(file):
    """Bytes of the changes alone, without labels, digests, signature and what else only a delta of ours holds."""
    parts = json.loads(must(SWR, "inspect", file, "--json"))["parts"]
    return sum(part["bytes"] for part in parts if "values_bytes" in part)


def even_steps(wanted, labels, folder):
    """Our delta in even steps, as dense int8 has them."""
    from safetensors.numpy import save_file
    save_file(wanted, folder / "even.safetensors")
    must(TRAIN, "pack", "--lang", "ar", "--tuned", folder / "even.safetensors", "--labels", labels, "--even", "--models", folder)
    file = folder / "ar.swr"
    return {"case": "language", "way": "swr --even (int8)", "bytes": file.stat().st_size, "weights_bytes": weights_bytes(file)}


def low_rank(base, wanted, data, labels, folder):
    """The least rank of the convolutions' change that keeps the delta's accuracy on development clips, and what it takes."""
    import numpy as np
    from safetensors.numpy import save_file

    def accuracy(models):
        out = must(SWR, "eval", "--data", data, "--lang", "ar", "--split", "dev", "--json", "--models", models)
        return json.loads(out.splitlines()[-1])["accuracy"]

    target, old = accuracy(ROOT / "models/small"), tensors_of(base)
    for rank in range(1, 33):
        tuned, values = dict(wanted), 0
        for name, new in wanted.items():
            if name.endswith(".conv.weight") and not np.array_equal(new, old[name]):
                matrix = (new - old[name]).reshape(new.shape[0], -1)
                u, s, v = np.linalg.svd(matrix, full_matrices=False)
                tuned[name] = (old[name].reshape(matrix.shape) + (u[:, :rank] * s[:rank]) @ v[:rank]).astype(np.float32).reshape(new.shape)
                values += min(rank, len(s)) * sum(matrix.shape)
        save_file(tuned, folder / "low.safetensors")
        must(TRAIN, "pack", "--lang", "ar", "--tuned", folder / "low.safetensors", "--labels", labels, "--lossless", "--models", folder)
        if accuracy(folder) >= target:
            break
    parts = json.loads(must(SWR, "inspect", ROOT / "models/small/ar.swr", "--json"))["parts"]
    rest = sum(part["bytes"] for part in parts if not part["part"].endswith(".conv.weight"))
    return {"case": "language", "way": f"low rank {rank}, merged, int8 factors", "bytes": rest + values}


def on_grids(base, wanted):
    """The integers of a delta that was trained on grids: a change is so many times a power of two, in a norm's scales so many times the share of the base's weight."""
    import numpy as np
    old, integers = tensors_of(base), {}
    for name, new in wanted.items():
        before = old[name] if old[name].shape == new.shape else np.zeros_like(new)
        change = (new.astype(np.float64) - before).reshape(-1)
        if not change.any():
            continue
        if name.endswith(".norm.scale"):
            size = np.abs(before.reshape(-1)).astype(np.float64)
            change /= size + 2 ** np.round(np.log2(0.25 * size.mean()))
        for step in (2.0 ** power for power in range(10, -40, -1)):
            multiples = change / step
            if np.abs(multiples[change != 0]).min() > 0.5 and np.abs(multiples - np.round(multiples)).max() < 0.02:
                integers[name] = np.round(multiples).astype(np.int32)
                break
        else:
            raise SystemExit(f"{name}: its change is on no grid")
    return integers


def nncodec(base, wanted, folder):
    import contextlib
    import io
    import numpy as np
    from nncodec.nn import decode, encode

    def size(tensors):
        with contextlib.redirect_stdout(io.StringIO()):
            stream = encode(tensors, args={"verbose": False, "results": str(folder)})
            back = decode(stream)
        if any(not np.array_equal(np.asarray(back[name]).reshape(-1), values) for name, values in tensors.items()):
            raise SystemExit("nncodec does not give the integers back")
        return len(stream)

    integers, kinds = on_grids(base, wanted), {}
    for name, values in integers.items():
        kind = "classifier" if name.startswith("classifier") else name.rsplit(".", 1)[1]
        kinds.setdefault(kind, []).append(values)
    together = {kind: np.concatenate(values) for kind, values in kinds.items()}
    return [{"case": "language", "way": f"nncodec, {len(integers)} tensors", "bytes": size(integers)},
            {"case": "language", "way": f"nncodec, put together as {len(together)}", "bytes": size(together)}]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with speech, for low rank of equal accuracy")
    parser.add_argument("--nncodec", action="store_true", help="compare with nncodec, which brings PyTorch")
    parser.add_argument("--env", default=ROOT / "target/deltas-env", type=Path, help="environment that the Python packages go to")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    python = arguments.env / "bin/python"
    if Path(sys.prefix) != arguments.env.resolve():
        if not python.exists():
            venv.create(arguments.env, with_pip=True)
        packages = ["numpy", "onnx", "safetensors", *(["nncodec==2.1.3"] if arguments.nncodec else [])]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        os.execv(python, [str(python), *sys.argv])
    for program in (SWR, TRAIN):
        if not program.exists():
            raise SystemExit(f"{program} is not there; run `cargo build` first")
    import numpy as np
    with tempfile.TemporaryDirectory() as folder:
        folder, base = Path(folder), ROOT / "models/small/base.onnx"
        tuned, dense = folder / "tuned.onnx", folder / "dense.onnx"
        must(SWR, "export", "--lang", "ar", "-o", tuned, "--models", ROOT / "models/small")
        rows, wanted = compare("language", base, tuned, ROOT / "models/small/ar.swr", folder)
        rows[0]["weights_bytes"] = weights_bytes(ROOT / "models/small/ar.swr")
        rows += packings("language", base, wanted)
        for name in ("base.json", "base.onnx"):
            shutil.copy(ROOT / "models/small" / name, folder)
        labels = folder / "labels.txt"
        labels.write_text("\n".join(json.loads((ROOT / "models/small/ar.training.json").read_text())["resolved"]["labels"]))
        rows.append(even_steps(wanted, labels, folder))
        if arguments.nncodec:
            rows += nncodec(base, wanted, folder)
        if arguments.data:
            rows.append(low_rank(base, wanted, arguments.data, labels, folder))
        random = np.random.default_rng(0)
        moved = {n: (t + random.normal(0, 0.01, t.shape)).astype(np.float32) for n, t in tensors_of(base).items()}
        with_tensors(base, moved, dense)
        # The same writer for both files, so that the patches see the change and not another encoding.
        plain = folder / "plain.onnx"
        with_tensors(base, {}, plain)
        more, wanted = compare("dense", plain, dense, None, folder)
        rows += more + packings("dense", plain, wanted)
        must(TRAIN, "delta", plain, dense, "--out", folder / "int8.swr", "--even")
        rows.append({"case": "dense", "way": "swr --even (int8)", "bytes": (folder / "int8.swr").stat().st_size})
    if arguments.json:
        for row in rows:
            print(json.dumps(row))
        return
    for row in rows:
        print(f"{row['case']:<9} {row['way']:<34} {row['bytes']:>7} B", end="")
        if "weights_bytes" in row:
            print(f" (changes {row['weights_bytes']})", end="")
        if "apply_ms" in row:
            print(f"  {row['apply_ms']:>7.2f} ms  {row['peak_mib']:>5.1f} MiB  wrong base: {row['wrong_base']}; flipped bits: {row['flipped_bits']}", end="")
        print()


if __name__ == "__main__":
    main()
