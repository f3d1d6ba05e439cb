"""The downstream tasks by name; one more is a file here and a line below."""

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
