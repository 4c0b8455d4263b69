"""Writes word.flac, word.opus and stereo.opus, and audio.json with what other programs decode from them.

The speech is synthetic. Needs espeak-ng, flac, opusenc and libopus (apt-get install espeak-ng flac opus-tools).
Run in this folder: python3 audio.py
tests/audio.rs decodes the files and compares.
"""

import array
import ctypes
import json
import struct
import subprocess
import wave

# Numbers of libopus' samples that are kept: one of this many.
STEP = 200


def run(command):
    subprocess.run(command.split(), check=True)


def make_files():
    run("espeak-ng -v en -s 220 -w word.wav go")
    run("flac --silent --force --best --no-padding word.wav -o word.flac")
    # Speech mode: SILK and hybrid packets.
    run("opusenc --quiet --bitrate 24 --speech --serial 1 --discard-comments --padding 0 word.wav word.opus")
    # Music mode in stereo: CELT packets. The right channel is the left one backwards.
    with wave.open("word.wav") as word:
        rate, left = word.getframerate(), array.array("h", word.readframes(word.getnframes()))
    with wave.open("stereo.wav", "wb") as stereo:
        stereo.setnchannels(2)
        stereo.setsampwidth(2)
        stereo.setframerate(rate)
        stereo.writeframes(b"".join(struct.pack("<hh", *pair) for pair in zip(left, reversed(left))))
    run("opusenc --quiet --bitrate 48 --music --serial 2 --discard-comments --padding 0 stereo.wav stereo.opus")


def ogg_packets(path):
    """All packets, and the granule position of the last page."""
    data, position, packets, packet = open(path, "rb").read(), 0, [], b""
    while position < len(data):
        (granule,) = struct.unpack_from("<q", data, position + 6)
        lengths = data[position + 27 : position + 27 + data[position + 26]]
        position += 27 + len(lengths)
        for length in lengths:
            packet += data[position : position + length]
            position += length
            if length < 255:
                packets.append(packet)
                packet = b""
    return packets, granule


def libopus_16k(path):
    """libopus' own decoding to 16 kHz mono, with pre-skip and end cut as in RFC 7845."""
    (head, _tags, *packets), granule = ogg_packets(path)
    channels, pre_skip = head[9], struct.unpack_from("<H", head, 10)[0]
    opus = ctypes.CDLL("libopus.so.0")
    opus.opus_decoder_create.restype = ctypes.c_void_p
    decoder = ctypes.c_void_p(opus.opus_decoder_create(16_000, channels, None))
    buffer, samples = (ctypes.c_float * (1_920 * channels))(), []
    for packet in packets:
        count = opus.opus_decode_float(decoder, packet, len(packet), buffer, 1_920, 0)
        samples += [sum(buffer[channels * n : channels * (n + 1)]) / channels for n in range(count)]
    return samples[-(-pre_skip // 3) : -(-granule // 3)]


if __name__ == "__main__":
    make_files()
    with wave.open("word.wav") as word:
        integers = array.array("h", word.readframes(word.getnframes()))
        flac = {"rate_hz": word.getframerate(), "samples": len(integers), "sum": sum(integers), "sum_of_squares": sum(i * i for i in integers)}
    result = {"flac": flac}
    for name in ["word", "stereo"]:
        samples = libopus_16k(f"{name}.opus")
        result[name] = {"samples": len(samples), f"every_{STEP}th": [round(s, 7) for s in samples[::STEP]]}
    json.dump(result, open("audio.json", "w"), indent=1)
    run("rm word.wav stereo.wav")
