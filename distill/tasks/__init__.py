"""The downstream tasks by name, in two protocols; one more task is a file here and a line below."""

from collections.abc import Mapping, Sequence

from distill.data.clips import Clips
from distill.tasks import superb
from distill.tasks.asr import Asr
from distill.tasks.classification import Classification
from distill.tasks.sv import SpeakerVerification
from distill.tasks.task import Task

TASKS: dict[str, Task] = {
    "asr": Asr(),
    "sv": SpeakerVerification(),
    "er": Classification("er", "style"),
    "lid": Classification("lid", "language"),
}
SUPERB: dict[str, Task] = {  # arXiv 2105.01051; the last two: ML-SUPERB, arXiv 2305.10615
    "asr": Asr(make=superb.Dictation, flat=0.0),
    "pr": Asr("pr", "phones", phones=True, metric="per", make=superb.Phones, flat=0.0),
    "sid": Classification("sid", "speaker", make=superb.Pooled, balanced=False, crop_seconds=8.0),
    "sv": SpeakerVerification(make=superb.XVector, crop_seconds=8.0),
    "er": Classification("er", "style", make=superb.Pooled, balanced=False, crop_seconds=None),
    "ml-mono": Asr("ml-mono", metric="cer", make=superb.Multilingual, flat=0.0),
    "ml-multi": Asr("ml-multi", names=True, metric="cer", make=superb.Multilingual, flat=0.0),
}
PROTOCOLS = {"light": TASKS | {"pr": SUPERB["pr"]}, "superb": SUPERB}  # phones are for those who have a lexicon


def demand_labels(tasks: Sequence[str], splits: Mapping[str, Clips], heads: str = "light", key: str = "") -> None:
    """ValueError that says what is missing when a corpus cannot serve one of these tasks; key: what names them."""
    for name in tasks:
        try:
            PROTOCOLS[heads][name].demand(splits)
        except ValueError as error:
            raise ValueError(f"{key}={list(tasks)}: {error}" if key else str(error)) from error
