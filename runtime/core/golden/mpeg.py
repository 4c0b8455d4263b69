"""Writes word.mp3, word.aac and word.m4a, mpeg.json with what ffmpeg decodes from them, and the fuzz seeds of these and other containers.

Made of word.flac (see audio.py), so the speech is synthetic. Needs ffmpeg (apt-get install ffmpeg).
Run in this folder: python3 mpeg.py
tests/mpeg.rs decodes the files and compares.
"""

import array
import json
import subprocess
from pathlib import Path

# Numbers of ffmpeg's samples that are kept: one of this many.
STEP = 200
SEEDS = Path("../fuzz/seeds/audio")
FFMPEG = "ffmpeg -y -loglevel error -fflags +bitexact -i"
PLAIN = "-map_metadata -1 -flags:a +bitexact"


def run(command):
    return subprocess.run(command.split(), check=True, stdout=subprocess.PIPE).stdout


if __name__ == "__main__":
    result = {}
    for name, options in [
        ("word.mp3", "-c:a libmp3lame -b:a 32k -id3v2_version 3"),
        ("word.aac", "-c:a aac -b:a 32k"),
        ("word.m4a", "-c:a aac -b:a 32k"),
    ]:
        run(f"{FFMPEG} word.flac {PLAIN} {options} {name}")
        samples = array.array("f", run(f"{FFMPEG} {name} -f f32le -"))
        result[name] = {"samples": len(samples), f"every_{STEP}th": [round(s, 7) for s in samples[::STEP]]}
        (SEEDS / name).write_bytes(Path(name).read_bytes())
    json.dump(result, open("mpeg.json", "w"), indent=1)
    short = "-t 0.02 -ar 16000"
    for name, options in [
        ("front.m4a", "-c:a aac -b:a 32k -movflags +faststart -t 0.2"),
        ("pieces.m4a", "-c:a aac -b:a 32k -movflags +frag_keyframe+empty_moov -t 0.2"),
        ("tone.w64", f"-f w64 {short}"),
        ("tone.rf64", f"-f wav -rf64 always {short}"),
        ("wide.wav", f"-c:a pcm_s24le -ac 6 {short}"),
        ("law.wav", f"-c:a pcm_alaw {short}"),
    ]:
        run(f"{FFMPEG} word.flac {PLAIN} {options} {SEEDS / name}")
