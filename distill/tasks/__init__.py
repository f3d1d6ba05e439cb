"""The downstream tasks by name; one more is a file here and a line below."""

from collections.abc import Mapping, Sequence

from distill.data.clips import Clips
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


def demand_labels(tasks: Sequence[str], splits: Mapping[str, Clips]) -> None:
    """ValueError that says what is missing when a corpus cannot serve one of these tasks."""
    for name in tasks:
        TASKS[name].demand(splits)
