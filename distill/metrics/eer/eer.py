"""Equal error rate: as many different pairs accepted as same pairs refused, on scikit-learn's ROC."""

import datasets
import evaluate
import numpy as np
import sklearn.metrics


class Eer(evaluate.Metric):
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
            raise ValueError(f"eer needs pairs of both kinds, 0 and 1; got only {sorted(set(references))}")
        accepted, found, _ = sklearn.metrics.roc_curve(references, predictions)
        missed = 1 - found
        after = int(np.argmax(accepted >= missed))  # the curve crosses between the point before and this one
        if after == 0:
            return {"eer": float(accepted[0])}
        gap = missed[after - 1] - accepted[after - 1]
        closing = gap - (missed[after] - accepted[after])
        share = gap / closing
        return {"eer": float(accepted[after - 1] + share * (accepted[after] - accepted[after - 1]))}
