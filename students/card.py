"""The model card of a student: what it is, how to use it, whose layers it learned."""

from distill.features import parameters
from distill.recipe import Recipe
from distill.waveform import Waveform

CARD = """---
library_name: transformers
tags: [speech, feature-extraction, distillation, fusedistill]
---
# {name}

A speech encoder of {millions:.2f} M parameters that learned the fused layers of {upstreams}, layer by layer,
with FuseDistill. {architecture}, {layers} transformer layers of {width} features, {rate:g} frames per second.

```python
from transformers import AutoFeatureExtractor, AutoModel

extractor, model = AutoFeatureExtractor.from_pretrained(folder), AutoModel.from_pretrained(folder)
layers = model(**extractor(audio, sampling_rate=16000, return_tensors="pt"), output_hidden_states=True).hidden_states
```

Audio: mono, 16 kHz. Teachers: {checkpoints}. Their licences apply to what was learned from them.
The heads that mapped its layers to the teacher's are in `heads.safetensors`; nothing needs them to use the model.
"""


def card(student: Waveform, recipe: Recipe) -> str:
    """The text of `README.md`."""
    checkpoints = ", ".join(f"{family} ({name})" for family, name in recipe.teacher.checkpoints.items())
    return CARD.format(
        name=recipe.name,
        millions=parameters(student) / 1e6,
        upstreams=" and ".join(recipe.teacher.upstreams),
        architecture=type(student.model).__name__,
        layers=student.layers - 1,
        width=student.width,
        rate=student.grid.rate,
        checkpoints=checkpoints,
    )
