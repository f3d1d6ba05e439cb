"""One run as frozen plain data: the schema of a recipe."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from distill.data.settings import Data
from distill.data.shards import Stream
from distill.distiller import BALANCE
from distill.fusion import COMBINE, STANDARDISE
from distill.harder import Masking, Noise, Room, Surroundings
from distill.interface import INTERFACES
from distill.limits import RecipeError, as_many, check, listed, within
from distill.losses import LOSSES
from distill.protocol import DATA, Evaluate
from distill.supervision.packing import PRECISIONS
from distill.supervision.targets import SUPERVISE, TARGETS
from distill.tasks import TASKS

STAGES = ("fit", "distill", "evaluate", "report", "publish")
USUAL = STAGES[:-1]  # what goes out of the house is asked for
FUSED = "fused"  # the fused stack among the sources of a recipe
WHISPER_WINDOWS = ("full", "fast")
SEAMLESS_STATES = ("conformer", "adaptor")


@dataclass(frozen=True)
class Teacher:
    upstreams: list[str] = field(default_factory=list)  # names; empty: those in the recipe's name
    families: dict[str, str] = field(default_factory=dict)  # upstream -> family, where its name is not the family's
    checkpoints: dict[str, str] = field(default_factory=dict)  # upstream -> size, published name or folder
    weights: str = within("published", menu=("published", "random"))  # random: to rehearse; nothing is fetched
    depth: dict[str, int] = field(default_factory=dict)  # upstream -> transformer layers run, the first; without: all
    whisper_window: str = within("full", menu=WHISPER_WINDOWS)  # fast: a clip is not padded to a whole window
    seamless_states: str = within("conformer", menu=SEAMLESS_STATES)  # at 50 Hz, or after the adaptor at 6.25 Hz
    combine: str = within("sum", menu=COMBINE)
    width: int = within(0, least=0)  # features of a fused frame; 0: as the widest upstream
    standardise: str = within("channel", menu=STANDARDISE)  # one scale for each channel, or for each layer
    interface: str = within("hconv", menu=INTERFACES)
    calibration_seconds: float = within(600.0, above=0)  # audio that the layers' scales are measured on
    shard: bool = False  # each process holds its share of the upstreams' weights. Changes no result

    def __post_init__(self):
        check("teacher.", self)
        for name, layers in self.depth.items():
            if layers < 1:
                raise RecipeError(f"teacher.depth.{name} must be at least 1, got {layers}; leave it out to run all")
        if self.shard and self.seamless_states == "adaptor":
            raise RecipeError(
                "teacher.seamless_states=adaptor is called once for each clip, which processes that share its weights "
                "would do unequally often; leave out teacher.shard, or take teacher.seamless_states=conformer"
            )


@dataclass(frozen=True)
class Student:
    preset: str = ""  # a ready-made size, of recipes/students; what is given beside it wins
    architecture: str = "hubert"
    layers: int = within(4, least=1)  # transformer layers; the stack has one more, the embedding output
    width: int = within(112, least=1)
    heads: int = within(4, least=1)
    feedforward: int = within(448, least=1)
    conv_channels: int = within(64, least=1)
    conv_kernel: list[int] = within((20, 6, 3, 2, 2), least=1)
    conv_stride: list[int] = within((10, 4, 2, 2, 2), least=1)  # product: samples per frame
    positions: int = within(32, least=1)  # frames the positional convolution spans
    position_groups: int = within(16, least=1)
    feat_extract_norm: str = within("layer", menu=("layer", "group"))  # group: padding matters in plain transformers
    do_stable_layer_norm: bool = True  # norms before the blocks, which small students learn faster with
    dropout: float = within(0.0, least=0, below=1)
    front_end: str = (
        ""  # the upstream to copy the front end from; "first": the first that hears raw audio; empty: random
    )
    initialise: str = ""  # the upstream to copy front end and layers from; empty: random
    initial_layers: list[int] = within((), least=0)  # one for each of ours; empty: evenly spaced

    def __post_init__(self):
        check("student.", self)
        as_many("student.conv_stride", self.conv_stride, "student.conv_kernel has", len(self.conv_kernel))
        if self.initial_layers:
            as_many("student.initial_layers", self.initial_layers, "student.layers is", self.layers)
        for key, parts in (("heads", self.heads), ("position_groups", self.position_groups)):
            if self.width % parts:
                raise RecipeError(f"student.width={self.width} must be a multiple of student.{key}={parts}")


@dataclass(frozen=True)
class Fit:
    tasks: list[str] = within(tuple(TASKS), menu=TASKS)
    steps: int = within(400, least=0)  # optimizer steps
    batch_seconds: float = within(120.0, above=0)  # audio per optimizer step, over all processes
    learning_rate: float = within(1e-3, above=0)  # the highest
    warmup: float = within(0.1, least=0, below=1)  # share of the steps
    weight_decay: float = within(0.01, least=0)
    clip: float = within(1.0, least=0)  # largest norm of the gradient; 0: none
    save_every: int = within(100, least=1)  # optimizer steps
    log_every: int = within(10, least=1)  # optimizer steps

    def __post_init__(self):
        check("fit.", self)


@dataclass(frozen=True)
class Distill:
    steps: int = within(1000, least=0)  # optimizer steps
    batch_seconds: float = within(120.0, above=0)  # audio per optimizer step, over all processes and passes
    forward_seconds: float = within(120.0, above=0)  # most audio in one pass of one process
    learning_rate: float = within(1e-3, above=0)  # the highest
    warmup: float = within(0.1, least=0, below=1)  # share of the steps
    weight_decay: float = within(0.01, least=0)
    clip: float = within(1.0, least=0)  # largest norm of the gradient; 0: none
    targets: str = within("memory", menu=TARGETS)  # the teacher listens in every step, or to each clip once
    cache: str = ""  # folder of cached targets and codes, which runs share; empty: where corpora are kept
    cache_precision: str = within("float16", menu=PRECISIONS)  # of cached targets
    codebooks: int = within(4, least=1)  # bytes for each target and frame, where targets are codes
    seed: int = within(-1, least=-1)  # of the student's first weights, of batches, masks and noise; -1: the recipe's
    supervise: str = within("both", menu=SUPERVISE)  # by the fused stack, by each upstream's own layers, or by both
    source_weights: dict[str, float] = field(default_factory=dict)  # fused, or an upstream -> of its loss; without: 1
    loss: str = within("l1_cosine", menu=LOSSES)
    layers: int = within(4, least=1)  # K evenly spaced pairs of a student layer and a layer of each source
    layer_weights: list[float] = within((), least=0)  # one for each pair of a source; empty: equal
    interface_weight: float = within(0.0, least=0)  # of the interface's output as a target too; 0: none
    posteriors_weight: float = within(0.0, least=0)  # of what the teacher's task heads make of that output; 0: none
    restore_rate: bool = True  # a student of fewer frames than its teacher tells all of them; false: as many as it has
    mask: float = within(
        0.0, least=0, below=1
    )  # share of frames that the student does not hear, and all the same tells
    mask_span: int = within(10, least=1)  # frames masked in a row
    noise_share: float = within(0.0, least=0)  # of the clips, over which the student hears noise or another clip
    noise_db: list[float] = field(default_factory=lambda: [0.0, 20.0])  # signal-to-noise ratio, lowest and highest
    reverb_share: float = within(0.0, least=0)  # of the clips, which the student hears in a room
    reverb_seconds: list[float] = within((0.1, 0.6), least=0.01)  # until 60 dB down, shortest and longest
    drop: float = within(0.0, least=0, below=1)  # how often a source is left out of a pass, unless its loss is highest
    balance: str = within("listening", menu=BALANCE)  # weights of the sources beside source_weights
    save_every: int = within(100, least=1)  # optimizer steps
    log_every: int = within(10, least=1)  # optimizer steps
    stream: Stream = field(default_factory=Stream)  # what is heard instead of the training split

    def __post_init__(self):
        check("distill.", self)
        drawn = {"noise": (self.noise_share, "db", self.noise_db)}
        drawn |= {"reverb": (self.reverb_share, "seconds", self.reverb_seconds)}
        for name, (share, unit, limits) in drawn.items():
            as_many(f"distill.{name}_{unit}", limits, "it needs", 2)
            if limits[0] > limits[1] or share > 1:
                raise RecipeError(
                    f"distill.{name}_{unit}={limits} must rise, distill.{name}_share={share:g} be 1 at most"
                )
        if self.targets == "codes" and (self.drop or self.balance == "gradient"):
            raise RecipeError(
                "distill.targets=codes has neither distill.drop nor distill.balance=gradient; leave them out, "
                "or take other targets"
            )
        if self.posteriors_weight and (self.targets == "codes" or not self.interface_weight):
            raise RecipeError(
                "distill.posteriors_weight is of what task heads make of the interface's output, which needs "
                f"distill.interface_weight above 0, got {self.interface_weight:g}, and distill.targets other than codes"
            )
        for name, weight in self.source_weights.items():
            if not 0 <= weight < math.inf:
                raise RecipeError(f"distill.source_weights.{name} must be at least 0, got {weight:g}")
        if self.balance == "gradient" and self.supervise == "fused":
            raise RecipeError("distill.balance=gradient weighs sources; choose distill.supervise=separate or both")
        if self.stream.name and self.targets != "online":
            raise RecipeError(
                f"distill.stream.name={self.stream.name} needs distill.targets=online, got {self.targets}: "
                "a stream has no end at which its clips are all known and their targets could be kept"
            )
        if self.layer_weights:
            as_many("distill.layer_weights", self.layer_weights, "distill.layers is", self.layers)
            if not any(self.layer_weights):
                raise RecipeError("distill.layer_weights are all 0, which teaches nothing; give one of them above 0")

    def taught(self, upstreams: Sequence[str]) -> list[str]:
        """The sources that distill.supervise names: upstreams, FUSED for all of them together."""
        return {"fused": [FUSED], "separate": [*upstreams], "both": [FUSED, *upstreams]}[self.supervise]

    def sources(self, upstreams: Sequence[str]) -> dict[str, float]:
        """What teaches and how much it weighs: upstreams by name, "" the fused stack.

        A single upstream's own layers are the fused stack already. A source of weight 0 is left out; RecipeError where
        none is left.
        """
        if len(upstreams) == 1:
            return {"": 1.0}
        weights = {name: self.source_weights.get(name, 1.0) for name in self.taught(upstreams)}
        if not any(weights.values()):
            raise RecipeError(f"distill.source_weights: nothing that distill.supervise={self.supervise} names has any")
        return {"" if name == FUSED else name: weight for name, weight in weights.items() if weight}

    def weighed(self, by: Mapping[str, float]) -> "Distill":
        """With weights of sources that are multiplied by others."""
        known = self.source_weights
        return replace(self, source_weights=known | {name: own * known.get(name, 1.0) for name, own in by.items()})

    def surroundings(self) -> Surroundings:
        """What the student hears besides the clips, or of them."""
        return Surroundings(Room(self.reverb_share, *self.reverb_seconds), Noise(self.noise_share, *self.noise_db))

    def masking(self) -> Masking | None:
        """How the student is masked; None: not at all."""
        return Masking(self.mask, self.mask_span) if self.mask else None


@dataclass(frozen=True)
class Report:
    runs: list[str] = within(())  # folders of evaluated runs to compare with each other; empty: this run's own report

    def __post_init__(self):
        names = [Path(folder).name for folder in self.runs]
        if len(set(names)) < len(names):
            raise RecipeError(f"report.runs: two runs of one name in {', '.join(names)}; rename a folder")


@dataclass(frozen=True)
class Finetune:
    """The ready-made models that are published beside the student, each the student with a stock head."""

    tasks: list[str] = within(("asr", "sv", "er"), menu=TASKS, empty=True)
    steps: int = within(1000, least=1)  # optimizer steps of each task
    batch_seconds: float = within(120.0, above=0)  # audio per optimizer step, over all processes and passes
    forward_seconds: float = within(120.0, above=0)  # most audio in one pass of one process
    learning_rate: float = within(1e-3, above=0)  # the highest
    warmup: float = within(0.1, least=0, below=1)  # share of the steps
    weight_decay: float = within(0.01, least=0)
    clip: float = within(1.0, least=0)  # largest norm of the gradient; 0: none
    save_every: int = within(200, least=1)  # optimizer steps
    log_every: int = within(50, least=1)  # optimizer steps

    def __post_init__(self):
        check("finetune.", self)


@dataclass(frozen=True)
class Publish:
    repo: str = ""  # <user>/<name> on the Hub; the fine-tuned models go to <user>/<name>-<task>
    private: bool = False
    replace: bool = False  # a student that the repository holds already; its history stays on the Hub
    dry_run: bool = False  # write the folders and list them, send nothing
    onnx: bool = True  # export the student to ONNX too, in float32 and int8

    def __post_init__(self):
        if self.repo and not re.fullmatch(r"[\w.-]+/[\w.-]+", self.repo):
            raise RecipeError(f"publish.repo={self.repo} must be <user or organisation>/<name>")


@dataclass(frozen=True)
class Recipe:
    recipe: str  # its name, or that of its file
    scale: str = "mini"
    name: str = ""  # of the run's folder; empty: <recipe>-<scale>
    runs: str = "runs"  # the folder of the run folders
    seed: int = within(0, least=0)
    stages: list[str] = within(USUAL, menu=STAGES)
    data: Data = field(default_factory=Data)  # what fit and distill hear, and the tasks that hear nothing else
    corpora: dict[str, Data] = field(default_factory=dict)  # further ones, for evaluate.corpora
    teacher: Teacher = field(default_factory=Teacher)
    student: Student = field(default_factory=Student)
    fit: Fit = field(default_factory=Fit)
    distill: Distill = field(default_factory=Distill)
    evaluate: Evaluate = field(default_factory=Evaluate)
    report: Report = field(default_factory=Report)
    finetune: Finetune = field(default_factory=Finetune)
    publish: Publish = field(default_factory=Publish)

    def __post_init__(self):
        check("", self)
        if "publish" in self.stages and not (self.publish.repo or self.publish.dry_run):
            raise RecipeError("say where to publish: publish.repo=<user>/<name>; or publish.dry_run=true to look first")
        if Path(self.name).name != self.name or self.name == "..":
            raise RecipeError(f"name={self.name} must be the name of one folder; where it lies is runs=<folder>")
        if DATA in self.corpora:
            raise RecipeError(
                f"corpora.{DATA}: {DATA} is the corpus of fit and distill; give a further one another name"
            )
        for task, name in self.evaluate.corpora.items():
            listed(f"evaluate.corpora.{task}", name, [DATA, *self.corpora])
        if FUSED in self.teacher.upstreams:
            raise RecipeError(f"an upstream cannot be called {FUSED}, which is what all of them together are")
        others = {Path(folder).name for folder in self.evaluate.students}
        if taken := others & {"log-mel", *self.teacher.upstreams, "teacher", "student", "untrained"}:
            raise RecipeError(f"evaluate.students: {min(taken)} is the name of another row; rename the folder")
        if self.distill.layers > self.student.layers:
            pairs, layers = self.distill.layers, self.student.layers
            raise RecipeError(f"distill.layers={pairs} pairs need as many student layers, student.layers={layers}")

    def student_seed(self) -> int:
        """What the student draws from: another seed gives another student of the same teacher."""
        return self.seed if self.distill.seed < 0 else self.distill.seed

    def corpus_of(self, task: str) -> str:
        """What the corpus is called that a task is scored on."""
        name = self.evaluate.corpus(task)
        return self.data.corpus if name == DATA else name
