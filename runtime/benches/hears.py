#!/usr/bin/env python3
"""Who hears better: one word, "alexa", by `swr`, pymicro-wakeword and openwakeword, on the same recordings.

    runtime/benches/hears.py --data ../shared/speech --negatives ../shared/speech-more/negatives/en
    runtime/benches/hears.py --data ../shared/speech --level -20 --bang     # said softly, half a second after a door is slammed

Installs the peers from PyPI into a throw-away environment (--env), as peers.py does, and decodes audio with ffmpeg. `swr` must be built (--swr). A markdown
table goes to stdout, talk to stderr, all counts to --json.

  positives    Clips of the word in DIR/mswc/en/clips/alexa, by set; each is heard as a stream of its own, two seconds of faint noise around it, and found if
               there is an event. With --level they are softer, and with --bang 0.2 s of white noise at full scale end half a second before them. Who speaks is not told,
               and the peers may have been trained on the same recordings: a clip more or less tells nothing.
  negatives    Every audio file below --negatives: an event is a false accept. Its peak decides nothing: who reports twice accepts twice.
  thresholds   The peers' own settings. `swr --words alexa` at the package's threshold, and at others, so that either side can be held equal.
"""
import argparse
import array
import csv
import json
import os
import random
import subprocess
import sys

from peers import MODELS, ROOT, install

WORD, BYTES_PER_S = "alexa", 32_000
THRESHOLDS = [None, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99]


def decode(path):
    """16-bit samples at 16 kHz, mono."""
    command = ["ffmpeg", "-v", "error", "-i", path, "-f", "s16le", "-ac", "1", "-ar", "16000", "-"]
    return subprocess.run(command, check=True, capture_output=True).stdout


def noise(seconds, seed, largest=17):
    """Faint, as of a quiet room: an RMS of about -70 dBFS; or louder."""
    draw = random.Random(seed)
    return b"".join(draw.randint(-largest, largest).to_bytes(2, "little", signed=True) for _ in range(round(seconds * 16_000)))


def positives(data, level_db, bang):
    """Samples of every clip of the word, by set."""
    gain = 10 ** (level_db / 20)
    before = noise(2, 1) if not bang else noise(2, 1) + noise(0.2, 3, 32_767) + noise(0.5, 1)
    with open(os.path.join(data, "mswc/en/en_splits.csv"), newline="") as table:
        rows = [row for row in csv.DictReader(table) if row["WORD"] == WORD]
    found = {}
    for row in rows:
        clip = decode(os.path.join(data, "mswc/en/clips", row["LINK"]))
        clip = array.array("h", (round(gain * sample) for sample in array.array("h", clip))).tobytes()
        found.setdefault(row["SET"], []).append(before + clip + noise(2, 2))
    return found


def negatives(folder):
    """Samples of every audio file below a folder."""
    files = sorted(os.path.join(at, name) for at, _, names in os.walk(folder) for name in names)
    return [decode(file) for file in files if file.endswith((".opus", ".wav", ".flac"))]


class Pymicro:
    def __init__(self):
        import pymicro_wakeword as package
        self.package = package

    def events(self, samples):
        word = self.package.MicroWakeWord.from_builtin(self.package.Model.ALEXA)
        features, events = self.package.MicroWakeWordFeatures(), 0
        for frame in features.process_streaming(samples):
            if word.process_streaming(frame):
                events += 1
                # It keeps saying so while its average is high; its users reset it.
                word.reset()
        return events


class Openwakeword:
    STEP = 2 * 1_280

    def __init__(self):
        import numpy
        from openwakeword.model import Model
        self.numpy, self.model = numpy, Model(wakeword_models=[WORD], inference_framework="onnx")

    def events(self, samples):
        self.model.reset()
        events, quiet_from = 0, 0
        for at in range(0, len(samples) - self.STEP + 1, self.STEP):
            scores = self.model.predict(self.numpy.frombuffer(samples[at : at + self.STEP], self.numpy.int16))
            # Its own threshold; for a second after it, the same word goes on.
            if max(scores.values()) >= 0.5 and at >= quiet_from:
                events, quiet_from = events + 1, at + BYTES_PER_S
        return events


PEERS = {"pymicro-wakeword": Pymicro, "openwakeword": Openwakeword}


def child(name, audio):
    """Counts events of a peer in recordings that stand one after another in a file, their lengths in front."""
    report, sys.stdout = sys.stdout, sys.stderr
    peer = PEERS[name]()
    with open(audio, "rb") as file:
        lengths = json.loads(file.readline())
        print(json.dumps([peer.events(file.read(length)) for length in lengths]), file=report)


def ours(swr, models, recordings, threshold):
    """The same of `swr`."""
    command = [swr, "listen", "--json", "--plain", "--models", models, "--words", WORD, "--file", "-"]
    command += ["--threshold", str(threshold)] if threshold else []
    events = []
    for samples in recordings:
        done = subprocess.run(command, input=samples, capture_output=True)
        if done.returncode > 1:
            raise SystemExit(done.stderr.decode())
        events.append(len(done.stdout.splitlines()))
    return events


def main():
    built = [os.path.join(ROOT, "target", profile, "swr") for profile in ("release", "debug")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of speech with mswc/en")
    parser.add_argument("--negatives", metavar="DIR", help="running speech without the word")
    parser.add_argument("--level", type=float, default=0, metavar="DB", help="gain of the clips, 0 or less")
    parser.add_argument("--bang", action="store_true", help="a loud noise before every clip")
    parser.add_argument("--models", default=MODELS, metavar="DIR")
    parser.add_argument("--swr", default=next(filter(os.path.exists, built), built[0]), help="the program (default: target/release/swr if there, else target/debug/swr)")
    parser.add_argument("--json", metavar="FILE", help="all counts, as one JSON object")
    parser.add_argument("--env", default=os.path.join(ROOT, "target/peers-env"), help="environment that the peers go to; made if absent")
    a = parser.parse_args()
    python, packages, missing = install(a.env)
    said, silent = positives(a.data, a.level, a.bang), negatives(a.negatives) if a.negatives else []
    sets = sorted(said)
    groups = [said[name] for name in sets] + [silent]
    hours = sum(map(len, silent)) / BYTES_PER_S / 3_600
    results = {}
    audio = os.path.join(a.env, "audio")
    for name in PEERS:
        counts = []
        for recordings in groups:
            with open(audio, "wb") as file:
                file.write(json.dumps([len(samples) for samples in recordings]).encode() + b"\n" + b"".join(recordings))
            print(f"{name}: {len(recordings)} recordings ...", file=sys.stderr)
            done = subprocess.run([python, __file__, "--child", name, audio], capture_output=True, text=True)
            if done.returncode:
                print(f"NOT RUN: {name}: {done.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
                break
            counts.append(json.loads(done.stdout))
        else:
            results[name] = counts
    for threshold in THRESHOLDS:
        name = f"swr at {threshold}" if threshold else "swr as packaged"
        print(f"{name} ...", file=sys.stderr)
        results[name] = [ours(a.swr, a.models, recordings, threshold) for recordings in groups]
    print(f"| | {' | '.join(f'found, {name}' for name in sets)} | false accepts in {hours:.2f} h |")
    print("|" + "---|" * (len(sets) + 2))
    for name, counts in results.items():
        found = [f"{sum(map(bool, of_set))} of {len(of_set)}" for of_set in counts[:-1]]
        print(f"| {name} | {' | '.join(found)} | {sum(counts[-1])} |")
    if a.json:
        with open(a.json, "w") as file:
            json.dump({"sets": sets, "hours": hours, "packages": packages, "events": results, "missing": missing}, file)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:4])
    else:
        main()
