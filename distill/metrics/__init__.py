"""The metrics of the downstream tasks, as local modules for `evaluate`: nothing is fetched from the Hub."""

import functools
import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

MODULES = "evaluate_modules"  # the package that `evaluate` imports metrics from
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
    """The module of a metric. `evaluate` is imported here because that takes seconds.

    `evaluate` imports a copy of the file. Once imported, a metric that keeps its data in memory needs no file, so the
    copy is gone before the metric is used: nothing is left behind however the process ends.
    """
    import evaluate

    with TemporaryDirectory(prefix="distill-metrics-") as folder, _alone(folder):
        return evaluate.load(str(Path(__file__).with_name(name)), cache_dir=folder, keep_in_memory=True)


@contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Meanwhile `evaluate` copies modules to this folder, of this process alone, and imports them from no other.

    The caller, or its parent process, may have others.
    """
    from evaluate import config

    others = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == MODULES}
    usual, config.HF_MODULES_CACHE = config.HF_MODULES_CACHE, folder
    sys.path.insert(0, folder)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        config.HF_MODULES_CACHE = usual
        sys.path.remove(folder)
        for name in [name for name in sys.modules if name.partition(".")[0] == MODULES]:
            del sys.modules[name]
        sys.modules.update(others)
