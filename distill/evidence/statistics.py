"""How sure a score is: bootstrap over the test clips, Student's t over seeds, paired tests between rows.

Shape letters: S seeds, C clips, R resamples, U units that are drawn, N trials. A resample is how often each unit
was drawn, (U,), with replacement; equal resamples are given to every row of a task, so that rows are compared on
the same clips.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import nan

import jiwer
import numpy as np
import scipy.stats
from sacrebleu.metrics.bleu import BLEU

from distill.tasks.sv import pairs

RESAMPLES = 1000
COVERAGE = 0.95
SHARES = ("eer", "accuracy")  # metrics that are 100 at most
CHUNK = 100  # resamples of trials at once: 16 MB of weights for 40,000 trials


class Evidence(ABC):
    """What every clip adds to a score, so that the score of any draw of the clips can be told."""

    @property
    @abstractmethod
    def units(self) -> int:
        """U: how many there are of what is drawn, clips or speakers."""

    @abstractmethod
    def scores(self, times_RU: np.ndarray) -> np.ndarray:
        """The metric of every resample, in percent, the mean over seeds: (R,)."""

    @abstractmethod
    def part(self, rows: np.ndarray) -> float:
        """The metric of some clips alone, in percent, the mean over seeds; nan where they do not tell it."""


@dataclass(frozen=True)
class Ratio(Evidence):
    """Word errors over words, right answers over answers: sums over clips, divided."""

    over_SC: np.ndarray
    under_C: np.ndarray

    @property
    def units(self) -> int:
        return len(self.under_C)

    def scores(self, times_RU: np.ndarray) -> np.ndarray:
        return 100.0 * ((times_RU @ self.over_SC.T) / (times_RU @ self.under_C)[:, None]).mean(1)

    def part(self, rows: np.ndarray) -> float:
        under = self.under_C[rows].sum()
        return float(100.0 * self.over_SC[:, rows].sum(1).mean() / under) if under else nan


@dataclass(frozen=True)
class Trials(Evidence):
    """Equal error rate over trials of two clips.

    Speakers are drawn, not clips: trials of one speaker hang together, and it is other speakers that a user has
    (the subset bootstrap of Bolle, Ratha and Pankanti, doi:10.1016/j.cviu.2003.08.002). A trial between two
    speakers counts as often as both were drawn together; two draws of one speaker are not compared.
    """

    scores_SN: np.ndarray
    clips_2N: np.ndarray  # left and right clip
    speakers_C: np.ndarray  # a number from 0 for each clip
    same_N: np.ndarray  # whether one speaker says both

    @property
    def units(self) -> int:
        return int(self.speakers_C.max()) + 1

    def scores(self, times_RU: np.ndarray) -> np.ndarray:
        left_N, right_N = self.speakers_C[self.clips_2N]
        found = []
        for times_XU in np.array_split(times_RU.astype(np.float32), max(len(times_RU) // CHUNK, 1)):
            once_XN = times_XU[:, left_N]
            weight_XN = np.where(left_N == right_N, once_XN, once_XN * times_XU[:, right_N])
            rates_SX = [equal_error(scores_N, self.same_N, weight_XN) for scores_N in self.scores_SN]
            found.append(np.mean(rates_SX, axis=0))
        return 100.0 * np.concatenate(found)

    def part(self, rows: np.ndarray) -> float:
        """Over the trials with one of these clips in them, or two."""
        chosen_C = np.zeros(len(self.speakers_C), bool)
        chosen_C[rows] = True
        kept_N = np.any(chosen_C[self.clips_2N], axis=0)
        same_K = self.same_N[kept_N]
        if same_K.all() or not same_K.any():
            return nan
        once_1K = np.ones((1, len(same_K)))
        return 100.0 * float(np.mean([equal_error(one[kept_N], same_K, once_1K) for one in self.scores_SN]))


@dataclass(frozen=True)
class Translations(Evidence):
    """BLEU: matched and possible n-grams and both lengths are summed over clips before they are divided."""

    sums_SCK: np.ndarray  # K: 4 matched, 4 possible, length of the translation, of the reference

    @property
    def units(self) -> int:
        return self.sums_SCK.shape[1]

    def scores(self, times_RU: np.ndarray) -> np.ndarray:
        return np.mean([[_bleu(sums_K) for sums_K in times_RU @ sums_CK] for sums_CK in self.sums_SCK], axis=0)

    def part(self, rows: np.ndarray) -> float:
        return float(np.mean([_bleu(sums_CK[rows].sum(0)) for sums_CK in self.sums_SCK])) if len(rows) else nan


def _bleu(sums_K: np.ndarray) -> float:
    whole = [int(one) for one in sums_K]
    return BLEU.compute_bleu(whole[:4], whole[4:8], whole[8], whole[9]).score


def equal_error(scores_N: np.ndarray, same_N: np.ndarray, weight_RN: np.ndarray) -> np.ndarray:
    """Where misses equal false acceptances, between 0 and 1, for each weighing of the trials: (R,).

    float32 sums of whole numbers are exact up to 16 million, more than any draw of 40,000 trials weighs.
    """
    order_N = np.argsort(-scores_N, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(scores_N[order_N]) != 0, True))  # equal scores are accepted together
    weight_RN, same_N = weight_RN[:, order_N].astype(np.float32), same_N[order_N]
    hits, accepts = (np.where(kind, weight_RN, 0).cumsum(1)[:, ends] for kind in (same_N, ~same_N))
    with np.errstate(invalid="ignore", divide="ignore"):  # a draw with trials of one kind alone has no rate
        missed, accepted = 1 - hits / hits[:, -1:], accepts / accepts[:, -1:]
    start = np.ones((len(weight_RN), 1), np.float32)
    missed, accepted = np.hstack([start, missed]), np.hstack([0 * start, accepted])
    after = np.argmax(accepted >= missed, axis=1)[:, None]  # never 0: nothing is accepted there
    before = np.maximum(after - 1, 0)
    near, far = (np.take_along_axis(missed - accepted, at, 1)[:, 0] for at in (before, after))
    low, high = (np.take_along_axis(accepted, at, 1)[:, 0] for at in (before, after))
    with np.errstate(invalid="ignore", divide="ignore"):
        return low + near / (near - far) * (high - low)


def resamples(units: int, count: int = RESAMPLES) -> np.ndarray:
    """How often each unit is drawn in each resample, always the same: (R, U)."""
    return np.random.default_rng(0).multinomial(units, np.full(units, 1 / units), count)


def interval(scores_R: np.ndarray) -> list[float]:
    """The middle 95 % of resampled scores (percentile bootstrap)."""
    tail = 50 * (1 - COVERAGE)
    low, high = np.nanpercentile(scores_R, [tail, 100 - tail])
    return [float(low), float(high)]


def paired(scores_R: np.ndarray, others_R: np.ndarray) -> tuple[list[float], float]:
    """The interval of a difference of two rows on the same resamples, and its two-sided p-value.

    A paired bootstrap: it asks whether other test clips (other speakers, for verification) would keep the sign
    of the difference. Permutation would serve error counts as well, but not verification: two encoders' embeddings
    cannot be mixed in one trial. Where the p-value is below 0.05 the interval excludes 0; it may exclude 0 by a hair
    where the p-value is just above (0.052, with 25 of 1000 resamples across 0). The p-value is never below 2 / (R + 1).
    """
    differences_R = scores_R - others_R
    differences_R = differences_R[np.isfinite(differences_R)]
    crossed = min((differences_R <= 0).sum(), (differences_R >= 0).sum())
    return interval(differences_R), float(min(1.0, 2 * (crossed + 1) / (len(differences_R) + 1)))


def over_seeds(values: Sequence[float], lower: float = 0.0, upper: float = 100.0) -> list[float] | None:
    """The interval of the mean over seeds by Student's t, within what a score can be; None for one seed.

    upper: 100 for SHARES; there can be more errors than words, so their rates end nowhere (inf). Two seeds are few:
    their interval is nine times as wide as they lie apart.
    """
    if len(values) < 2:
        return None
    half = scipy.stats.t.ppf((1 + COVERAGE) / 2, len(values) - 1) * scipy.stats.sem(values)
    centre = float(np.mean(values))
    return [max(lower, centre - float(half)), min(upper, centre + float(half))]


def evidence(
    metric: str,
    predictions: np.ndarray,
    references: Sequence[str],
    trials_2N: np.ndarray | None = None,
    same_N: np.ndarray | None = None,
) -> Evidence:
    """What stands in a cell's file, as evidence; predictions: texts or classes (S, C), embeddings (S, C, E).

    trials_2N: the pairs of clips that verification is scored on; None: those it makes itself. same_N: which of them
    one speaker says; None, in files of before: as the speakers' names have it. Raises ValueError for a metric
    that has none.
    """
    if metric == "eer":
        clips_2N = np.stack(pairs(references)[:2]) if trials_2N is None else trials_2N
        left, right = clips_2N
        scores_SN = np.einsum("sne,sne->sn", predictions[:, left], predictions[:, right])
        if same_N is not None:
            return Trials(scores_SN, clips_2N, voices(references), same_N.astype(bool))
        speakers_C = np.unique(references, return_inverse=True)[1]
        return Trials(scores_SN, clips_2N, speakers_C, speakers_C[left] == speakers_C[right])
    if metric == "accuracy":
        return Ratio((predictions == np.asarray(references)).astype(float), np.ones(len(references)))
    if metric in ("wer", "per", "cer"):
        kind = "cer" if metric == "cer" else "wer"  # phones are words
        counts_SC2 = _each(lambda text, said: errors(kind, text, said), predictions, references)
        return Ratio(counts_SC2[..., 0], counts_SC2[0, :, 1])
    if metric == "bleu":
        return Translations(_each(ngrams, predictions, references))
    raise ValueError(f"no intervals for the metric {metric!r}; there are wer, per, cer, eer, accuracy, bleu")


def voices(references: Sequence[str]) -> np.ndarray:
    """A number from 0 for each clip's speaker: (C,). A clip whose speaker nobody named has one of its own."""
    numbers_C = np.unique(references, return_inverse=True)[1]
    nameless_C = np.asarray(references) == ""
    numbers_C[nameless_C] = len(references) + np.flatnonzero(nameless_C)
    return np.unique(numbers_C, return_inverse=True)[1]


def _each(count: Callable[[str, str], Sequence[int]], predictions: np.ndarray, references: Sequence[str]) -> np.ndarray:
    """Counts of every text beside its reference: (S, C, K)."""
    return np.array(
        [[count(str(text), str(said)) for text, said in zip(row, references, strict=True)] for row in predictions]
    )


def ngrams(prediction: str, reference: str) -> list[int]:
    """What one translation adds to the sums of BLEU."""
    found = BLEU(effective_order=True).corpus_score([prediction], [[reference]])
    return [*found.counts, *found.totals, found.sys_len, found.ref_len]


def errors(metric: str, prediction: str, reference: str) -> tuple[int, int]:
    """Errors of one text, and the words (wer) or characters (cer) of its reference."""
    process = {"wer": jiwer.process_words, "cer": jiwer.process_characters}[metric]
    found = process(reference, prediction)
    return (
        found.substitutions + found.deletions + found.insertions,
        found.hits + found.substitutions + found.deletions,
    )
