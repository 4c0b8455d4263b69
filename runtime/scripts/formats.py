#!/usr/bin/env python3
"""Makes recordings of every kind that people have, runs `swr` on them and says whether each is heard right.

    runtime/scripts/formats.py [--swr target/release/swr] [--keep DIR] [--json]

The audio is six words of models/demo/de.flac, 13 s, with the same signal in every channel. Needs ffmpeg, sox and sndfile-programs.
The control is what `swr spot` finds in it as 16-bit WAV, 16 kHz, mono. A recording is

  right    lossless at 16 kHz: the control's events, to the score (8-bit, A-law and mu-law have other samples and count as lossy);
           lossless at higher rates, and lossy: the same words within 50 ms;
           below 16 kHz, and with few bits: no error, words may be missing
  refused  not heard, but the error names the format; allowed for what swr need not read, and on standard input for all but WAV
  wrong    anything else

Recordings that a program makes on standard input are judged twice, from the file and on standard input, where `swr listen` hears them.
The last two columns say whether ffmpeg decodes the files and whether libsndfile opens them. Exits with 0 if nothing is wrong, else with 1.
Each recording is deleted when it was heard, unless --keep names a folder: then about 3 GB stay in it.
"""
import argparse
import array
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import wave
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Parts of the demo in seconds: licht; an, zwei; runter, schließen; nein. The times of these words change by 30 ms at most when the signal is
# shifted by less than a hop, or coded with enough bits; those of others, such as "rechts", by 150 ms.
PARTS = [(0, 2.6), (9.2, 12.4), (28, 32.2), (48.6, 50.6)]
CHANNELS = [1, 2, 6]
RATES = [8000, 11025, 16000, 22050, 32000, 44100, 48000, 96000, 192000]
OTHERS_PIPED = "All but WAV, standard input"
LOSSY_RATES = [8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000]
# How ffmpeg and sox call the kinds of samples.
SAMPLES = {
    "u8": ("pcm_u8", "-b 8 -e unsigned-integer"),
    "s16": ("pcm_s16le", "-b 16 -e signed-integer"),
    "s24": ("pcm_s24le", "-b 24 -e signed-integer"),
    "s32": ("pcm_s32le", "-b 32 -e signed-integer"),
    "f32": ("pcm_f32le", "-b 32 -e floating-point"),
    "f64": ("pcm_f64le", "-b 64 -e floating-point"),
}


@dataclass
class Recording:
    kind: str
    name: str
    command: str  # for the shell, makes the file `name` of 1.wav, 2.wav, 3.wav or 6.wav: the audio in so many channels
    rate: int = 16000
    lossy: bool = True
    poor: bool = False  # has so few bits that words may be missing
    late: float = 0.0  # seconds by which words may come later, because the file does not say what its encoder put before them
    refusal: str = ""  # pattern of the name in an error that is allowed; none: the recording must be heard
    stdin: bool = False  # is judged on standard input as well
    stdin_refusal: str = ""


def made(kind, label, extension, command, **more):
    """A recording by a command, in which OUT stands for the file."""
    name = f"{re.sub('[^a-z0-9]+', '-', kind.lower())}-{label}.{extension}"
    return Recording(kind, name, " ".join(command.replace("OUT", name).split()), **more)


def ffmpeg(kind, label, extension, channels, options, out="OUT", **more):
    return made(kind, label, extension, f"ffmpeg -v error -nostdin -y -i {channels}.wav {options} {out}", **more)


def sox(kind, label, extension, channels, options, out="OUT", **more):
    return made(kind, label, extension, f"sox -V1 -R -D {channels}.wav {options} {out}", **more)


def lossless():
    sizes = list(itertools.product(CHANNELS, RATES))
    for (sample, (codec, _)), (channels, rate) in itertools.product(SAMPLES.items(), sizes):
        yield ffmpeg(f"WAV {sample}", f"{channels}ch-{rate}", "wav", channels, f"-c:a {codec} -ar {rate}", rate=rate, lossy=sample == "u8")
    levels = [0, 8, 12]
    for (sample, form), (index, (channels, rate)) in itertools.product([("s16", "s16"), ("s24", "s32")], enumerate(sizes)):
        # By turns, but at 16 kHz all of them.
        for level in [levels[(index + channels // 2) % 3]] if rate != 16000 else levels:
            yield ffmpeg(f"FLAC {sample}", f"{channels}ch-{rate}-level{level}", "flac", channels,
                         f"-sample_fmt {form} -compression_level {level} -ar {rate}", rate=rate, lossy=False,
                         stdin=(channels, rate, level) == (1, 16000, 8), stdin_refusal="FLAC")
    for index, (channels, rate) in enumerate(sizes):
        for sample in [list(SAMPLES)[(index + channels // 2) % 6]] if rate != 16000 else SAMPLES:
            (codec, coding), more = SAMPLES[sample], {"rate": rate, "lossy": sample == "u8"}
            label, options = f"{sample}-{channels}ch-{rate}", f"-c:a {codec} -ar {rate}"
            yield ffmpeg("RF64", label, "wav", channels, f"{options} -rf64 always", **more)
            yield ffmpeg("Wave64", label, "w64", channels, options, **more)
            yield sox("RIFX", label, "wav", channels, f"-B {coding} -r {rate}", **more)
            yield ffmpeg("WAV, extensible", label, "wavex", channels, f"{options} -f wav",
                         "OUT.wav && sndfile-convert OUT.wav OUT && rm OUT.wav", **more)
            yield ffmpeg("WAV from ffmpeg's pipe", label, "wav", channels, f"{options} -f wav", "- | cat > OUT", stdin=True, **more)
            # Raw samples, whose number sox does not know either.
            raw = f"-t raw - | sox -V1 -R -D -t raw -r 16000 -b 16 -e signed-integer -c {channels} -"
            yield sox("WAV from sox's pipe", label, "wav", channels, f"{raw} {coding} -r {rate} -t wav", "- | cat > OUT", stdin=True, **more)


def lossy():
    for (law, codec), channels, rate in itertools.product([("A-law", "pcm_alaw"), ("mu-law", "pcm_mulaw")], CHANNELS, RATES):
        yield ffmpeg(f"WAV {law}", f"{channels}ch-{rate}", "wav", channels, f"-c:a {codec} -ar {rate}", rate=rate)

    modes = [(1, "mono", ""), (2, "joint", "-joint_stereo 1"), (2, "stereo", "-joint_stereo 0")]
    for rate, quality, (channels, mode, option) in itertools.product(LOSSY_RATES, ["b:a 64k", "b:a 128k", "b:a 320k", "q:a 4"], modes):
        yield ffmpeg("MP3 VBR" if quality == "q:a 4" else "MP3 CBR", f"{mode}-{rate}-{quality[4:]}", "mp3", channels,
                     f"-c:a libmp3lame -{quality} {option} -ar {rate}", rate=rate, poor=(quality, mode) == ("b:a 64k", "stereo"),
                     stdin=(rate, mode, quality) == (16000, "mono", "b:a 64k"), stdin_refusal="MP3|MPEG")
    bare = {"no-tag": "-id3v2_version 0", "no-length": "-write_xing 0", "neither": "-id3v2_version 0 -write_xing 0"}
    for rate, (label, options) in itertools.product(LOSSY_RATES, bare.items()):
        yield ffmpeg("MP3, bare", f"{label}-{rate}", "mp3", 1, f"-c:a libmp3lame -b:a 64k {options} -ar {rate}", rate=rate,
                     late=1105 / rate if "xing" in options else 0, stdin=rate == 16000, stdin_refusal="MP3|MPEG")

    for (channels, factor), kbit, frame in itertools.product([(1, 1), (2, 1), (6, 3)], [16, 24, 64, 128], [2.5, 5, 10, 20, 40, 60]):
        yield ffmpeg("Opus", f"{channels}ch-{factor * kbit}k-{frame}ms", "opus", channels,
                     f"-c:a libopus -b:a {factor * kbit}k -frame_duration {frame}", poor=kbit == 16 or kbit == 24 and frame < 20,
                     stdin=(channels, kbit, frame) == (1, 24, 20), stdin_refusal="Ogg|Opus")
    for rate, channels in itertools.product([8000, 12000, 24000, 48000], CHANNELS):
        yield ffmpeg("Opus", f"{channels}ch-{rate}", "opus", channels, f"-c:a libopus -ar {rate}", rate=rate)
    for channels, kbit in itertools.product([1, 2, 3, 6], [24, 64, 128]):
        yield ffmpeg("Opus, family 255", f"{channels}ch-{channels * kbit}k", "opus", channels,
                     f"-c:a libopus -b:a {channels * kbit}k -mapping_family 255")

    for rate, channels, fast in itertools.product(LOSSY_RATES, [1, 2], ["", "-movflags +faststart"]):
        yield ffmpeg("AAC-LC in M4A", f"{channels}ch-{rate}{'-fast' if fast else ''}", "m4a", channels,
                     f"-c:a aac -b:a {64 * channels}k -ar {rate} {fast}", rate=rate,
                     stdin=(rate, channels) == (16000, 1), stdin_refusal="MP4|M4A")


def other():
    """What need not be heard, if the error says what it is. On standard input the container's name is enough."""
    containers = dict.fromkeys(["m4a", "mp4", "mov", "3gp"], "MP4|M4A|MOV|3GP") | dict.fromkeys(["ogg", "oga", "spx"], "Ogg")

    def kind(name, extension, refusal, options, program=ffmpeg, rate=16000, **more):
        option = f"-r {rate}" if program == sox else f"-ar {rate}"
        return program(name, rate, extension, 1, f"{options} {option}", rate=rate, refusal=refusal, stdin=True,
                       stdin_refusal=containers.get(extension, refusal), **more)

    for rate in LOSSY_RATES:
        yield kind("AAC, ADTS", "aac", "AAC|ADTS", "-c:a aac -b:a 64k", rate=rate, late=1024 / rate)
    yield kind("AAC in fragmented M4A", "m4a", "(?i)fragment", "-c:a aac -movflags +frag_keyframe+empty_moov", late=1024 / 16000)
    yield kind("AAC beside video, MP4", "mp4", "MP4|AAC", "-f lavfi -i testsrc=s=64x64:r=5 -map 1:v -map 0:a -c:v mpeg4 -c:a aac -shortest")
    yield kind("AAC in MOV", "mov", "MOV|QuickTime|MP4|AAC", "-c:a aac")
    yield kind("AAC in 3GP", "3gp", "3GP|MP4|AAC", "-c:a aac")
    yield kind("HE-AAC in M4A", "m4a", "HE-AAC|SBR", "-c:a libfdk_aac -profile:a aac_he", rate=44100, late=0.1)
    yield kind("ALAC in M4A", "m4a", "ALAC|Apple Lossless", "-c:a alac")
    yield kind("AC-3 in MP4", "mp4", "AC-?3", "-c:a ac3", rate=48000)
    yield kind("Opus in MP4", "mp4", "Opus", "-c:a libopus")
    yield kind("FLAC in MP4", "mp4", "FLAC", "-c:a flac -strict -2")
    yield kind("MP3 in MP4", "mp4", "MP3|MPEG", "-c:a libmp3lame", rate=44100, late=0.05)
    yield kind("AIFF", "aiff", "AIFF", "")
    yield kind("AIFF-C", "aifc", "AIFF", "", sox)
    yield kind("CAF", "caf", "CAF|Core Audio", "")
    yield kind("AU", "au", r"\bAU\b", "")
    yield kind("Ogg Vorbis", "ogg", "Vorbis", "-c:a libvorbis")
    yield kind("Ogg FLAC", "oga", "FLAC", "-c:a flac")
    yield kind("Ogg Speex", "spx", "Speex", "-c:a libspeex")
    yield kind("WebM, Opus", "webm", "WebM|Matroska", "-c:a libopus", rate=48000)
    yield kind("Matroska, PCM", "mka", "Matroska", "-c:a pcm_s16le")
    yield kind("WavPack", "wv", "WavPack", "")
    yield kind("WMA", "wma", "WMA|Windows Media|ASF", "-c:a wmav2", rate=44100)
    yield kind("MP2", "mp2", "MP2|MPEG", "-c:a mp2", rate=48000, late=0.05)
    yield kind("MP3 in WAV", "wav", "MP3|MPEG", "-c:a libmp3lame", rate=44100, late=0.05)
    yield kind("MS ADPCM in WAV", "wav", "ADPCM", "-c:a adpcm_ms")
    yield kind("IMA ADPCM in WAV", "wav", "ADPCM", "-c:a adpcm_ima_wav")
    yield kind("GSM in WAV", "wav", "GSM", "-e gsm-full-rate", sox, 8000)
    yield kind("AMR, narrow band", "amr-nb", "AMR", "-C 7", sox, 8000)
    yield kind("AMR, wide band", "amr-wb", "AMR", "", sox)


def write_audio(folder):
    """1.wav, 2.wav, 3.wav and 6.wav: the parts of the demo in so many channels. Returns the samples of one."""
    decode = ["ffmpeg", "-loglevel", "error", "-i", ROOT / "models/demo/de.flac", "-f", "s16le", "-"]
    whole = array.array("h", subprocess.run(decode, check=True, capture_output=True).stdout)
    signal = array.array("h")
    for start, end in PARTS:
        signal += whole[int(16000 * start) : int(16000 * end)]
    for channels in [1, 2, 3, 6]:
        frames = array.array("h", bytes(2 * channels * len(signal)))
        for channel in range(channels):
            frames[channel::channels] = signal
        with wave.open(str(folder / f"{channels}.wav"), "wb") as file:
            file.setparams((channels, 2, 16000, 0, "NONE", ""))
            file.writeframes(frames.tobytes())
    return signal


def loudness(samples):
    return sum(sample * sample for sample in samples[::8])


def ffmpeg_decodes(folder, name, signal):
    """Whether all of `signal` comes out, about as loud: ffmpeg's exit code is 0 for files that it makes noise of as well."""
    command = ["ffmpeg", "-v", "quiet", "-nostdin", "-i", name, "-map", "0:a", "-ac", "1", "-ar", "16000", "-f", "s16le", "-"]
    decoded = array.array("h", subprocess.run(command, cwd=folder, capture_output=True).stdout)
    return abs(len(decoded) - len(signal)) < 0.3 * 16000 and 0.1 < loudness(decoded) / loudness(signal) < 10


def libsndfile_opens(folder, name):
    done = subprocess.run(["sndfile-info", name], cwd=folder, capture_output=True, text=True, errors="replace")
    return "Not able to open" not in done.stdout


def hear(swr, folder, name, stdin=False):
    """Exit code, events and talk of `swr` about a file."""
    command = ["timeout", "60", swr, "listen" if stdin else "spot", "--lang", "de", "--json", "--models", ROOT / "models"]
    with open(folder / name if stdin else os.devnull) as file:
        done = subprocess.run(command + (["--file", "-"] if stdin else [name]), stdin=file, capture_output=True, text=True, cwd=folder)
    events = [{key: event[key] for key in ("time_s", "keyword", "score")} for event in map(json.loads, done.stdout.splitlines())]
    # Without the path, which may name the format.
    return done.returncode, events, done.stderr.replace(f"swr: {name}: ", "").removeprefix("swr: ").strip()


def same(events, control, before=0.0, after=0.0, score=1.0):
    """Whether `events` are the control's, at most so many seconds before and after them, with scores that differ by so much at most."""
    return [e["keyword"] for e in events] == [c["keyword"] for c in control] and all(
        -before - 1e-6 < e["time_s"] - c["time_s"] < after + 1e-6 and abs(e["score"] - c["score"]) <= score
        for e, c in zip(events, control))


def names(talk, pattern):
    """Whether the error names the format; what it expected, and what the file is not, are other formats. No recording is damaged."""
    problem = re.sub(r"\bnot an? .*", "", talk.split(";")[0])
    return bool(pattern and re.search(pattern, problem)) and "damaged" not in problem


def verdict(recording, control, code, events, talk, refusal):
    if code == 2 and names(talk, refusal):
        return "refused"
    if code not in (0, 1):
        return "wrong"
    if recording.poor or recording.rate < 16000:
        return "right"
    if recording.lossy or recording.rate > 16000:
        return "right" if same(events, control, 0.05, 0.05 + recording.late) else "wrong"
    return "right" if same(events, control, score=1e-4) else "wrong"


def judge(swr, folder, signal, control, recording, keep):
    """Makes a recording, has it heard and returns its rows; one with `problem` if it cannot be made."""
    base = {key: getattr(recording, key) for key in ("kind", "name", "command", "rate", "lossy", "poor")}
    done = subprocess.run(["bash", "-o", "pipefail", "-c", recording.command], cwd=folder, capture_output=True, text=True)
    if done.returncode != 0 or not (folder / recording.name).exists():
        return [{**base, "verdict": "not made", "problem": done.stderr.strip().partition("\n")[0]}]
    base |= {"ffmpeg": ffmpeg_decodes(folder, recording.name, signal), "libsndfile": libsndfile_opens(folder, recording.name)}
    rows = []
    for stdin in [False, True] if recording.stdin else [False]:
        code, events, talk = hear(swr, folder, recording.name, stdin)
        refusal = recording.stdin_refusal if stdin else recording.refusal
        # WAV is what standard input takes; the others are one kind there.
        piped = f"{recording.kind}, standard input" if not refusal else OTHERS_PIPED
        rows.append({**base, "kind": piped if stdin else recording.kind, "stdin": stdin,
                     "verdict": verdict(recording, control, code, events, talk, refusal),
                     "exit": code, "events": events, "talk": talk})
    if not keep:
        (folder / recording.name).unlink()
    return rows


def told(events):
    return ", ".join(f"{e['keyword']} {e['time_s']:.2f}" for e in events) or "nothing"


def report(rows, control):
    def share(group, key):
        count = sum(row[key] for row in group)
        return {0: "no", len(group): "yes"}.get(count, f"{count} of {len(group)}")

    print("| kind | files | right | refused by name | wrong | ffmpeg decodes | libsndfile opens |\n|---|---|---|---|---|---|---|")
    heard = [row for row in rows if row["verdict"] != "not made"]
    kinds = sorted(dict.fromkeys(row["kind"] for row in heard), key=lambda kind: kind == OTHERS_PIPED)
    for kind in [*kinds, "all"]:
        group = [row for row in heard if kind in (row["kind"], "all")]
        counts = [sum(row["verdict"] == verdict for row in group) for verdict in ("right", "refused", "wrong")]
        print("|", " | ".join(map(str, [kind, len(group), *counts, share(group, "ffmpeg"), share(group, "libsndfile")])), "|")

    for place, stdin in [("in files", False), ("on standard input", True)]:
        high = [row["events"] for row in heard if row["stdin"] == stdin and not row["lossy"] and row["rate"] > 16000 and row["verdict"] == "right"]
        differences = [abs(e["score"] - c["score"]) for events in high for e, c in zip(events, control)]
        print(f"\nLossless above 16 kHz {place}: {sum(same(events, control) for events in high)} of {len(high)} that are right have exactly the "
              f"control's words and times, {sum(same(events, control, score=1e-4) for events in high)} the scores to 0.0001 as well; "
              f"scores differ by {max(differences, default=0):.4f} at most.")
    low = [row for row in heard if (row["poor"] or row["rate"] < 16000) and row["exit"] in (0, 1) and not row["stdin"]]
    words = {c["keyword"] for c in control}
    found = sum(len(words & {e["keyword"] for e in row["events"]}) for row in low)
    print(f"\nBelow 16 kHz or of few bits: {found} of the {len(words) * len(low)} words of {len(low)} recordings that were heard.")
    print(f"\nExpected: {told(control)}")

    for title, verdict in [("Refused by name", "refused"), ("Wrong", "wrong"), ("Not made", "not made")]:
        # What is said of several files of a kind is said once.
        groups = {}
        for row in rows:
            if row["verdict"] == verdict:
                said = row.get("problem") or (f"heard {told(row['events'])}" if row["exit"] in (0, 1) else f"exit {row['exit']}: {row['talk']}")
                groups.setdefault((row["kind"], said), []).append(row)
        for index, ((kind, said), group) in enumerate(groups.items()):
            heading = f"\n{title}:\n" if index == 0 else ""
            print(f"{heading}- {kind}: {said}\n  {', '.join(row['name'] for row in group)}\n  made by: {group[0]['command']}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    built = ROOT / "target/debug/swr"
    parser.add_argument("--swr", type=Path, default=built if built.exists() else ROOT / "target/release/swr")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="folder for the recordings, which stay there")
    parser.add_argument("--json", action="store_true", help="one object per recording")
    args = parser.parse_args()
    for program in ["ffmpeg", "sox", "sndfile-info", "sndfile-convert"]:
        if not shutil.which(program):
            sys.exit(f"{program} is not installed: apt-get install ffmpeg sox libsox-fmt-all sndfile-programs")

    with tempfile.TemporaryDirectory() as temporary:
        folder = (args.keep or Path(temporary)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        signal = write_audio(folder)
        swr = args.swr.resolve()
        code, control, talk = hear(swr, folder, "1.wav")
        if code != 0 or len(control) != 6:
            sys.exit(f"the control is not heard: {told(control)} {talk}")
        recordings = [*lossless(), *lossy(), *other()]
        assert len({recording.name for recording in recordings}) == len(recordings), "two recordings have one name"
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            results = pool.map(lambda recording: judge(swr, folder, signal, control, recording, args.keep), recordings)
            rows = [row for result in results for row in result]
    if args.json:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
    else:
        report(rows, control)
    sys.exit(any(row["verdict"] == "wrong" for row in rows))


if __name__ == "__main__":
    main()
