#!/usr/bin/env bash
# ffmpeg takes the 16-bit samples of a RIFX file, a WAV with the highest byte first, for samples with the lowest first: noise, without a warning and with exit code 0.
#
# Guessed: read as sox and libsndfile read it, since its header is understood (rate, channels and length are right), or refused.
# Seen with ffmpeg 7.0.2 (the static build in imageio-ffmpeg 0.6.0) and 5.1.9 (Debian 12): a sine of amplitude 8,000, root mean square 5,656, comes out at 18,425.
# libsndfile 1.2.2 (in soundfile 0.13.1) reads the same file as it is. Who converts such recordings with ffmpeg keeps noise.
#
# Exits with 0 if this is still so, with 1 if it has changed. Needs python3 with venv, and a network.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet imageio-ffmpeg==0.6.0 soundfile==0.13.1 numpy==2.2.6
venv/bin/python - <<'PYTHON'
import array, math, struct, subprocess, sys

import imageio_ffmpeg, soundfile

ffmpeg = imageio_ffmpeg.get_ffmpeg_exe()
print(subprocess.run([ffmpeg, "-version"], capture_output=True, text=True).stdout.splitlines()[0])
print("libsndfile", soundfile.__libsndfile_version__)

samples = [int(8000 * math.sin(2 * math.pi * 440 * i / 16000)) for i in range(16000)]
for name, magic, end in [("RIFF", b"RIFF", "<"), ("RIFX", b"RIFX", ">")]:
    form = struct.pack(end + "HHIIHH", 1, 1, 16000, 32000, 2, 16)
    data = struct.pack(f"{end}{len(samples)}h", *samples)
    length = struct.pack(end + "I", 36 + len(data))
    chunks = b"WAVEfmt " + struct.pack(end + "I", 16) + form + b"data" + struct.pack(end + "I", len(data)) + data
    with open(f"{name}.wav", "wb") as file:
        file.write(magic + length + chunks)


def level(values):
    return round(math.sqrt(sum(v * v for v in values) / len(values)))


found = {}
for name in ["RIFF", "RIFX"]:
    command = [ffmpeg, "-nostdin", "-v", "warning", "-guess_layout_max", "0", "-i", f"{name}.wav", "-f", "s16le", "-"]
    done = subprocess.run(command, capture_output=True)
    read = array.array("h", done.stdout)
    other = soundfile.read(f"{name}.wav", dtype="int16")[0].tolist()
    found[name] = (done.returncode, len(read), level(read), level(other), done.stderr.decode().strip())
    print(name, "ffmpeg: exit", done.returncode, "samples", len(read), "level", level(read), "libsndfile: level", level(other))

expected = {"RIFF": (0, 16000, 5656, 5656, ""), "RIFX": (0, 16000, 18425, 5656, "")}
if found != expected:
    print("changed: expected", expected, "found", found)
    sys.exit(1)
PYTHON
