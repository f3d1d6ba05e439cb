"""The runtime under DeepSpeed on a CPU, in processes of their own, against a plain loop in this one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from torch import Tensor, nn

ROOT = Path(__file__).parent.parent
CONFIG = ROOT / "accelerate_config.yaml"
CLIPS, STEPS, WIDTH = 8, 4, 5
STAGES = {
    "first": (1, 0.0),
    "second": (2, 0.4),
}  # passes per step, clip; some gradients are longer than the clip
RATES = (0.05, 0.1, 0.02, 0.1)


class Model(nn.Module):
    """Two layers, and the sum of their squared errors over valid frames."""

    def __init__(self, seed: int):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Linear(WIDTH, 7), nn.Tanh(), nn.Linear(7, WIDTH))

    def forward(self, audio_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        return ((self.layers(audio_BTD) - audio_BTD.flip(-1)).square().mean(-1) * mask_BT).sum()


def batch(step: int) -> tuple[Tensor, Tensor]:
    """All clips of one optimizer step, of unequal lengths."""
    generator = torch.Generator().manual_seed(step)
    lengths_B = torch.randint(1, 6, (CLIPS,), generator=generator)
    return torch.randn(CLIPS, 5, WIDTH, generator=generator), torch.arange(5) < lengths_B[:, None]


def alone(stage: str) -> dict[str, Tensor]:
    """What a stage must give: a plain loop over whole batches."""
    model, (_, clip) = Model(len(stage)), STAGES[stage]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9)  # unlike Adam's, its steps feel the scale
    for step in range(STEPS):
        optimizer.param_groups[0]["lr"] = RATES[step]
        audio_BTD, mask_BT = batch(step)
        (model(audio_BTD, mask_BT) / mask_BT.sum()).backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
        optimizer.zero_grad()
    return model.state_dict()


def together(stage: str, config: Path) -> dict[str, Tensor]:
    """The same stage under the runtime, every process and pass with its own share of the batch."""
    from distill import runtime

    accumulation, clip = STAGES[stage]
    accelerator = runtime.start(config, accumulation=accumulation, clip=clip)
    model = Model(len(stage))
    engine, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.9))
    world, rank = accelerator.num_processes, accelerator.process_index
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATES[step]
        audio_BTD, mask_BT = batch(step)
        for part in range(accumulation):
            mine = slice(rank * accumulation + part, None, world * accumulation)
            with accelerator.accumulate(engine):
                total = engine(audio_BTD[mine], mask_BT[mine])
                accelerator.backward(total * world * accumulation / mask_BT.sum())
    weights = runtime.weights(accelerator, engine)
    print(runtime.describe(accelerator), flush=True)
    runtime.finish(accelerator)
    return weights


def work(folder: Path, config: Path, dtype: str) -> None:
    """What the other processes do: both stages in turn, the results to a file of each process."""
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    from distill import runtime

    runtime.quiet()
    if dtype == "bfloat16":  # as on a GPU
        runtime.precision = lambda: torch.bfloat16
    weights = {stage: together(stage, config) for stage in STAGES}
    assert not is_deepspeed_zero3_enabled(), "transformers would shard the teacher"
    torch.save(weights, folder / f"{os.environ['RANK']}.pt")
    runtime.leave()


def launch(command: list[str], folder: Path, config: Path, dtype: str = "float32") -> str:
    """Run `work` under a launcher; what it printed."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ACCELERATE")}
    environment = kept | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [*command, __file__, str(folder), str(config), dtype]
    done = subprocess.run(words, env=environment, cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def launcher(config: Path, processes: int) -> list[str]:
    """`accelerate launch` with a config file and a free port."""
    words = [
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(config),
        "--num_processes",
        str(processes),
    ]
    return [sys.executable, *words, "--main_process_port", "0"]


def with_stage(zero: int, folder: Path) -> Path:
    """Our config file with another ZeRO stage."""
    config = yaml.safe_load(CONFIG.read_text())
    config["deepspeed_config"]["zero_stage"] = zero
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def assert_as_alone(folder: Path, processes: int, tolerance: float = 2e-6) -> None:
    files = sorted(folder.glob("*.pt"))
    assert len(files) == processes, "fewer processes than asked for"
    for file in files:
        got = torch.load(file, weights_only=True)
        for stage in STAGES:
            torch.testing.assert_close(got[stage], dict(alone(stage)), atol=tolerance, rtol=0)


def test_the_plain_command_runs_deepspeed_as_the_config_file_says(tmp_path):
    said = launch([sys.executable], tmp_path, CONFIG)
    line = "CPU, 1 process, float32 (bf16 is for GPUs), DeepSpeed ZeRO stage 2, threads: "
    assert [word.rstrip("0123456789") for word in said.splitlines()] == [line] * len(STAGES), "it said more"
    assert_as_alone(tmp_path, 1)


def test_two_processes_equal_one_and_a_second_model_is_trained_as_if_it_were_the_first(tmp_path):
    said = launch(launcher(CONFIG, 2), tmp_path, CONFIG)
    assert "CPU, 2 processes, float32 (bf16 is for GPUs), DeepSpeed ZeRO stage 2" in said
    assert_as_alone(tmp_path, 2)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("zero", [0, 1, 3])
def test_every_zero_stage_trains_the_same(tmp_path, zero, processes):
    config = with_stage(zero, tmp_path)
    assert f"ZeRO stage {zero}" in launch(launcher(config, processes), tmp_path, config)
    assert_as_alone(tmp_path, processes)


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 1, 2, 3])
def test_autocast_computes_in_bfloat16_and_keeps_float32_weights(tmp_path, zero):
    config = with_stage(zero, tmp_path)
    launch(launcher(config, 2), tmp_path, config, "bfloat16")
    assert_as_alone(tmp_path, 2, tolerance=0.02)
    with pytest.raises(AssertionError):
        assert_as_alone(tmp_path, 2)


def test_plain_accelerate_launch_sets_nothing_we_rely_on(monkeypatch):
    """One process without RANK gets a group of its own, on a port of its own."""
    from distill import runtime

    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # so that what `join` sets is taken back after the test
        monkeypatch.delenv(name)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "True")
    runtime.join()
    assert (os.environ["RANK"], os.environ["WORLD_SIZE"]) == ("0", "1")
    assert os.environ["MASTER_PORT"] != "29500"
    assert os.environ["ACCELERATE_USE_CPU"] == "false"


def test_what_the_launcher_says_counts(monkeypatch):
    from distill import runtime

    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    monkeypatch.setenv("ACCELERATE_DEEPSPEED_ZERO_STAGE", "3")
    runtime.adopt(CONFIG)
    assert os.environ["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == "3"


def test_a_setting_the_plain_command_does_not_read_is_an_error(monkeypatch, tmp_path):
    from distill import runtime

    monkeypatch.delenv("ACCELERATE_USE_DEEPSPEED", raising=False)
    config = tmp_path / "config.yaml"
    config.write_text("deepspeed_config: {zero_stage: 2, deepspeed_config_file: mine.json}")
    with pytest.raises(ValueError, match="deepspeed_config_file"):
        runtime.adopt(config)


def test_a_precision_we_cannot_do_is_an_error(monkeypatch):
    from distill import runtime

    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    with pytest.raises(ValueError, match="choose bf16"):
        runtime.precision()


if __name__ == "__main__":
    work(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
