"""The folder a student is published as: a stock transformers checkpoint with its card."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModel, Wav2Vec2FeatureExtractor

from distill.encoders.waveform import Waveform
from distill.features import SAMPLE_RATE
from distill.files import writing


def export(student: Waveform, heads: Mapping[str, Tensor], folder: Path, card: str) -> None:
    """config.json, model.safetensors, preprocessor_config.json and the card as README.md, all or nothing.

    heads: what mapped its layers to the teacher's, kept beside it as heads.safetensors.

    An older folder of that name is replaced. `AutoModel.from_pretrained(folder)` opens it with no code of
    ours. For one process; the student's weights must be whole (gathered, under ZeRO-3). Raises OSError as
    the disk does.
    """
    folder = Path(folder)
    partial, previous = (folder.with_name(f".{folder.name}.{word}") for word in ("partial", "previous"))
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        with writing(folder):
            student.model.config.apply_spec_augment = False  # masks were for learning
            student.model.save_pretrained(partial)
            extractor(student).save_pretrained(partial)
            save_file({name: weight.contiguous() for name, weight in heads.items()}, partial / "heads.safetensors")
        (partial / "README.md").write_text(card, encoding="utf-8")
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(previous, ignore_errors=True)
    if folder.exists():
        folder.rename(previous)
    partial.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)


def extractor(student: Waveform) -> Wav2Vec2FeatureExtractor:
    """What prepares audio for plain transformers as the student hears it."""
    return Wav2Vec2FeatureExtractor(
        feature_size=1,
        sampling_rate=SAMPLE_RATE,
        padding_value=0.0,
        do_normalize=student.normalize,
        return_attention_mask=True,
    )


def open_student(folder: Path) -> Waveform:
    """A student as it was exported, in eval mode."""
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder).eval()
    return Waveform(model, normalize=extractor.do_normalize)
