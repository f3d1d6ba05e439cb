"""Character error rate of a corpus: errors of all texts over the characters of all references, by jiwer."""

import datasets
import evaluate
import jiwer


class Cer(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation="",
            inputs_description="predictions, references: texts",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions, references):  # pyright: ignore[reportIncompatibleMethodOverride]
        return {"cer": jiwer.cer(references, predictions)}
