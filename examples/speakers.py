"""How alike two voices are, from -1 to 1: python examples/speakers.py <folder or user/name> one.wav another.wav"""

import sys

import soundfile
import torch
from transformers import AutoFeatureExtractor, AutoModel

name, *recordings = sys.argv[1:]
extractor, model = AutoFeatureExtractor.from_pretrained(name), AutoModel.from_pretrained(name).eval()
voices = []
for audio, rate in map(soundfile.read, recordings):  # mono, 16 kHz
    with torch.no_grad():
        heard = model(**extractor(audio, sampling_rate=rate, return_tensors="pt"), output_hidden_states=True)
    voices.append(torch.cat([layer[0].mean(0) for layer in heard.hidden_states]))
print(f"{torch.cosine_similarity(*voices, dim=0):.3f}")
