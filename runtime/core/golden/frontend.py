"""Writes frontend.csv and frontend-gain.csv: the log-mel features of a signal made of integers, without and with the slow gain, by formulas in f64
that share nothing with the Rust code.

Needs numpy. Run in this folder: python3 frontend.py
tests/frontend.rs makes the same signal and compares.
"""

import numpy as np

RATE_HZ, WINDOW, HOP, FFT, MELS, FLOOR = 16_000, 480, 160, 512, 40, 1e-6


def signal():
    """8,000 samples: triangle waves of rising pitch with noise, then silence, then noise at full scale. Integers of 16 bits."""
    samples, state = [], 1
    for n in range(8_000):
        state = (state * 1_664_525 + 1_013_904_223) % 2**32
        noise = (state >> 16) - 32_768
        if n < 5_000:
            triangle = abs((n * (400 + n // 4)) % 65_536 - 32_768) - 16_384
            samples.append(triangle // 2 + noise // 16)
        elif n < 6_500:
            samples.append(0)
        else:
            samples.append(noise)
    return np.array(samples) / 32_768


def mel_filters():
    """[40, 257]: triangles between points equally spaced on the HTK mel scale, drawn by linear interpolation in Hz."""
    top_mel = 2595 * np.log10(1 + 8_000 / 700)
    edges_hz = 700 * (10 ** (np.linspace(0, top_mel, MELS + 2) / 2595) - 1)
    bins_hz = np.arange(FFT // 2 + 1) * RATE_HZ / FFT
    return np.stack([np.interp(bins_hz, edges_hz[m : m + 3], [0, 1, 0]) for m in range(MELS)])


def gains(mel, smoothing=0.05, fall_db_per_s=12, target=500, least=0.126):
    """[T]: what each frame of mel powers [T, 40] is multiplied by."""
    level, found = least, []
    for power in mel.sum(axis=1):
        rising = level + smoothing * (power - level)
        falling = level * 10 ** (-fall_db_per_s * HOP / RATE_HZ / 10)
        level = max(least, rising if power > level else max(power, falling))
        found.append(target / level)
    return np.array(found)


def log_mel(samples, with_gain=False):
    """[T, 40], one frame for each window that lies wholly inside the signal."""
    count = (len(samples) - WINDOW) // HOP + 1
    frames = np.stack([samples[HOP * k : HOP * k + WINDOW] for k in range(count)])
    hann = np.sin(np.pi * np.arange(WINDOW) / WINDOW) ** 2
    # The transform as its definition says, instead of a fast one.
    basis = np.exp(-2j * np.pi * np.outer(np.arange(WINDOW), np.arange(FFT // 2 + 1)) / FFT)
    power = np.abs((frames * hann) @ basis) ** 2
    mel = power @ mel_filters().T
    if with_gain:
        mel *= gains(mel)[:, None]
    return np.log(mel + FLOOR)


if __name__ == "__main__":
    np.savetxt("frontend.csv", log_mel(signal()), fmt="%.6f", delimiter=",")
    np.savetxt("frontend-gain.csv", log_mel(signal(), with_gain=True), fmt="%.6f", delimiter=",")
