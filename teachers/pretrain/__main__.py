"""Make a small upstream: `python -m teachers.pretrain wavlm|hubert|whisper [key=value ...]`.

Stock transformers models learn from the embedded corpus, with voices and sentences that no test split holds:
WavLM and HuBERT by masked prediction of clusters, Whisper by transcription. One core, about twenty minutes each.
start=<checkpoint> goes on from one; data.corpus=folder data.folder.path=<yours> ... hears the training split of a
corpus of yours, as a recipe with the same words would divide it.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from omegaconf import OmegaConf

from distill.loading import load
from teachers import FAMILIES
from teachers.pretrain.settings import Pretrain
from teachers.pretrain.waveform import pretrain_waveform
from teachers.pretrain.whisper import pretrain_whisper

MODELS = {"wavlm": pretrain_waveform, "hubert": pretrain_waveform, "whisper": pretrain_whisper}


def read(model: str, words: Sequence[str]) -> Pretrain:
    """Settings from key=value words; those of `data` are a recipe's."""
    data = [word for word in words if word.startswith("data.")]
    own = OmegaConf.from_dotlist([word for word in words if word not in data])
    settings = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Pretrain), {"model": model}, own))
    return replace(cast(Pretrain, settings), data=load([f"recipe={model}", *data], FAMILIES).data)


def main(argv: list[str]) -> None:
    """Command line: the model's name, then key=value of `Pretrain`."""
    if not argv or argv[0] not in MODELS:
        raise SystemExit(__doc__)
    settings = read(argv[0], argv[1:])
    settings.folder()  # fails before anything is learned
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    start = time.time()
    MODELS[settings.model](settings)
    print(f"made in {time.time() - start:.0f} s: python -m teachers.pretrain {' '.join(argv)}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"pretrain: {error}")
