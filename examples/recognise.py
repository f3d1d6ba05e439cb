"""What is said in a recording: python examples/recognise.py <folder or user/name-asr> speech.wav"""

import sys

import soundfile
from transformers import pipeline

name, recording = sys.argv[1:]
audio, rate = soundfile.read(recording, dtype="float32")  # mono, 16 kHz
recognise = pipeline("automatic-speech-recognition", model=name)
print(recognise({"raw": audio, "sampling_rate": rate})["text"])
