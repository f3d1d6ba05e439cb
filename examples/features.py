"""Layers of a student for one recording: python examples/features.py <folder or user/name> speech.wav"""

import sys

import soundfile
import torch
from transformers import AutoFeatureExtractor, AutoModel

name, recording = sys.argv[1:]
extractor, model = AutoFeatureExtractor.from_pretrained(name), AutoModel.from_pretrained(name).eval()
audio, rate = soundfile.read(recording, dtype="float32")  # mono, 16 kHz
with torch.no_grad():
    layers = model(**extractor(audio, sampling_rate=rate, return_tensors="pt"), output_hidden_states=True).hidden_states
print(f"{len(layers)} layers of {layers[0].shape[1]} frames x {layers[0].shape[2]} features")
