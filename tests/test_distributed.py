"""Two processes under the real launcher learn what one learns, but for the order of sums."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from miniature import CONFIG, ROOT, Miniature, journal, on, weights

from distill.runtime import free_port

STAGES = ["stages=[fit,distill]", "student.dropout=0"]  # dropout draws other masks in another process
STAGES += ["distill.interface_weight=0.5", "distill.posteriors_weight=0.5"]
BOTH = os.sched_getaffinity(0)  # a core for each process, where there are two
LEARNED = 1e-3  # how far the student's weights move at least, root mean square


@pytest.fixture(scope="session")
def alone(miniature: Miniature, tmp_path_factory) -> Path:
    """What one process learns."""
    runs = tmp_path_factory.mktemp("alone")
    assert "1 process," in miniature.run(miniature.words(runs, *STAGES))
    return runs / "run"


@pytest.fixture(scope="session")
def untaught(miniature: Miniature, tmp_path_factory) -> Path:
    """The student before its first step."""
    runs = tmp_path_factory.mktemp("untaught")
    miniature.run(miniature.words(runs, *STAGES, "fit.steps=0", "distill.steps=0"))
    return runs / "run"


def together(miniature: Miniature, config: Path, folder: Path, *given: str) -> tuple[Path, str]:
    """What two processes learn, and what they say."""
    launcher = ["--config_file", str(config), "--num_processes", "2", "--main_process_port", "0"]
    said = miniature.launch(launcher, miniature.words(folder, *STAGES, *given), BOTH)
    return folder / "run", said


def distance(run: Path, other: Path) -> float:
    """Root mean square over all weights of two students."""
    ours, theirs = weights(run), weights(other)
    assert ours.keys() == theirs.keys()
    differences = [(ours[name] - theirs[name]).flatten() for name in ours]
    return float(torch.cat(differences).square().mean().sqrt())


def assert_as_one(run: Path, alone: Path, untaught: Path) -> None:
    moved = distance(alone, untaught)
    assert moved > LEARNED
    assert distance(run, alone) < 0.01 * moved
    assert len(journal(run)) == len(journal(alone)) == 10
    for ours, theirs in zip(journal(run), journal(alone), strict=True):
        assert ours.pop("stage") == theirs.pop("stage")
        assert ours == pytest.approx(theirs, rel=2e-3, abs=2e-4)


def test_two_processes_equal_one(miniature: Miniature, alone, untaught, tmp_path):
    """One process hears in two passes what two hear in one: the same hands, summed in another order."""
    run, said = together(miniature, CONFIG, tmp_path)
    assert "CPU, 2 processes, float32 (bf16 is for GPUs), DeepSpeed ZeRO stage 2" in said
    assert said.count("to do: fit, distill") == 1, "the other process speaks too"
    assert_as_one(run, alone, untaught)


@pytest.mark.slow
def test_two_processes_equal_one_where_a_step_has_a_single_clip(miniature: Miniature, tmp_path):
    """The other process hears it too, and it is not counted."""
    words = ["fit.batch_seconds=2", "distill.batch_seconds=2", "distill.balance=gradient"]
    miniature.run(miniature.words(tmp_path / "none", *STAGES, *words, "fit.steps=0", "distill.steps=0"))
    miniature.run(miniature.words(tmp_path / "one", *STAGES, *words))
    run, _ = together(miniature, CONFIG, tmp_path / "two", *words)
    assert_as_one(run, tmp_path / "one/run", tmp_path / "none/run")


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 3])
def test_every_zero_stage_learns_the_same(miniature: Miniature, alone, untaught, tmp_path, zero):
    """Parameters sharded over both processes by stage 3, and more passes in each."""
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG.read_text().replace("zero_stage: 2", f"zero_stage: {zero}"))
    run, said = together(miniature, config, tmp_path, "distill.forward_seconds=3")
    assert f"2 processes, float32 (bf16 is for GPUs), DeepSpeed ZeRO stage {zero}" in said
    assert_as_one(run, alone, untaught)


@pytest.mark.slow
@pytest.mark.parametrize("shard", ["false", "true"])
def test_two_processes_evaluate_as_one(miniature: Miniature, launched, tmp_path, shard):
    """The frozen rows are the same in both, and every task is done once, also where both hold half of the teacher."""
    from miniature import evaluation

    launcher = ["--config_file", str(CONFIG), "--num_processes", "2", "--main_process_port", "0"]
    said = miniature.launch(launcher, miniature.words(tmp_path, f"teacher.shard={shard}"), BOTH)
    ours, theirs = evaluation(tmp_path / "run")["rows"], evaluation(launched[0])["rows"]
    assert ours.keys() == theirs.keys()
    for name, row in ours.items():
        assert row["tasks"].keys() == theirs[name]["tasks"].keys()
        assert row["parameters"] == theirs[name]["parameters"]
        for task in row["tasks"]:
            assert said.count(f"evaluate {name} {task}:") == 1


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["online", "cached", "codes"])
def test_two_processes_equal_one_with_every_kind_of_targets(miniature: Miniature, untaught, tmp_path, mode):
    """From memory it is the test above. Each writes its share of what is stored, codebooks are learned by the first."""
    words = miniature.words(tmp_path / "alone", *STAGES, *kept(mode, tmp_path / "alone"))
    miniature.run(words)
    run, said = together(miniature, CONFIG, tmp_path / "both", *kept(mode, tmp_path / "both"))
    assert ("targets: " in said) == (mode != "online") and "2 processes" in said
    assert_as_one(run, tmp_path / "alone/run", untaught)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["online", "memory", "cached", "codes"])
def test_a_shared_teacher_teaches_bit_for_bit_what_a_whole_one_does(miniature: Miniature, tmp_path, mode):
    """Two processes each time, with half of the upstreams' weights in each, or all; also in what fit finds."""
    whole, _ = together(miniature, CONFIG, tmp_path / "whole", *kept(mode, tmp_path / "whole"))
    shared, said = together(miniature, CONFIG, tmp_path / "s", "teacher.shard=true", *kept(mode, tmp_path / "s"))
    assert "of the teacher in each of 2 processes" in said
    for name in ("student/model.safetensors", "student/heads.safetensors", "teacher/fused.safetensors"):
        assert (shared / name).read_bytes() == (whole / name).read_bytes()
    assert journal(shared) == journal(whole)


def kept(mode: str, folder: Path) -> list[str]:
    """Targets of a kind, in a cache of their own."""
    more = {"cached": ["distill.supervise=both", "distill.balance=gradient"], "codes": ["distill.posteriors_weight=0"]}
    return [f"distill.targets={mode}", f"distill.cache={folder / 'cache'}", *more.get(mode, [])]


@pytest.mark.slow
def test_two_machines_equal_one(miniature: Miniature, alone, untaught, tmp_path):
    """Two launchers of one process each, joined as two machines are; only the network between them is missing."""
    port = str(free_port())
    launcher = ["--config_file", str(ROOT / "accelerate_config.multi_node.yaml"), "--num_processes", "2"]
    launcher += ["--main_process_ip", "127.0.0.1", "--main_process_port", port]
    command = [sys.executable, "-m", "accelerate.commands.launch", *launcher, "--machine_rank"]
    words = ["distill.py", *miniature.words(tmp_path, *STAGES)]
    output = tmp_path / "second.log"
    with output.open("wb") as log, on(BOTH):
        second = subprocess.Popen(
            [*command, "1", *words], cwd=ROOT, env=miniature.environment(), stdout=log, stderr=log
        )
        try:
            said = miniature.launch([*launcher, "--machine_rank", "0"], words[1:], BOTH)
            assert second.wait(120) == 0, output.read_text()
        finally:
            second.kill()
    assert "2 processes" in said
    assert_as_one(tmp_path / "run", alone, untaught)
