"""How a small upstream is made, as plain data."""

from dataclasses import dataclass, field
from pathlib import Path

from distill.data.settings import Data

SHIPPED = Path(__file__).parents[1] / "mini"
LESSONS = ("clusters", "known")


@dataclass(frozen=True)
class Pretrain:
    """How a small upstream is made; steps are optimizer steps."""

    model: str
    out: str = ""  # folder; by default teachers/mini/<model>
    start: str = ""  # folder of a checkpoint to go on from; empty: from nothing
    seed: int = 1
    steps: int = 1400
    batch_seconds: float = 32.0  # of audio in a step
    learning_rate: float = 2e-3
    english: int = 5000  # clips of the embedded corpus
    other: int = 450  # clips of each other language
    lessons: str = "clusters"  # found in clean speech; or "known": its phones, and voices and styles where labelled
    masked: float = 0.4  # share of the frames that a waveform model does not hear, about
    noisy: float = 0.7  # share of the clips heard with noise; a waveform model's targets are always of the clean ones
    width: int = 160
    layers: int = 4
    spectrum: float = 2.0  # weight of the clean spectrum at the start
    threads: int = 1
    data: Data = field(default_factory=Data)  # of a corpus that is not the embedded one, the training split

    def __post_init__(self):
        if self.lessons not in LESSONS:
            raise ValueError(f"unknown lessons={self.lessons}; there are {', '.join(LESSONS)}")
        if self.lessons == "known" and self.model == "whisper":
            raise ValueError("lessons=known is for wavlm and hubert; whisper learns phones anyway")

    def folder(self) -> Path:
        """Where the checkpoint is written; ValueError where recordings would go into a shipped one."""
        if self.out:
            return Path(self.out)
        if self.data.corpus != "embedded":
            raise ValueError("say where the checkpoint goes that has heard your recordings: out=<folder>")
        return SHIPPED / self.model
