"""Features without torch: python examples/onnx_features.py student/onnx/model_int8.onnx speech.wav"""

import sys

import onnxruntime
import soundfile

name, recording = sys.argv[1:]
session = onnxruntime.InferenceSession(name, providers=["CPUExecutionProvider"])
audio, _ = soundfile.read(recording, dtype="float32")  # mono, 16 kHz
values = (audio - audio.mean()) / (audio.var() + 1e-7) ** 0.5  # as do_normalize in preprocessor_config.json says
(features,) = session.run(["last_hidden_state"], {"input_values": values[None]})
print(f"{features.shape[1]} frames x {features.shape[2]} features")
