#!/usr/bin/env python3
"""Writes the model cards models/<name>.md from what the programs measure.

Runs `swr eval` and `swr inspect` (build first: cargo build --bin swr) and reads the trainer's *.training.json.
Usage: trainer/scripts/cards.py [--data ../shared/speech] [--swr target/debug/swr]
"""
import argparse
import json
import subprocess
from pathlib import Path

MODELS = Path("models")
# Language: name, split that is reported, data, speakers of the split.
LANGUAGES = {
    "en": ("English", "test", "Real recordings (Speech Commands, and the English sources of the MSWC folder) and 2,800 project-made "
           "synthetic training clips (espeak-ng).", "24 known speakers, and clips whose speakers are not told"),
    "ar": ("Modern Standard Arabic", "test", "Real recordings (Arabic Speech Commands, CC BY 4.0).", "4 speakers"),
    "zh": ("Mandarin", "test", "Real recordings (DSPSpeech-20, MIT). The training speakers are in the English base as well; the TEST "
           "speakers are in neither.", "3 speakers"),
    "de": ("German", "dev+test", "**Synthetic speech only** (espeak-ng): nothing here tells how well real voices are recognised.",
           "6 synthetic voices"),
    "pl": ("Polish", "dev+test", "**Synthetic speech only** (espeak-ng): nothing here tells how well real voices are recognised.",
           "6 synthetic voices"),
}

def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 2:
        raise SystemExit(f"{' '.join(command)}: {done.stderr}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def percent(share):
    return f"{100 * share['accuracy']:.1f} % of {share['clips']}"


def grouped(parts):
    """Bytes of the file's parts, tensors put together by what they are."""
    sums = {}
    for part in parts:
        name = part["part"]
        kind = ("convolutions" if name.endswith(".conv.weight") else "norms" if ".norm." in name
                else "classifier" if name.startswith("classifier") else name)
        sums[kind] = sums.get(kind, 0) + part["bytes"]
    return sums


def card(swr, data, language):
    name, split, origin, speakers = LANGUAGES[language]
    evaluate = ["eval", "--data", data, "--lang", language, "--split", split]
    clips = run(swr, *evaluate, "--json")[-1]
    listen = ["eval", "--stream", "--minutes", "10", "--data", data, "--lang", language]
    stream = run(swr, *listen, "--json")[-1]
    low, high = clips["interval"]
    alarms = stream["false_alarms_interval"]
    found = stream["detection_interval"]
    manifest = json.loads((MODELS / "base.json").read_text())
    base = language == "en"
    report = manifest["training"] if base else json.loads((MODELS / f"{language}.training.json").read_text())
    labels = manifest["labels"] if base else report["resolved"]["labels"]
    lines = [f"# {name} (`{language}`)" + (": the base" if base else ": a delta on the base"), ""]
    lines += [f"{len(labels) - 2} keywords: {', '.join(labels[:-2])}.", "", "## Data", "", origin]
    lines += ["Sources and their licences: `ATTRIBUTION.md` of the speech folder. The weights are MIT OR Apache-2.0.", ""]
    lines += ["## Accuracy", "", "| clips | right | 95 % (Wilson, clips taken as independent) | keywords | unknown | silence |",
              "|---|---|---|---|---|---|"]
    lines += [f"| {split}, {clips['clips']} | **{100 * clips['accuracy']:.1f} %** | {100 * low:.1f}-{100 * high:.1f} | "
              f"{percent(clips['keywords'])} | {percent(clips['unknown'])} | {percent(clips['silence'])} |", ""]
    lines += [f"These are {speakers}: clips of one speaker are not independent, so the true uncertainty is larger. "
              f"Measured on the file as it lies here: `swr {' '.join(evaluate)}`.", ""]
    lines += ["## In a stream", "",
              f"{stream['hours'] * 60:.0f} minutes of {stream['split']} clips in background noise at 10-20 dB SNR with 2-4 s gaps, a fifth of the "
              f"clips unknown words: {stream['found']} of {stream['expected']} keywords detected "
              f"({100 * found[0]:.0f}-{100 * found[1]:.0f} %), {stream['false_alarms']} false alarms = "
              f"{stream['false_alarms_per_hour']:.0f} per hour (exact Poisson 95 %: {alarms[0]:.0f}-{alarms[1]:.0f}; ten minutes can prove no "
              f"less). `swr {' '.join(listen)}`.", ""]
    lines += ["## Bytes", ""]
    if base:
        size = (MODELS / "base.onnx").stat().st_size
        lines += [f"`base.onnx` {size} bytes, {manifest['architecture']}, weights in f32.", "", "## Command", "", "```sh",
                  "cargo train synth clips --out target/synth", "cargo train base --data ../shared/speech --extra target/synth", "```", ""]
    else:
        inspected = next(line for line in run(swr, "inspect", str(MODELS), "--json") if line.get("lang") == language)
        lines += [f"{inspected['file_bytes']} bytes; budget {inspected['budget']}: {inspected['changed']} of {inspected['allowed']} convolution "
                  f"weights changed. With norms and classifier: {sum(report['changed'].values())} values.", "", "| part | bytes |", "|---|---|"]
        lines += [f"| {part} | {size} |" for part, size in grouped(inspected["parts"]).items()]
        most = sorted(report["changed_by_tensor"].items(), key=lambda pair: -pair[1])
        convolutions = [f"`{t.removesuffix('.conv.weight')}` {n}" for t, n in most if t.endswith(".conv.weight")]
        lines += ["", "Convolution weights chosen by the gates, by tensor: " + ", ".join(convolutions) + ".", ""]
        adapt = f"--lang {language} --budget {inspected['budget']}"
        command = [f"cargo train adapt --data ../shared/speech {adapt}"]
        if "Synthetic" in origin:
            command = ["cargo train synth clips --out target/synth", f"cargo train adapt --data ../shared/speech --extra target/synth {adapt}"]
        lines += ["## Command", "", "```sh", *command, "```", ""]
    (MODELS / f"{'base' if base else language}.md").write_text("\n".join(lines))
    print(f"{language}: {percent(clips)} clips, {stream['found']}/{stream['expected']} in the stream, {stream['false_alarms']} false alarms")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="../shared/speech")
    parser.add_argument("--swr", default="target/debug/swr")
    parser.add_argument("--lang", action="append", choices=LANGUAGES)
    arguments = parser.parse_args()
    for language in arguments.lang or LANGUAGES:
        card(arguments.swr, arguments.data, language)


if __name__ == "__main__":
    main()
