"""The metrics of the downstream tasks, as local modules for `evaluate`: nothing is fetched from the Hub."""

import atexit
import functools
import importlib
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

METRICS = {  # each a folder beside this file, and what its value is multiplied by
    "wer": 100.0,
    "cer": 100.0,
    "eer": 100.0,
    "mindcf": 1.0,
    "accuracy": 100.0,
    "bleu": 100.0,
}


def compute(name: str, predictions: Sequence, references: Sequence) -> float:
    """A metric of METRICS over a whole split; in percent, but for mindcf, which is 1 where nobody listens.

    wer, cer, bleu: texts. accuracy: names of classes. eer, mindcf: similarities, and 1 for pairs of one speaker,
    else 0.
    """
    if name not in METRICS:
        raise ValueError(f"no metric {name!r}; there are {', '.join(METRICS)}")
    if len(predictions) != len(references):
        raise ValueError(f"{name}: {len(predictions)} predictions for {len(references)} references")
    if not len(references):
        raise ValueError(f"{name}: no predictions at all")
    result = _load(name).compute(predictions=predictions, references=references)
    assert result is not None  # as it is for one process of several, which this is not
    return METRICS[name] * result[name]


@functools.cache
def _load(name: str):
    """The module of a metric. `evaluate` is imported here because that takes seconds."""
    import evaluate
    from evaluate import config

    folder = _own_folder()
    config.HF_MODULES_CACHE = folder
    load = functools.partial(evaluate.load, str(Path(__file__).with_name(name)), cache_dir=folder, keep_in_memory=True)
    try:
        return load()
    except ModuleNotFoundError:  # Python listed the folder in the same instant as the copy appeared in it
        importlib.invalidate_caches()
        return load()


@functools.cache
def _own_folder() -> str:
    """Where `evaluate` copies modules to: of this process alone, so that processes never meet there."""
    folder = tempfile.mkdtemp(prefix="distill-metrics-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder
