"""One shard of the embedded corpus, spoken in a process of its own: `python -m distill.data.synthesis PLAN OUT`.

espeak-ng keeps state from sentence to sentence, so a shard is reproducible only from a fresh process.
"""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import soundfile
import soxr

from distill import SAMPLE_RATE
from distill.data import effects
from distill.data.espeak import Espeak, Speech

SCHEMA = pa.schema(
    {
        "id": pa.string(),
        "audio": pa.struct({"bytes": pa.binary(), "path": pa.string()}),
        "samples": pa.int32(),
        "transcript": pa.string(),
        "speaker": pa.string(),
        "style": pa.string(),
        "language": pa.string(),
        "split": pa.string(),
        "phones": pa.list_(pa.string()),
        "phone_starts": pa.list_(pa.float32()),  # seconds
    }
)


def speak(espeak: Espeak, row: dict) -> tuple[np.ndarray, Speech]:
    """The clean clip at 16 kHz, silence cut off at both ends, phoneme starts moved along."""
    voice = f"{'en-us' if row['language'] == 'en' else row['language']}+{row['variant']}"
    speech = espeak.say(row["transcript"], voice, row["rate"], row["pitch"], row["range"])
    # A longer or shorter vocal tract: played faster, formants and pitch go up together.
    audio = soxr.resample(speech.audio(), speech.rate * row["tract"], SAMPLE_RATE)
    loud = np.flatnonzero(np.abs(audio) > 0.01)
    margin = int(0.03 * SAMPLE_RATE)
    first, last = (max(loud[0] - margin, 0), loud[-1] + margin) if len(loud) else (0, 0)
    speech.starts = [start / row["tract"] - first / SAMPLE_RATE for start in speech.starts]
    return audio[first:last], speech


def record(audio: np.ndarray, row: dict) -> np.ndarray:
    """The clean clip through room, channel and noise, at a random level."""
    rng = np.random.default_rng(row["seed"])
    if row["effects"]:
        audio = effects.room(audio, rng)
        audio = effects.channel(audio, rng)
        audio = effects.noise(audio, rng, *row["noise"])
    return effects.level(audio, rng)


def wav(audio: np.ndarray) -> bytes:
    """16-bit PCM, mono, 16 kHz, as the bytes of a WAV file."""
    stream = io.BytesIO()
    soundfile.write(stream, audio, SAMPLE_RATE, format="WAV", subtype="PCM_16")
    return stream.getvalue()


def main(plan: Path, out: Path) -> None:
    """Speak every row of the plan (JSON) into an Arrow file; clips too long for the plan are left out."""
    espeak = Espeak()
    with pa.OSFile(str(out), "wb") as sink, pa.ipc.new_stream(sink, SCHEMA) as writer:
        for row in json.loads(plan.read_text()):
            audio, speech = speak(espeak, row)
            if not 0.4 <= len(audio) / SAMPLE_RATE <= row["longest"]:
                continue
            audio = record(audio, row)
            columns = {name: row[name] for name in ("id", "transcript", "speaker", "style", "language", "split")}
            columns |= {"audio": {"bytes": wav(audio), "path": f"{row['id']}.wav"}, "samples": len(audio)}
            columns |= {"phones": speech.phones, "phone_starts": speech.starts}
            writer.write_batch(pa.RecordBatch.from_pylist([columns], schema=SCHEMA))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
