"""Checkpoints: a run that goes on equals one that never stopped, and no half file is ever taken for a whole one."""

import errno
import json
from pathlib import Path

import pytest
import torch
from accelerate import Accelerator
from toy import lines

from distill.checkpoint import Checkpoints


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


@pytest.mark.parametrize(
    ("written", "ours", "goes"),
    [(3, 2, False), (2, 0, False), (0, 2, False), (2, 1, True), (2, 2, True), (None, 2, True)],
)
def test_a_checkpoint_of_another_zero_stage_is_an_error_with_a_way_out(
    learn, tmp_path, monkeypatch, written, ours, goes
):
    """None: of before stages were written down."""
    stages = iter([written, written, written, ours])
    monkeypatch.setattr("distill.checkpoint.zero_stage", lambda accelerator: next(stages))
    learn(tmp_path)
    if goes:
        learn(tmp_path)
        return
    with pytest.raises(
        ValueError, match=rf"step-000006 was written under zero_stage: {written} and cannot .* {ours}; set"
    ):
        learn(tmp_path)


def test_a_checkpoint_of_other_processes_is_an_error_with_a_way_out(learn, tmp_path):
    learn(tmp_path)
    state = tmp_path / "checkpoints/toy/step-000006/loop.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"processes": 3}))
    with pytest.raises(ValueError, match=r"step-000006 was written by 3 processes .* by 1; launch 3, or delete"):
        learn(tmp_path)
