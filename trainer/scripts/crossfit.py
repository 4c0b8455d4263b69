#!/usr/bin/env python3
"""How many false accepts a recipe gives in running speech of speakers that neither its network nor its thresholds have heard.

The recordings of running speech of TRAIN and DEV, a speaker each, are divided into fifths. For every fifth a network is trained with the others and, by thresholds
chosen on four fifths of that fifth's speakers, hears the rest of it. So all of them are heard once, each by a network and by thresholds that knew nothing of them;
the words are always those of DEV. Writes a folder of links and one of models for each, and prints a line of JSON for each and their sum.

Usage: trainer/scripts/crossfit.py --out DIR [--more ../shared/speech-more] [--swr-train target/release/swr-train] [--jobs 2] -- base --data ../shared/speech --extra target/synth ...
"""
import argparse
import concurrent.futures
import json
import math
import os
import subprocess
import sys
from pathlib import Path

FOLDS = 5


def interval(count):
    """The exact Poisson interval of 95 % of a count, by bisection."""

    def below(mean, most):
        return sum(math.exp(-mean + k * math.log(mean) - math.lgamma(k + 1)) for k in range(most + 1))

    def solve(most, wanted):
        low, high = 1e-9, 10.0 * count + 20.0
        for _ in range(100):
            middle = (low + high) / 2
            low, high = (middle, high) if below(middle, most) > wanted else (low, middle)
        return low

    return (solve(count - 1, 0.975) if count else 0.0), solve(count, 0.025)


def divide(more, out):
    """Folders like `more`, in each of which another fifth of the English running speech is DEV and the rest TRAIN; everything else is linked."""
    english = more / "negatives" / "en"
    recordings = sorted([*(english / "train").iterdir(), *(english / "dev").iterdir()], key=lambda path: path.name)
    for fold in range(FOLDS):
        folder = out / f"speech{fold}"
        for entry in [*more.iterdir(), *(more / "negatives").iterdir()]:
            if entry.name not in ("negatives", "en"):
                link(entry, folder / entry.relative_to(more))
        for place, recording in enumerate(recordings):
            link(recording, folder / "negatives" / "en" / ("dev" if place % FOLDS == fold else "train") / recording.name)
    return len(recordings)


def link(target, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_symlink():
        path.symlink_to(target.resolve())


def judged(a, fold):
    """Trains without a fifth, unless that is done, and gives what the training's own calibration counted on it."""
    models = a.out / f"models{fold}"
    if not (models / "base.json").exists():
        command = [a.swr_train, *a.training, "--extra", str(a.out / f"speech{fold}"), "--models", str(models), "--work", str(a.out / f"work{fold}")]
        environment = {**os.environ, "RAYON_NUM_THREADS": str(max(1, os.cpu_count() // a.jobs))}
        told = a.out / f"training{fold}.log"
        with open(told, "a") as log:
            done = subprocess.run(command, stdout=log, stderr=log, env=environment)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}; {told} tells why. What is finished is kept: run this again when it is mended")
    calibration = json.loads((models / "base.json").read_text())["training"]["calibration"]
    row = {"fold": fold, "hours": calibration["running_hours"], "false_accepts": calibration["false_accepts"], "found": calibration["hits"], "words": calibration["words"]}
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="folder for links, models and logs; what is finished in it is not trained again")
    parser.add_argument("--more", default="../shared/speech-more", type=Path, help="folder with negatives/en/{train,dev}")
    parser.add_argument("--swr-train", default="target/release/swr-train")
    parser.add_argument("--jobs", default=2, type=int, help="trainings at once")
    parser.add_argument("training", nargs="+", help="the command of the training and its arguments, without --extra MORE and --models")
    a = parser.parse_args()
    speakers = divide(a.more, a.out)
    print(f"{speakers} recordings in fifths; {a.out}/training*.log tell how far it is", file=sys.stderr)
    with concurrent.futures.ThreadPoolExecutor(a.jobs) as pool:
        rows = []
        for row in pool.map(lambda fold: judged(a, fold), range(FOLDS)):
            print(json.dumps(row), flush=True)
            rows.append(row)
    total = {key: sum(row[key] for row in rows) for key in ("hours", "false_accepts", "found", "words")}
    low, high = interval(total["false_accepts"])
    total |= {"per_hour": total["false_accepts"] / total["hours"], "interval": [low / total["hours"], high / total["hours"]]}
    print(json.dumps({"sum": total}))


if __name__ == "__main__":
    main()
