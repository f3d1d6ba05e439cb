"""What every row of an evaluation gets, whatever it is: tasks, corpora, heads, steps, rates and seeds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from distill.files import digest
from distill.interface import INTERFACES
from distill.limits import listed
from distill.probe import Budget
from distill.tasks import PROTOCOLS, TASKS, superb
from distill.tasks.asr import FLAT, Asr
from distill.tasks.task import Task

CACHES = ("memory", "disk")
STEPS = {"asr": 600, "sv": 400, "er": 400, "lid": 400, "pr": 2000}  # of light probes
CHECKS = {"pr": 10}  # of light probes; 1 for the others
CHECKPOINT = ("config.json", "model.safetensors", "preprocessor_config.json")  # what a student is
DATA = "data"  # the corpus of a task that is given no other one


@dataclass(frozen=True)
class Evaluate:
    """What every row gets."""

    tasks: list[str] = field(default_factory=lambda: list(TASKS))
    corpora: dict[str, str] = field(default_factory=dict)  # task -> one of the recipe's corpora; data without
    heads: str = "light"  # or "superb": heads and optimisers as published, for comparable scores
    interface: str = "hconv"
    learning_rates: list[float] = field(default_factory=lambda: [1e-3, 3e-3, 1e-2])  # chosen from on validation
    seeds: list[int] = field(default_factory=lambda: [0, 1])  # the first one chooses the rate
    steps: dict[str, int] = field(default_factory=dict)  # by task; without: STEPS for light heads, else as published
    checks: dict[str, int] = field(default_factory=dict)  # by task: looks at validation, of which the best state stays
    flat: float = FLAT  # share of a light asr probe's steps with characters spread evenly; pauses make it harmful
    batch: int = 16  # clips per step; this and the next three are for light heads
    warmup: float = 0.1  # share of the steps
    weight_decay: float = 0.01
    clip: float = 1.0  # largest norm of the gradient
    train_clips: int = 1500  # of each task, at most
    score_clips: int = 500  # of each task in validation and in test, at most
    forward_seconds: float = 60.0  # audio in one forward pass of an encoder
    cache: str = "memory"  # where a row's frozen features lie meanwhile; or "disk", a teacher's beside its upstreams'
    rows: list[str] = field(default_factory=list)  # names of the rows that are evaluated; empty: all there are
    students: list[str] = field(default_factory=list)  # folders of other runs, whose students are rows too

    def __post_init__(self):
        demand(self.heads in PROTOCOLS, f"evaluate.heads: no {self.heads!r}; there are {', '.join(PROTOCOLS)}")
        demand(bool(self.tasks), "evaluate.tasks is empty; name one or more")
        for task in self.tasks:
            menu = ", ".join(self.menu())
            demand(task in self.menu(), f"evaluate.tasks: no task {task!r} with {self.heads} heads; there are {menu}")
            demand(self.budget(task).steps >= 1, f"evaluate.steps: {task} needs 1 step or more")
            demand(self.budget(task).checks >= 1, f"evaluate.checks: {task} needs 1 or more, the last state's")
        known = {name: None for menu in PROTOCOLS.values() for name in menu}
        for key in ("corpora", "steps", "checks"):
            for task in vars(self)[key]:
                demand(task in known, f"evaluate.{key}: there is no task {task!r}; there are {', '.join(known)}")
        demand(self.cache in CACHES, f"evaluate.cache: no {self.cache!r}; there are {', '.join(CACHES)}")
        listed("evaluate.interface", self.interface, INTERFACES)
        rates = self.learning_rates
        demand(bool(rates) and min(rates) > 0, f"evaluate.learning_rates must be above 0, got {rates}")
        demand(bool(self.seeds), "evaluate.seeds needs one seed or more")
        for key in ("batch", "clip", "train_clips", "score_clips", "forward_seconds"):
            demand(vars(self)[key] > 0, f"evaluate.{key} must be above 0, got {vars(self)[key]}")
        names = [Path(folder).name for folder in self.students]
        demand(len(set(names)) == len(names), f"evaluate.students: two runs of one name in {', '.join(names)}")
        for key in ("flat", "warmup"):
            demand(0 <= vars(self)[key] < 1, f"evaluate.{key} must be in [0, 1), got {vars(self)[key]}")
        demand(self.weight_decay >= 0, f"evaluate.weight_decay must be 0 or more, got {self.weight_decay}")

    def menu(self) -> dict[str, Task]:
        """The tasks there are with these heads."""
        return PROTOCOLS[self.heads] | ({"asr": Asr(flat=self.flat)} if self.heads == "light" else {})

    def budget(self, task: str) -> Budget:
        """What a probe may spend; `steps` and `checks` count for published heads too, where they name the task."""
        if self.heads == "light":
            steps, checks = self.steps.get(task, STEPS[task]), self.checks.get(task, CHECKS.get(task, 1))
            schedule = (self.weight_decay, self.clip, self.warmup)
            return Budget(self.interface, steps, self.batch, *schedule, decay=True, checks=checks)
        how = superb.TRAINING[task]
        steps, checks = self.steps.get(task, how.steps), self.checks.get(task, how.checks)
        return Budget(self.interface, steps, how.batch, how.weight_decay, how.clip, 0.0, decay=False, checks=checks)

    def corpus(self, task: str) -> str:
        """What the recipe calls the corpus that a task is scored on."""
        return self.corpora.get(task, DATA)

    def other(self, row: str) -> dict[str, str]:
        """What tells another run's student from any whose folder has the same name; nothing of this run's own rows."""
        found = [Path(folder) for folder in self.students if Path(folder).name == row]
        return {"student": digest(found[0] / "student", CHECKPOINT)} if found else {}

    def by_corpus(self, tasks: Sequence[str]) -> dict[str, list[str]]:
        """These tasks by the corpus that they are scored on."""
        found: dict[str, list[str]] = {}
        for task in tasks:
            found.setdefault(self.corpus(task), []).append(task)
        return found


def demand(condition: bool, message: str) -> None:
    """ValueError with this message unless the condition holds."""
    if not condition:
        raise ValueError(message)
