"""A whole run in seconds: tiny random upstreams, a small corpus, the command in a process that has its imports.

A fork of a server that has imported everything runs `distill.py` as `__main__`, with what it says in a file. It
can be killed from outside at any time, or be told to kill itself at a named change of the run's folder.
"""

import contextlib
import gc
import json
import multiprocessing
import os
import runpy
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch
from safetensors.torch import load_file
from small_checkpoints import whisper_config
from transformers import (
    Wav2Vec2FeatureExtractor,
    WavLMConfig,
    WavLMModel,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
)

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "accelerate_config.yaml"
CORE = {max(os.sched_getaffinity(0))}  # one thread is faster for tensors as small as ours, above all on a busy machine
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(  # a name that cannot be imported is passed over: ours, where pytest runs elsewhere
    [
        *(
            "deepspeed",
            "deepspeed.runtime.zero.muon.original_muon",
            "torch._inductor.compile_fx",
            "datasets",
            "evaluate",
            "jiwer",
            "omegaconf",
            "sklearn.linear_model",
        ),
        *("torch.utils.tensorboard", "torch.utils.flop_counter", "transformers.models.hubert.modeling_hubert"),
        *("transformers.models.wavlm.modeling_wavlm", "transformers.models.whisper.modeling_whisper"),
        *("distill.stages", "students.export", "teachers"),
    ]
)
CORPUS = [
    *(f"data.embedded.{split}_english={count}" for split, count in (("train", 32), ("validation", 6), ("test", 24))),
    *(f"data.embedded.{split}_other={count}" for split, count in (("train", 3), ("validation", 1), ("test", 1))),
    "data.embedded.longest=3",
]
STUDENT = [
    *("student.layers=2", "student.width=32", "student.heads=4", "student.feedforward=64", "student.conv_channels=16"),
    *("student.positions=16", "student.position_groups=4", "student.dropout=0.1", "distill.layers=2"),
]
FIT = ["teacher.calibration_seconds=30", "fit.steps=4", "fit.batch_seconds=12", "fit.save_every=1", "fit.log_every=1"]
DISTILL = [
    *("distill.steps=6", "distill.batch_seconds=12", "distill.forward_seconds=6"),
    *("distill.save_every=2", "distill.log_every=1"),
]
EVALUATE = [
    *("evaluate.learning_rates=[1e-3]", "evaluate.seeds=[0]", "evaluate.train_clips=16", "evaluate.score_clips=16"),
    *(f"evaluate.steps.{task}=2" for task in ("asr", "sv", "er", "lid")),
]
SETTINGS = [*CORPUS, *STUDENT, *FIT, *DISTILL, *EVALUATE]


CHANGES = frozenset({"open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"})


@dataclass(frozen=True)
class Moment:
    """A change of the run's folder, as Python's audit events name it: `count` times `event` on a path with `text`."""

    event: str  # one of CHANGES, about to happen; "" for any of them
    text: str  # "" is in every path
    count: int = 1


@dataclass(frozen=True)
class Job:
    """A command under way."""

    process: ForkServerProcess
    log: Path

    def said(self) -> str:
        return self.log.read_text()

    def code(self, seconds: float = 600) -> int:
        """Its exit code, once it has ended; minus the signal, if one ended it."""
        self.process.join(seconds)
        if self.process.exitcode is None:
            self.process.kill()
            raise TimeoutError(f"the command has not ended after {seconds} s:\n{self.said()}")
        return self.process.exitcode


@dataclass(frozen=True)
class Miniature:
    """Where the upstreams, the cache and the logs of this test session lie."""

    folder: Path

    def words(self, runs: Path, *given: str) -> list[str]:
        """A whole recipe in `runs`, its folder named `run`."""
        upstreams = [f"teacher.checkpoints.{family}={self.folder / family}" for family in ("wavlm", "whisper")]
        return ["recipe=wavlm+whisper", *upstreams, f"runs={runs}", "name=run", *SETTINGS, *given]

    def environment(self) -> dict[str, str]:
        """This one's, without what a launcher set, and the corpora in a cache of our own."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("ACCELERATE")}
        return kept | {"XDG_CACHE_HOME": str(self.folder / "cache"), "HF_HUB_OFFLINE": "1"}

    def start(self, words: Sequence[str], *, moment: Moment | None = None, most_bytes: int = -1) -> Job:
        """`python distill.py <words>`, on its way. most_bytes: no file may grow larger."""
        log = self.folder / f"{time.monotonic_ns()}.log"
        log.touch()
        asked = (list(words), str(log), self.environment(), moment, most_bytes)
        process = FORKS.Process(target=play, args=asked)
        process.start()
        return Job(process, log)

    def run(self, words: Sequence[str]) -> str:
        """What `python distill.py <words>` says when nothing goes wrong."""
        job = self.start(words)
        assert job.code() == 0, job.said()
        return job.said()

    def launch(self, launcher: Sequence[str], words: Sequence[str], cores: set[int] = CORE) -> str:
        """What a real `accelerate launch <launcher> distill.py <words>` says when nothing goes wrong."""
        return self.python(["-m", "accelerate.commands.launch", *launcher, "distill.py", *words], cores)

    def python(self, arguments: Sequence[str], cores: set[int] = CORE) -> str:
        """What `python <arguments>` says when nothing goes wrong."""
        command = [sys.executable, *arguments]
        with on(cores):
            done = subprocess.run(
                command, cwd=ROOT, env=self.environment(), capture_output=True, text=True, timeout=900
            )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


@contextlib.contextmanager
def on(cores: set[int]) -> Iterator[None]:
    """What is started here runs on these cores alone."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def play(words: list[str], log: str, environment: dict[str, str], moment: Moment | None, most_bytes: int) -> None:
    """In the fork: be `python distill.py <words>`."""
    with open(log, "wb", buffering=0) as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    gc.freeze()  # or every collection copies the server's pages
    os.sched_setaffinity(0, CORE)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = ["distill.py", *words]
    if most_bytes >= 0:
        import resource

        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    if moment is not None:
        sys.addaudithook(trap(moment, next(word[5:] for word in words if word.startswith("runs="))))
    os.chdir(ROOT)
    runpy.run_path(str(ROOT / "distill.py"), run_name="__main__")


def trap(moment: Moment, runs: str):
    """An audit hook that kills this process at a moment."""
    left, wanted = moment.count, {moment.event} if moment.event else CHANGES

    def watch(event: str, args: tuple) -> None:
        nonlocal left
        if event not in wanted or runs not in str(args[0]) or moment.text not in str(args[0]):
            return
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return watch


def write_upstreams(folder: Path) -> None:
    """A thin random WavLM and a Whisper with a window of three seconds, as save_pretrained writes them."""
    torch.manual_seed(1)
    wavlm = WavLMConfig(
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        conv_dim=(16,) * 5,
        conv_kernel=(20, 6, 3, 2, 2),  # as the student's, which starts with them
        conv_stride=(10, 4, 2, 2, 2),
        num_conv_pos_embeddings=16,
        num_conv_pos_embedding_groups=4,
        initializer_range=0.2,
    )
    WavLMModel(wavlm).half().save_pretrained(folder / "wavlm")
    Wav2Vec2FeatureExtractor(return_attention_mask=True).save_pretrained(folder / "wavlm")
    WhisperForConditionalGeneration(whisper_config(3, layers=2)).half().save_pretrained(folder / "whisper")
    WhisperFeatureExtractor(feature_size=80, chunk_length=3).save_pretrained(folder / "whisper")


def wait_for(job: Job, path: Path, pattern: str) -> None:
    """Until a file like that is there; AssertionError if the command ends before."""
    while not any(path.glob(pattern)):
        assert job.process.is_alive(), f"ended with {job.process.exitcode} before {pattern}:\n{job.said()}"
        time.sleep(0.002)


def journal(run: Path) -> list[dict]:
    """The lines of metrics.jsonl, without how fast it went."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    speed = {"seconds", "audio_seconds_per_second"}
    return [{key: value for key, value in line.items() if key not in speed} for line in lines]


def evaluation(run: Path) -> dict:
    """evaluation.json, without how fast it went."""
    result = json.loads((run / "evaluation.json").read_text())
    for row in result["rows"].values():
        del row["real_time_factor"], row["real_time_factor_batch"], row["seconds"]
    return result


def weights(run: Path) -> dict[str, torch.Tensor]:
    """The student's."""
    return load_file(run / "student" / "model.safetensors")


def files(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file of a folder, and when which inode was written."""
    found = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            found[str(path.relative_to(folder))] = (path.stat().st_ino, path.stat().st_mtime_ns)
    return found


def assert_same_result(run: Path, reference: Path) -> None:
    """Student and teacher bit for bit; every score; every line of the journal, each once and in order."""
    for name in ("student/model.safetensors", "student/heads.safetensors", "teacher/fused.safetensors"):
        assert (run / name).read_bytes() == (reference / name).read_bytes(), f"{name} differs"
    assert evaluation(run) == evaluation(reference)
    assert journal(run) == journal(reference)
