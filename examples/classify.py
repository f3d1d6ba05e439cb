"""How a recording is spoken, or in which language: python examples/classify.py <folder or user/name-er> speech.wav"""

import sys

import soundfile
from transformers import pipeline

name, recording = sys.argv[1:]
audio, rate = soundfile.read(recording, dtype="float32")  # mono, 16 kHz
classify = pipeline("audio-classification", model=name)
for guess in classify({"raw": audio, "sampling_rate": rate}):
    print(f"{guess['score']:.2f} {guess['label']}")
