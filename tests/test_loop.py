"""The one training loop, on a toy: what it takes, what it forgets, and what an interruption leaves."""

import errno
import io
import itertools
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import soundfile
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from torch import Tensor, nn

from distill.checkpoint import Checkpoints
from distill.data.batches import Batch, Batches, deal
from distill.data.clips import Clips, pad
from distill.distillation import Distillation, build, restored, sources, supervise
from distill.features import SAMPLE_RATE
from distill.fit import Fit, Fitting, Labels
from distill.frozen import Frozen
from distill.loop import Journal, NonFiniteLossError, Plan, optimizer, rate, train
from distill.posteriors import posteriors
from distill.recipe import Distill
from distill.targets import memory, online
from distill.tasks import TASKS
from distill.teacher import FusedTeacher

PLAN = Plan("toy", 0, 8, 4.0, 2, 0.1, 0.25, 2, 1)


def speak(count: int) -> Clips:
    """Noise with labels for every task; clips of half a second to a whole one."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        file, samples = io.BytesIO(), int(rng.integers(8000, 16000))
        soundfile.write(file, rng.uniform(-0.3, 0.3, samples), SAMPLE_RATE, format="WAV")
        rows.append(
            {
                "id": f"clip-{i}",
                "audio": {"bytes": file.getvalue(), "path": None},
                "samples": samples,
                "transcript": ["so it is", "it was", "as it is"][i % 3],
                "language": "de" if i % 4 == 3 else "en",
                "style": ["calm", "flat"][i % 2],
                "speaker": f"speaker-{i % 3}",
            }
        )
    return Clips(datasets.Dataset.from_list(rows).cast_column("audio", datasets.Audio(decode=False)))


@pytest.fixture(scope="module")
def clips() -> Clips:
    return speak(24)


@dataclass
class Toy:
    """Wants the mean power of clips to be told from their length; notes the weight before every pass."""

    clips: Clips
    spoil: Callable[[int], bool] = lambda call: False
    before: list[float] = field(default_factory=list)

    def counts(self, rows: np.ndarray) -> Tensor:
        return torch.tensor([float(len(rows))])

    def outcome(self, model: nn.Module, batch: Batch, progress: float) -> tuple[Tensor, Tensor]:
        [weight] = [value for value in model.parameters() if value.ndim == 2]
        self.before.append(float(weight.detach()))
        power_B = batch.audio.square().sum(1) / batch.lengths
        told_B = model(torch.rand(len(power_B), 1) + batch.lengths[:, None] / SAMPLE_RATE)[:, 0]
        loss = (told_B - power_B).square().sum()
        if self.spoil(len(self.before) - 1):
            loss = loss * math.nan
        return loss / batch.counts[0], torch.stack([loss.detach(), torch.tensor(float(len(batch.rows)))]).double()

    def read(self, tally: Tensor) -> dict[str, float]:
        return {"loss": float(tally[0] / tally[1])}


@pytest.fixture
def accelerator() -> Iterator[Callable[[int], Accelerator]]:
    """Makes a plain one with so many passes a step; DeepSpeed's is tested by the command itself."""

    def make(passes: int = PLAN.passes) -> Accelerator:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        return Accelerator(cpu=True, gradient_accumulation_steps=passes)

    yield make
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


@pytest.fixture
def learn(accelerator, clips) -> Callable[..., tuple[dict[str, Tensor], Toy]]:
    """Trains the toy from its first weights: (folder, plan=, spoil=); what it learned, and the toy."""

    def go(folder: Path, plan: Plan = PLAN, spoil=lambda call: False) -> tuple[dict[str, Tensor], Toy]:
        folder.mkdir(exist_ok=True)
        machine, toy = accelerator(plan.passes), Toy(clips, spoil)
        torch.manual_seed(1)
        module = nn.Sequential(nn.Linear(1, 1), nn.Dropout(0.2))
        model, trainer = machine.prepare(module, optimizer(module, 0.1))
        train(machine, model, trainer, toy, plan, folder)
        return {name: value.clone() for name, value in module.state_dict().items()}, toy

    return go


def lines(folder: Path) -> list[tuple[str, int]]:
    text = (folder / "metrics.jsonl").read_text()
    return [(line["stage"], line["step"]) for line in map(json.loads, text.splitlines())]


def test_the_rate_rises_to_its_highest_and_falls_to_a_hundredth():
    plan = replace(PLAN, steps=1000, warmup=0.1)
    rates = [rate(plan, step) for step in range(plan.steps)]
    assert max(rates) == rates[100] == plan.learning_rate
    assert all(0 < before < after for before, after in itertools.pairwise(rates[:101]))
    assert all(before > after for before, after in itertools.pairwise(rates[100:]))
    assert rates[0] == pytest.approx(plan.learning_rate / 101)
    assert rates[-1] == pytest.approx(plan.learning_rate / 100, rel=0.01)
    assert rates[550] == pytest.approx(plan.learning_rate * (0.01 + 0.99 / 2), rel=1e-3)  # half-way down


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_plans_learn_at_a_rate_above_zero(steps):
    for warmup in (0.0, 0.1, 0.9):
        rates = [rate(replace(PLAN, steps=steps, warmup=warmup), step) for step in range(steps)]
        assert all(0 < value <= PLAN.learning_rate for value in rates)


def test_biases_and_norms_do_not_decay():
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 2, bias=False))
    module[2].requires_grad_(False)
    groups = {group["weight_decay"]: group["params"] for group in optimizer(module, 0.3).param_groups}
    assert {id(weight) for weight in groups[0.3]} == {id(module[0].weight)}
    assert {id(weight) for weight in groups[0.0]} == {id(module[0].bias), *map(id, module[1].parameters())}


def test_a_step_in_two_passes_is_one_step(learn, tmp_path):
    plan = replace(PLAN, steps=3)
    learned = [learn(tmp_path / str(passes), replace(plan, passes=passes))[1] for passes in (1, 2)]
    assert len(learned[0].before) == 3 and len(learned[1].before) == 6
    assert learned[1].before[::2] == learned[1].before[1::2], "the weights moved within a step"
    assert learned[1].before[0] != learned[1].before[2], "they never moved"


def test_a_loss_that_is_no_number_stops_before_the_step(learn, tmp_path):
    """In the second pass of step 5: the weights stay those of step 5's first pass, and the clips are named."""
    _, undisturbed = learn(tmp_path / "undisturbed")
    with pytest.raises(NonFiniteLossError, match=r"^step 5: the loss is nan \(clips clip-\d+.*not taken") as caught:
        learn(tmp_path / "spoilt", spoil=lambda call: call == 11)
    assert "lower learning_rate; the last checkpoint is kept" in str(caught.value)
    assert (tmp_path / "spoilt/checkpoints/toy/step-000004").is_dir()
    assert lines(tmp_path / "spoilt") == [("toy", step) for step in range(1, 6)]
    learned, resumed = learn(tmp_path / "spoilt")
    assert resumed.before == undisturbed.before[8:]
    assert learned["0.weight"] == learn(tmp_path / "again")[0]["0.weight"]


def test_no_weight_moves_when_the_loss_is_no_number(accelerator, clips, tmp_path):
    machine, toy = accelerator(1), Toy(clips, lambda call: call == 2)
    module = nn.Linear(1, 1)
    model, trainer = machine.prepare(module, optimizer(module, 0.1))
    with pytest.raises(NonFiniteLossError):
        train(machine, model, trainer, toy, replace(PLAN, passes=1), tmp_path)
    assert float(module.weight.detach()) == toy.before[2]
    assert bool(module.bias.isfinite().all())


@pytest.mark.parametrize("call", [2, 3])
def test_no_pass_of_a_step_may_be_no_number(accelerator, clips, tmp_path, call):
    """They are asked about once a step, before it is taken; the clips named are those of the pass."""
    machine, toy = accelerator(2), Toy(clips, lambda number: number == call)
    module = nn.Linear(1, 1)
    model, trainer = machine.prepare(module, optimizer(module, 0.1))
    with pytest.raises(NonFiniteLossError, match="step 1: the loss is nan") as caught:
        train(machine, model, trainer, toy, PLAN, tmp_path)
    assert float(module.weight.detach()) == toy.before[2] == toy.before[3] != toy.before[0]
    deal = {"start": 0, "steps": 8, "passes": 2, "process": 0, "processes": 1}
    spoiled = Batches(clips, toy.counts, batch_seconds=PLAN.batch_seconds, seed=0, **deal)[call]
    assert f"(clips {', '.join(spoiled.ids)})" in str(caught.value)


def test_many_clips_are_not_all_named(learn, tmp_path):
    with pytest.raises(NonFiniteLossError) as caught:
        learn(tmp_path, replace(PLAN, passes=1, batch_seconds=30.0), spoil=lambda call: True)
    assert "step 0" in str(caught.value) and "and 16 more" in str(caught.value)


@pytest.mark.parametrize("call", [0, 5, 8, 9, 15])
def test_going_on_from_a_checkpoint_equals_never_having_stopped(learn, tmp_path, call):
    """Dropout, order of clips and learning rate included."""
    learned, _ = learn(tmp_path / "undisturbed")

    def interrupt(number: int) -> bool:
        if number == call:
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        learn(tmp_path / "killed", spoil=interrupt)
    resumed, toy = learn(tmp_path / "killed")
    assert len(toy.before) == 16 - 2 * 2 * (call // 4), "began anew, or too late"
    assert all(torch.equal(resumed[name], learned[name]) for name in learned)
    assert lines(tmp_path / "killed") == [("toy", step) for step in range(1, 9)]


def test_only_the_newest_checkpoint_is_kept_and_none_of_the_last_step(learn, tmp_path):
    learn(tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints/toy").iterdir()] == ["step-000006"]


def test_a_full_disk_leaves_the_older_checkpoint(learn, tmp_path, monkeypatch):
    learned, undisturbed = learn(tmp_path / "undisturbed")

    def full(self, folder: str) -> None:
        (Path(folder) / "model.safetensors").write_bytes(b"half of")
        raise OSError(errno.ENOSPC, "No space left on device", folder)

    save = Accelerator.save_state
    calls = iter([save, full])
    monkeypatch.setattr(Accelerator, "save_state", lambda self, folder: next(calls)(self, folder))
    with pytest.raises(OSError, match="No space left on device"):
        learn(tmp_path / "full")
    assert Checkpoints(tmp_path / "full/checkpoints/toy").newest().name == "step-000002"
    monkeypatch.setattr(Accelerator, "save_state", save)
    resumed, toy = learn(tmp_path / "full")
    assert toy.before == undisturbed.before[4:]
    assert all(torch.equal(resumed[name], learned[name]) for name in learned)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 704 vs 598"),
        RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"),
    ],
)
def test_what_torch_says_of_a_full_disk_is_an_os_error(learn, tmp_path, monkeypatch, error):
    def full(self, folder: str) -> None:
        raise error

    monkeypatch.setattr(Accelerator, "save_state", full)
    with pytest.raises(OSError, match=r"cannot write .*step-000002.*is the disk full"):
        learn(tmp_path)


def test_an_error_of_the_program_is_no_full_disk(learn, tmp_path, monkeypatch):
    def fail(self, folder: str) -> None:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    monkeypatch.setattr(Accelerator, "save_state", fail)
    with pytest.raises(RuntimeError, match="mat1"):
        learn(tmp_path)


def test_an_unfinished_checkpoint_is_ignored_and_replaced(learn, tmp_path):
    learned, _ = learn(tmp_path / "undisturbed")
    folder = tmp_path / "new" / "checkpoints" / "toy"
    for name in ("step-000002.unfinished", "step-000900.unfinished"):
        (folder / name).mkdir(parents=True)
        (folder / name / "loop.json").write_text('{"step": 900, "proc')
    assert Checkpoints(folder).newest() is None
    resumed, toy = learn(tmp_path / "new")
    assert len(toy.before) == 16
    assert all(torch.equal(resumed[name], learned[name]) for name in learned)
    assert sorted(path.name for path in folder.iterdir()) == ["step-000006", "step-000900.unfinished"]


def test_the_newer_of_two_checkpoints_counts(tmp_path):
    for step in (2, 10):
        (tmp_path / f"step-{step:06d}").mkdir()
    assert Checkpoints(tmp_path).newest() == tmp_path / "step-000010"
    assert Checkpoints(tmp_path / "none").newest() is None
    Checkpoints(tmp_path).remove()
    assert not tmp_path.exists()
    Checkpoints(tmp_path).remove()


def test_a_checkpoint_of_other_processes_is_an_error_with_a_way_out(learn, tmp_path):
    learn(tmp_path)
    state = tmp_path / "checkpoints/toy/step-000006/loop.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"processes": 3}))
    with pytest.raises(ValueError, match=r"step-000006 was written by 3 processes .* by 1; launch 3, or delete"):
        learn(tmp_path)


def test_the_journal_forgets_steps_that_are_taken_again(accelerator, tmp_path):
    path = tmp_path / "metrics.jsonl"
    old = [("fit", 5), ("fit", 6), ("toy", 1), ("toy", 2), ("toy", 3)]
    text = "".join(json.dumps({"stage": stage, "step": step, "loss": math.nan}) + "\n" for stage, step in old)
    path.write_text(text + '{"stage": "toy", "st')
    journal = Journal(accelerator(), PLAN, lambda tally: {"loss": float(tally[0])}, path, 2)
    assert lines(tmp_path) == old[:-1]
    journal.add(torch.ones(1), Batch(np.zeros(1), [], torch.zeros(1, 1), torch.tensor([8000]), torch.ones(1)))
    journal.step(3, 0.1)
    journal.close()
    assert lines(tmp_path) == old
    assert json.loads(path.read_text().splitlines()[-1])["loss"] == 1


def test_the_journal_sums_what_happened_since_its_last_line(accelerator, tmp_path):
    journal = Journal(
        accelerator(),
        replace(PLAN, steps=5, log_every=2),
        lambda tally: {"mean": float(tally[0] / tally[1])},
        tmp_path / "metrics.jsonl",
        0,
    )
    empty = Batch(np.zeros(1), [], torch.zeros(1, 1), torch.tensor([8000]), torch.ones(1))
    for step, value in enumerate((1.0, 3.0, 10.0, 20.0, 7.0), 1):
        journal.add(torch.tensor([value, 1.0], dtype=torch.float64), empty)
        journal.step(step, 0.1)
    journal.close()
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["mean"]) for line in written] == [(2, 2.0), (4, 15.0), (5, 7.0)]


@pytest.fixture
def teacher(build_model, build_whisper) -> FusedTeacher:
    """A random WavLM and a random Whisper, fused."""
    from distill.waveform import Waveform
    from teachers.whisper import WhisperEncoder

    upstreams = {
        "wavlm": Frozen(Waveform(build_model("wavlm", norm="layer"), normalize=True)),
        "whisper": Frozen(WhisperEncoder(build_whisper())),
    }
    return FusedTeacher(upstreams, "sum", 0, "hconv", 0)


def dealt(objective, model: nn.Module, rows: np.ndarray, parts: int) -> tuple[float, Tensor, Tensor]:
    """Loss, gradient and tally of one step, in so many hands."""
    model.zero_grad()
    total, tallies = 0.0, []
    for hand in deal(rows, objective.clips.samples, parts):
        audio_BN, lengths_B = pad([objective.clips.audio(row) for row in hand])
        ids = [objective.clips.ids[row] for row in hand]
        batch = Batch(hand, ids, audio_BN, lengths_B, objective.counts(rows))
        loss, tally = objective.outcome(model, batch, 0.5)
        loss.backward()
        total += float(loss.detach())
        tallies.append(tally.double())
    gradient = torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])
    return total, gradient.clone(), torch.stack(tallies).sum(0)


def assert_dealing_changes_nothing(objective, model: nn.Module) -> None:
    rows = np.arange(len(objective.clips))
    loss, gradient, tally = dealt(objective, model, rows, 1)
    for parts in (2, 5, len(rows)):
        other_loss, other_gradient, other_tally = dealt(objective, model, rows, parts)
        assert other_loss == pytest.approx(loss, rel=1e-5)
        assert float((other_gradient - gradient).norm()) < 1e-4 * float(gradient.norm())
        for name, value in objective.read(tally).items():
            assert objective.read(other_tally)[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize(
    ("by", "weight", "halved"),
    [("fused", 0.0, False), ("both", 0.0, False), ("fused", 2.0, False), ("both", 2.0, True)],
)
def test_the_distillation_loss_does_not_depend_on_how_a_step_is_dealt(
    clips, teacher, build_tiny_student, by, weight, halved
):
    clips = clips.select(range(7))
    student = build_tiny_student(halved=halved)
    settings = Distill(layers=2, interface_weight=0.5, supervise=by)
    groups = sources(student, teacher, settings)
    times = restored(student, teacher, settings)
    assert times == 1 + halved
    model = build(student, teacher, settings, groups, 0)
    supervision = supervise(teacher, groups, settings, torch.float32)
    names = [name for group in groups for name in group.names()]
    tasks = [Labels.of(task, clips).task for task in TASKS.values()]
    fitted = nn.ModuleDict({task.name: task.head(teacher.interface.width) for task in tasks}).state_dict()
    heads = posteriors(teacher, list(TASKS.values()), clips, fitted, weight)
    for targets in (online(supervision), memory(supervision, clips, 5.0, torch.device("cpu"))):
        objective = Distillation(clips, student, targets, names, supervision.told, posteriors=heads, times=times)
        assert_dealing_changes_nothing(objective, model.eval())


def test_the_fit_loss_does_not_depend_on_how_a_step_is_dealt(clips, teacher):
    """A hand may hold no clip of a task: English alone is transcribed."""
    clips = clips.select(range(7))
    labels = [Labels.of(task, clips) for task in TASKS.values()]
    model = Fitting(teacher.fusion, teacher.interface, [one.task for one in labels])
    assert_dealing_changes_nothing(Fit(clips, teacher.encoders(), labels), model.eval())
