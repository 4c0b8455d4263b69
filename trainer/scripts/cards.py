#!/usr/bin/env python3
"""Measures the released models and writes what came of it: for every size models/<size>/hearing.jsonl and .svg and the cards models/<size>/<name>.md, and
models/README.md.

Runs `swr eval` and `swr inspect` (build first: cargo build --release --bin swr) and reads the trainer's *.training.json. TEST is opened here, and nowhere before.
Usage: trainer/scripts/cards.py [--models models] [--data ../shared/speech] [--more ../shared/speech-more] [--synth target/synth/synth] [--swr target/release/swr]
       [--measure small,large]
"""
import argparse
import json
import math
import subprocess
import sys
from pathlib import Path

SYNTHETIC = "**Synthetic speech only** (espeak-ng): nothing here tells how well real voices are recognised."
VOICES = "6 synthetic voices"
SIZES = ["small", "large"]
# What a size's base has heard besides English, before its last training on English alone.
ALSO_HEARD = {"small": "Before it was trained on English alone, it heard the TRAIN clips of Mandarin and synthetic German, Polish, Spanish, French, Italian and Russian "
                       "(`trainer/RECIPES.md`, *A base made to be changed*). Arabic it never heard."}
# Of the English words, ten that a device might want alone.
TEN = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]
# Language: name, split whose clips are reported, data, speakers of the split.
LANGUAGES = {
    "en": ("English", "test", "Real recordings (Speech Commands, and the English sources of the MSWC folder) and 2,800 project-made synthetic training clips "
           "(espeak-ng).", "24 known speakers, and clips whose speakers are not told"),
    "ar": ("Modern Standard Arabic", "test", "Real recordings (Arabic Speech Commands, CC BY 4.0).", "4 speakers"),
    "zh": ("Mandarin", "test", "Real recordings (DSPSpeech-20, MIT). The training speakers are in the English base as well; the TEST speakers are in neither.",
           "3 speakers"),
    "de": ("German", "dev+test", SYNTHETIC, VOICES),
    "pl": ("Polish", "dev+test", SYNTHETIC, VOICES),
    "es": ("Spanish", "dev+test", SYNTHETIC, VOICES),
    "fr": ("French", "dev+test", SYNTHETIC, VOICES),
    "it": ("Italian", "dev+test", SYNTHETIC, VOICES),
    "ru": ("Russian", "dev+test", SYNTHETIC, VOICES),
}


def run(*command):
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode == 2:
        raise SystemExit(f"{' '.join(command)} failed")
    return [json.loads(line) for line in done.stdout.splitlines()]


def percent(share):
    return f"{100 * share['accuracy']:.1f} % of {share['clips']}"


def share(count, of, interval):
    return f"{count} of {of} ({100 * interval[0]:.0f}-{100 * interval[1]:.0f} %)"


def wilson(count, of):
    z, p = 1.96, count / of
    centre, width = p + z * z / (2 * of), z * math.sqrt(p * (1 - p) / of + z * z / (4 * of * of))
    return (centre - width) / (1 + z * z / of), (centre + width) / (1 + z * z / of)


def rate(quiet):
    low, high = quiet["false_accepts_interval"]
    return f"{quiet['false_accepts_per_hour']:.0f} ({quiet['false_accepts']} in {quiet['hours']:.2f} h; {low:.0f}-{high:.0f})"


def grouped(parts):
    """Bytes of the file's parts, tensors put together by what they are."""
    sums = {}
    for part in parts:
        name = part["part"]
        kind = ("convolutions" if name.endswith(".conv.weight") else "norms" if ".norm." in name
                else "classifier" if name.startswith("classifier") else name)
        sums[kind] = sums.get(kind, 0) + part["bytes"]
    return sums


def by_recordings(row, recorded):
    """Rows of a card: keywords with many recordings to train on, and with few."""
    groups = {"1,000 training recordings and more": (1000, 10**9), "100 to 999": (100, 999), "fewer than 100": (1, 99)}
    for name, (least, most) in groups.items():
        words = [k for k in row["keywords"] if least <= recorded.get(k["keyword"], 0) <= most]
        if words:
            found, expected, accepts = (sum(word[key] for word in words) for key in ("found", "expected", "false_accepts"))
            yield f"| of these, {len(words)} keywords of {name} | {share(found, expected, wilson(found, expected))}, {accepts} false accepts |"


def hearing(row, recorded, command):
    """The section of a card that comes first: what a person hears."""
    words = share(row["found"], row["expected"], row["detection_interval"])
    sentences = row["sentences"]
    lines = ["## What a person hears", "", "| | |", "|---|---|", f"| words found in noise, 10-20 dB | **{words}** |", *by_recordings(row, recorded)]
    if sentences:
        lines += [f"| words found in sentences | {share(sentences['found'], sentences['expected'], sentences['detection_interval'])} |"]
    lines += [f"| false accepts an hour in running speech | **{rate(row['negatives'])}** |"]
    if "german" in row:
        lines += [f"| in recorded German of one speaker, whom training may have heard | {rate(row['german'])} |"]
    if "sentences_of_its_own" in row:
        lines += [f"| in synthetic sentences of the language | {rate(row['sentences_of_its_own'])} |"]
    lines += [f"| in sound and music, some of which training has heard | {rate(row['sounds'])} |"]
    for made in row["made"]:
        lines += [f"| events in {made['sounds']} {made['kind']} made in code, {made['hours']:.2f} h | {len(made['heard'])} |"]
    if "ten_words" in row:
        ten = row["ten_words"]
        lines += [f"| with `--words {','.join(TEN)}` | {share(ten['found'], ten['expected'], ten['detection_interval'])}; {rate(ten['negatives'])} |"]
    if row["delay"]:
        lines += [f"| from the end of a word to its event | {row['delay']['median_ms']:.0f} ms, 95 % within {row['delay']['late_ms']:.0f} ms |"]
    levels = ", ".join(f"{level['found']} at {level['level_db']:.0f} dB{' after a bang' if level['bang'] else ''}" for level in row["levels"])
    lines += [f"| words found by level | {levels} |"]
    for at in row["at_rates"]:
        point = at["point"]
        found = share(point["found"], point["expected"], point["found_interval"]) if point else "none"
        lines += [f"| words found with all thresholds moved to {at['false_accepts_per_hour']:.0f} false accepts an hour or fewer, by these hours themselves | {found} |"]
    lines += ["", "The running speech is recorded, and English, whatever the language." if row["lang"] != "en" else "", "Intervals are of 95 %. The rates are by "
              "the hours in brackets; at the released thresholds, of speakers on whom nothing was chosen.", f"`{command}`", ""]
    return lines


def by_keyword(row):
    """The section of a card with a line for every keyword."""
    rates = [f"{at['false_accepts_per_hour']:.0f}" for at in row["at_rates"]]
    lines = ["## By keyword", "", f"| keyword | found in noise | false accepts in {row['negatives']['hours']:.2f} h | found where it alone keeps {', '.join(rates)} an hour "
             "| delay, median |", "|---|---|---|---|---|"]
    for k in row["keywords"]:
        found = share(k["found"], k["expected"], k["found_interval"]) if k["expected"] else "not said"
        at = ", ".join("-" if at["found"] is None else str(at["found"]) for at in k["at_rates"])
        delay = f"{k['delay']['median_ms']:.0f} ms" if k["delay"] else "-"
        lines += [f"| {k['keyword']} | {found} | {k['false_accepts']} | {at} | {delay} |"]
    return [*lines, "", "Rates of one keyword are told from these hours themselves; in half an hour, one false accept is two an hour.", ""]


def card(a, language, row, command):
    name, split, origin, speakers = LANGUAGES[language]
    evaluate = ["eval", "--data", a.data, "--lang", language, "--split", split]
    clips = run(a.swr, *evaluate, "--models", str(a.models), "--json")[-1]
    low, high = clips["interval"]
    manifest = json.loads((a.models / "base.json").read_text())
    base = language == "en"
    report = manifest["training"] if base else json.loads((a.models / f"{language}.training.json").read_text())
    labels = manifest["labels"] if base else report["resolved"]["labels"]
    clips_of = (report if base else report["resolved"])["training_clips"]
    lines = [f"# {name} (`{language}`)" + (": the base" if base else ": a delta on the base"), ""]
    lines += [f"{len(labels) - 2} keywords: {', '.join(labels[:-2])}.", "", *hearing(row, clips_of.get("recorded", {}), command), "## Data", "", origin]
    lines += [ALSO_HEARD[a.models.name]] if base and a.models.name in ALSO_HEARD else []
    scenes = "scenes" in (report["config"] if base else report["resolved"]["config"])
    lines += ["It heard running speech without keywords (`speech-more`) as well." if scenes else "It was trained on single clips: running speech it never heard."]
    lines += ["Sources and their licences: `ATTRIBUTION.md` of the speech folder. The weights are MIT OR Apache-2.0.", ""]
    lines += ["## Clips", "", "| clips | right | 95 % (Wilson, clips taken as independent) | keywords | unknown | silence |",
              "|---|---|---|---|---|---|"]
    lines += [f"| {split}, {clips['clips']} | {100 * clips['accuracy']:.1f} % | {100 * low:.1f}-{100 * high:.1f} | "
              f"{percent(clips['keywords'])} | {percent(clips['unknown'])} | {percent(clips['silence'])} |", ""]
    lines += [f"These are {speakers}: clips of one speaker are not independent, so the true uncertainty is larger. `swr {' '.join(evaluate)}`.", ""]
    lines += [*by_keyword(row), "## Bytes", ""]
    if base:
        size = (a.models / "base.onnx").stat().st_size
        lines += [f"`base.onnx` {size} bytes, {manifest['architecture']}, weights in f32.", ""]
    else:
        inspected = next(line for line in run(a.swr, "inspect", str(a.models), "--json") if line.get("lang") == language)
        size = inspected["file_bytes"]
        lines += [f"{size} bytes; budget {inspected['budget']}: {inspected['changed']} of {inspected['allowed']} convolution "
                  f"weights changed. With norms and classifier: {sum(report['changed'].values())} values.", "", "| part | bytes |", "|---|---|"]
        lines += [f"| {part} | {size} |" for part, size in grouped(inspected["parts"]).items()] + [""]
    (a.models / f"{'base' if base else language}.md").write_text("\n".join(lines))
    print(f"{language}: {percent(clips)} clips, {row['found']}/{row['expected']} words, {row['negatives']['false_accepts_per_hour']:.1f} false accepts an hour")
    speech = "synthetic" if origin == SYNTHETIC else "recordings"
    found = share(row["found"], row["expected"], row["detection_interval"])
    delay = f"{row['delay']['median_ms']:.0f} ms" if row["delay"] else "-"
    own = rate(row["sentences_of_its_own"]) if "sentences_of_its_own" in row else "-"
    return f"| {name} | {speech} | {len(labels) - 2} | {found} | {rate(row['negatives'])} | {own} | {rate(row['sounds'])} | {delay} | " \
           f"{100 * clips['accuracy']:.1f} % of {clips['clips']} | {size} |"


def together(a, here):
    """Rows: what is found of a language's TEST words, and what is heard in another language, by a device that listens for several at once."""
    for languages in ("en", "de"), ("en", "de", "ar", "zh"):
        if set(languages) <= set(here):
            listen = ["demo", "--data", a.data, "--minutes", "20", "--together", "--lang", ",".join(languages), "--json"]
            for row in run(a.swr, *listen, "--models", str(a.models))[:-1]:
                found = share(row["found"], row["expected"], row["detection_interval"])
                yield f"| {', '.join(languages)} | {LANGUAGES[row['language']][0]} | {found} | {row['other_languages']} | {row['false_alarms'] - row['other_languages']} |"


def measured(a):
    """The section of a size in models/README.md; writes its rows, plot and cards."""
    here = [language for language in LANGUAGES if language == "en" or (a.models / f"{language}.swr").exists()]
    rows_file, plot = a.models / "hearing.jsonl", a.models / "hearing.svg"
    stream = ["eval", "--stream", "--data", a.data, "--negatives"]
    listen = [*stream, f"{a.more}/negatives/en/test", "--minutes", "20", "--sounds", f"{a.more}/noise"]
    command = f"swr {' '.join(listen)} --lang all --size {a.models.name} --json --plot {plot}"
    if a.models.name in a.measure.split(","):
        rows = run(a.swr, *listen, "--lang", ",".join(here), "--models", str(a.models), "--json", "--plot", str(plot))
        for row in rows:
            def also(negatives, *more):
                extra = run(a.swr, *stream, negatives, "--lang", row["lang"], "--models", str(a.models), "--json", *more)[-1]
                extra["negatives"].pop("heard")
                return extra
            # Names of recordings are of no use to those who do not have them.
            for quiet in ("negatives", "sounds"):
                row[quiet].pop("heard")
            sentences = Path(a.synth) / row["lang"] / "sentences" / "test"
            if sentences.is_dir():
                row["sentences_of_its_own"] = also(str(sentences), "--minutes", "1")["negatives"]
            elif LANGUAGES[row["lang"]][2] == SYNTHETIC:
                print(f"{sentences}: not there, so {row['lang']} is not judged by sentences of its own; make them with swr-train synth clips", file=sys.stderr)
            row["german"] = also(f"{a.more}/negatives/de", "--minutes", "1")["negatives"]
            if row["lang"] == "en":
                ten = also(f"{a.more}/negatives/en/test", "--minutes", "20", "--words", ",".join(TEN))
                row["ten_words"] = {key: ten[key] for key in ("found", "expected", "detection_interval", "negatives")}
        rows_file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    rows = {row["lang"]: row for row in map(json.loads, rows_file.read_text().splitlines())}
    table = [card(a, language, rows[language], command) for language in here]
    manifest = json.loads((a.models / "base.json").read_text())
    per_hour = (manifest.get("calibration") or {}).get("false_accepts_per_hour")
    thresholds = (f"one a keyword, chosen for {per_hour:g} false accepts an hour in running speech of DEV speakers, all keywords together" if per_hour
                  else "one a language, chosen on a stream of DEV clips in noise")
    several = list(together(a, here))
    demo = run(a.swr, "demo", "--together", "--models", str(a.models), "--json")[-1]
    demo = f"The demo's audio, listened to for all {len(here)} languages at once (`swr demo --together --size {a.models.name}`): {demo['found']} of " \
           f"{demo['expected']} words, {demo['other_languages']} heard in another language, {demo['false_alarms'] - demo['other_languages']} other false alarms."
    if several:
        several = ["Several languages at once, on their TEST words in noise (`swr demo --together --data ../shared/speech --minutes 20 --lang en,de`):", "",
                   "| listened for | spoken | found | heard in another language | other false alarms |", "|---|---|---|---|---|", *several, ""]
    return [f"## {a.models.name}", "", f"{manifest['architecture']}; thresholds: {thresholds}.", "",
            "| language | speech | keywords | words found in noise | false accepts an hour in running speech | in its own synthetic sentences | in sound and music "
            "| delay | clips right | bytes |", "|---|---|---|---|---|---|---|---|---|---|", *table, "",
            f"```sh\n{command} > {rows_file}\n```", "", "`trainer/scripts/cards.py` adds sentences of a language's own, recorded German and ten words alone, and leaves out the names of "
            "recordings.", "", *several, demo, "", f"![words missed over false accepts an hour]({a.models.name}/hearing.svg)", ""]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", default="models", type=Path, help="folder of the sizes")
    parser.add_argument("--data", default="../shared/speech")
    parser.add_argument("--more", default="../shared/speech-more")
    parser.add_argument("--synth", default="target/synth/synth", help="what `swr-train synth clips` has made: sentences without keywords, by language")
    parser.add_argument("--swr", default="target/release/swr")
    parser.add_argument("--measure", default=",".join(SIZES), help="sizes to measure anew, or none; of the others, hearing.jsonl is taken as it is")
    a = parser.parse_args()
    if unknown := set(a.measure.split(",")) - {*SIZES, "none"}:
        parser.error(f"--measure {a.measure}: no size is called {', '.join(sorted(unknown))}; expected some of {', '.join(SIZES)}, or none")
    folder = a.models
    lines = ["# The released models", "", "At the released thresholds. TEST: words of TEST speakers in noise 10-20 dB below them, 0.55 h of English running speech of "
             "other speakers, a quarter of an hour of synthetic sentences of the language, sound and music; intervals of 95 %. Of \"synthetic\" languages, training and test are espeak-ng's voices, other ones. Each card "
             "has more, `hearing.jsonl` all of it. The folder of one size is a release by itself; `--size` chooses.", ""]
    for a.models in (folder / size for size in SIZES):
        if (a.models / "base.json").exists():
            lines += measured(a)
    (folder / "README.md").write_text("\n".join(lines))


if __name__ == "__main__":
    main()
