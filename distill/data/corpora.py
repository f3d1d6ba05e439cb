"""Corpora by name: from a recipe's `data` to the clips of each split."""

from distill.data import embedded
from distill.data.clips import Clips
from distill.data.embedded import EmbeddedCorpus

SPLITS = ("train", "validation", "test")


def load_splits(corpus: str, settings: EmbeddedCorpus) -> dict[str, Clips]:
    """`train`, `validation` and `test` of a corpus; only "embedded" so far."""
    if corpus != "embedded":
        raise ValueError(f"there is no corpus {corpus!r}; there is embedded")
    clips = Clips(embedded.build(settings))
    return {split: clips.split(split) for split in SPLITS}
