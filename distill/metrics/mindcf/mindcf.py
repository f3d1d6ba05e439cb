"""Smallest detection cost: misses and false acceptances weighed as NIST does, on scikit-learn's ROC."""

import datasets
import evaluate
import numpy as np
import sklearn.metrics

TARGET = 0.01  # assumed share of same-speaker trials, as VoxCeleb and most of its users have it


class Mindcf(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation="",
            inputs_description="predictions: similarities; references: 1 for the same speaker, 0 for another",
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references):  # pyright: ignore[reportIncompatibleMethodOverride]
        if len(set(references)) != 2:
            raise ValueError(f"mindcf needs pairs of both kinds, 0 and 1; got only {sorted(set(references))}")
        accepted, found, _ = sklearn.metrics.roc_curve(references, predictions, drop_intermediate=False)
        costs = TARGET * (1 - found) + (1 - TARGET) * accepted
        return {"mindcf": float(np.min(costs)) / min(TARGET, 1 - TARGET)}  # 1: as good as not to listen
