"""BLEU of a corpus of translations, by sacrebleu with its default tokeniser and smoothing."""

import datasets
import evaluate
import sacrebleu


class Bleu(evaluate.Metric):
    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=__doc__ or "",
            citation="",
            inputs_description="predictions, references: texts, one reference for each",
            features=datasets.Features({"predictions": text, "references": text}),
        )

    def _compute(self, predictions, references):  # pyright: ignore[reportIncompatibleMethodOverride]
        return {"bleu": sacrebleu.corpus_bleu(predictions, [references]).score / 100}
