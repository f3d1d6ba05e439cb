"""Share of right answers, by scikit-learn."""

import datasets
import evaluate
import sklearn.metrics


class Accuracy(evaluate.Metric):
    def _info(self):
        label = datasets.Value("string")
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation="",
            inputs_description="predictions, references: names of classes",
            features=datasets.Features({"predictions": label, "references": label}),
        )

    def _compute(self, predictions, references):  # pyright: ignore[reportIncompatibleMethodOverride]
        return {"accuracy": float(sklearn.metrics.accuracy_score(references, predictions))}
