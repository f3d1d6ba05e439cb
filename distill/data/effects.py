"""What happens to speech on its way to the microphone: room, channel, noise. Plain functions of an rng."""

import numpy as np

from distill import SAMPLE_RATE


def room(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Reverberation by a tail of decaying noise, 0.1 to 0.6 s to -60 dB: (N,) -> (N,)."""
    decay = rng.uniform(0.1, 0.6)  # seconds
    tail = int(decay * SAMPLE_RATE)
    times = np.arange(tail) / SAMPLE_RATE
    response = rng.standard_normal(tail) * np.exp(-6.9 * times / decay)
    response *= rng.uniform(0.2, 0.8) / np.sqrt(np.sum(response**2))  # reverberant against direct energy
    response[0] = 1.0
    return _filter(audio, np.fft.rfft(response, _fft_size(len(audio) + tail)), len(audio))


def channel(audio: np.ndarray, rng: np.random.Generator, decibels: float = 8.0) -> np.ndarray:
    """A smooth random frequency response of `decibels` standard deviation, zero phase: (N,) -> (N,)."""
    size = _fft_size(len(audio))
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    knots = np.array([0, 150, 400, 900, 1700, 3000, 5000, 8000])
    gains = rng.normal(0, decibels, len(knots))
    curve = np.interp(np.log1p(frequencies / 300), np.log1p(knots / 300), gains - gains.mean())
    return _filter(audio, 10 ** (curve / 20), len(audio))


def noise(audio: np.ndarray, rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """Coloured noise (between white and brown) at `low` to `high` dB signal-to-noise ratio: (N,) -> (N,)."""
    size = _fft_size(len(audio))
    frequencies = np.maximum(np.fft.rfftfreq(size, 1 / SAMPLE_RATE), 50)
    spectrum = np.fft.rfft(rng.standard_normal(size)) * frequencies ** -rng.uniform(0, 1)
    hiss = np.fft.irfft(spectrum, size)[: len(audio)]
    ratio = 10 ** (rng.uniform(low, high) / 20)
    scale = np.sqrt(np.mean(audio**2) / np.mean(hiss**2)) / ratio
    return audio + scale * hiss


def level(audio: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random recording level, -30 to -18 dB below full scale (root mean square), never clipped."""
    target = 10 ** (rng.uniform(-30, -18) / 20)
    gain = target / max(float(np.sqrt(np.mean(audio**2))), 1e-6)
    return audio * min(gain, 0.99 / max(float(np.abs(audio).max()), 1e-6))


def _fft_size(samples: int) -> int:
    """The next size that is fast to transform and the same for near lengths."""
    return 1 << (samples - 1).bit_length()


def _filter(audio: np.ndarray, response: np.ndarray, samples: int) -> np.ndarray:
    size = 2 * (len(response) - 1)
    return np.fft.irfft(np.fft.rfft(audio, size) * response, size)[:samples]
