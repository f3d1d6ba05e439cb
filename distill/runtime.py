"""The one Accelerator: on which device, in how many processes, under which DeepSpeed ZeRO stage."""

import logging
import os
import socket
import warnings
from contextlib import redirect_stdout
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import cast

import torch
import transformers
import yaml
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import (
    DeepSpeedPlugin,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    broadcast_object_list,
)
from torch import Tensor, nn
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

BUCKET = 2**25  # numbers reduced at once; DeepSpeed's own 5e8 holds 2 GB of a GPU beside a student of 0.1 GB
LIVE = 2 * BUCKET  # numbers of a sharded module that a process holds whole at once
PATIENCE = timedelta(days=1)  # while one process fetches a corpus or trains its probes, the others wait
DEEPSPEED_KEYS = ("zero_stage", "offload_optimizer_device", "offload_param_device", "zero3_save_16bit_model")


def start(config_file: Path, *, accumulation: int = 1, clip: float = 0.0, logs: Path | None = None) -> Accelerator:
    """A fresh Accelerator with DeepSpeed for one model; each stage takes its own, after `finish` on the last.

    The launcher's DeepSpeed settings count; where it gave none (`accelerate launch distill.py`, or plain
    `python distill.py`) those of config_file. accumulation: forward passes per optimizer step, DeepSpeed
    divides the loss by it. clip: largest norm of the gradient, 0 for none. logs: folder for TensorBoard.
    Raises ValueError for settings that cannot be.
    """
    adopt(config_file)
    join()
    use_cores()
    torch.backends.cudnn.deterministic = True  # or an interrupted run could not go on to the same bits
    AcceleratorState._reset_state()  # a state takes one DeepSpeed plugin for good, and ours differ by stage
    GradientState._reset_state()
    with redirect_stdout(StringIO()):  # DeepSpeed prints
        accelerator = Accelerator(
            mixed_precision="no",  # accelerate's bf16 would make the weights themselves bfloat16: see plugin
            deepspeed_plugin=plugin(accumulation, clip, precision()),
            kwargs_handlers=[InitProcessGroupKwargs("nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)],
            # given whole: the launcher's environment would win over a bare number of steps
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=accumulation),
            log_with="tensorboard" if logs else None,
            project_dir=logs,
        )
    unset_hf_deepspeed_config()  # or under ZeRO-3 transformers shards every model it loads, the teacher's too
    return accelerator


def deal_out(module: nn.Module) -> nn.Module:
    """Share a frozen module's weights out to all processes, by a DeepSpeed plugin of its own, ZeRO 3.

    Call what comes back, in all processes equally often. Of an Accelerator of its own, so that no stage saves it in
    a checkpoint, and it outlives them; call this after `start`, whose settings of the machine count.
    """
    import deepspeed

    settings, dtype = sharding_plugin(), next(module.parameters()).dtype
    AcceleratorState._reset_state()
    GradientState._reset_state()
    with redirect_stdout(StringIO()):
        accelerator = Accelerator(mixed_precision="no", deepspeed_plugins={"teacher": settings})
        for part in gathered_at_once(module):
            deepspeed.utils.set_z3_leaf_module(part, True)
        # weight by weight, before DeepSpeed would put the whole of them on a device to share them out there
        deepspeed.zero.Init(module=module, config_dict_or_path=settings.deepspeed_config, dtype=dtype)
        engine = accelerator.prepare(module)
    unset_hf_deepspeed_config()
    engine.eval()
    return engine


def gathered_at_once(module: nn.Module) -> list[nn.Module]:
    """The largest parts of a module that have no more than BUCKET numbers, as layers; none is a list of others."""
    few = sum(weight.numel() for weight in module.parameters()) <= BUCKET
    if (few and not isinstance(module, nn.ModuleList | nn.ModuleDict)) or not list(module.children()):
        return [module]
    return [part for child in module.children() for part in gathered_at_once(child)]


def weights(accelerator: Accelerator, engine: nn.Module) -> dict[str, Tensor]:
    """What a prepared model has learned, whole and on the CPU, in every process; all must call it."""
    state = cast(dict[str, Tensor] | None, accelerator.get_state_dict(engine))  # under ZeRO-3 only in the first process
    state = {name: value.detach().cpu().clone() for name, value in (state or {}).items()}
    return broadcast_object_list([state])[0]


def finish(accelerator: Accelerator) -> None:
    """End a stage: close its logs and free its engine. Take `weights` before: ZeRO-3 frees them too."""
    for tracker in accelerator.trackers:  # accelerator.end_training() would end the process group as well
        tracker.finish()
    accelerator.free_memory()


def leave() -> None:
    """End this process's part in the group, at the end of the program."""
    PartialState().destroy_process_group()


def use_cores() -> None:
    """Share this machine's cores among its processes; launchers leave each of them one thread."""
    if not torch.cuda.is_available():
        torch.set_num_threads(max(len(os.sched_getaffinity(0)) // processes_here(), 1))


def processes() -> int:
    """Processes of this launch, before there is an Accelerator."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def processes_here() -> int:
    """Those of them that are on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", processes()))


def describe(accelerator: Accelerator) -> str:
    """Device, processes, precision, ZeRO stage and threads, in one line."""
    cuda = accelerator.device.type == "cuda"
    device = torch.cuda.get_device_name(accelerator.device) if cuda else "CPU"
    processes = f"{accelerator.num_processes} process{'' if accelerator.num_processes == 1 else 'es'}"
    dtype = str(precision()).removeprefix("torch.")
    if not cuda and os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16":
        dtype += " (bf16 is for GPUs)"
    settings = accelerator.state.deepspeed_plugin
    assert settings is not None  # `start` gave it
    zero = settings.zero_stage
    return f"{device}, {processes}, {dtype}, DeepSpeed ZeRO stage {zero}, threads: {torch.get_num_threads()}"


def quiet() -> None:
    """Keep what other libraries say down to errors."""
    for name in (
        "DeepSpeed",
        "accelerate",
        "matplotlib",
        "torch.distributed",
    ):  # by a filter, as importing them sets the level
        logging.getLogger(name).addFilter(lambda record: record.levelno >= logging.ERROR)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")


def adopt(config_file: Path) -> None:
    """Set what `accelerate launch --config_file` would have set, where the launcher set no DeepSpeed."""
    if os.environ.get("ACCELERATE_USE_DEEPSPEED", "false").lower() == "true":
        return
    config = yaml.safe_load(config_file.read_text())
    settings = config.get("deepspeed_config", {})
    if strange := sorted(set(settings) - set(DEEPSPEED_KEYS)):
        raise ValueError(
            f"{config_file}: deepspeed_config.{strange[0]} is only read by "
            f"`accelerate launch --config_file {config_file.name} distill.py ...`; launch so, or leave it out"
        )
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    os.environ["ACCELERATE_MIXED_PRECISION"] = str(config.get("mixed_precision", "no"))
    for key, value in settings.items():
        os.environ[f"ACCELERATE_DEEPSPEED_{key.upper()}"] = str(value).lower()


def join() -> None:
    """Make an environment DeepSpeed can start in: alone where no launcher made a group, on a CPU too."""
    if "RANK" not in os.environ:
        # a launcher's MASTER_PORT is not kept: for one process it is the same on every call, and may be taken
        os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1"}
        os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    if os.environ.get("ACCELERATE_USE_CPU", "false").lower() in ("true", "1"):
        if torch.cuda.is_available():
            raise ValueError("to compute on the CPU beside a GPU, hide it: CUDA_VISIBLE_DEVICES= accelerate launch ...")
        os.environ["ACCELERATE_USE_CPU"] = "false"  # accelerate gives up DeepSpeed where this is true
    if not torch.cuda.is_available():
        import deepspeed  # here, so that `quiet` can come before what it says when it is imported

        # compiled on first use (over a minute on a busy laptop) for a reduction that only inference makes
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def free_port() -> int:
    """A TCP port of this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def precision() -> torch.dtype:
    """In which type a forward pass computes: the machine's `mixed_precision` on a GPU, float32 on a CPU."""
    asked = os.environ["ACCELERATE_MIXED_PRECISION"]
    if asked not in ("no", "bf16"):
        raise ValueError(f"mixed_precision {asked!r} is not supported; choose bf16 or 'no' in accelerate_config.yaml")
    if asked == "no" or not torch.cuda.is_available():
        return torch.float32
    if not torch.cuda.is_bf16_supported():
        name = torch.cuda.get_device_name()
        raise ValueError(f"{name} cannot compute in bf16; set mixed_precision: 'no' in accelerate_config.yaml")
    return torch.bfloat16


def plugin(accumulation: int, clip: float, dtype: torch.dtype) -> DeepSpeedPlugin:
    """DeepSpeed's settings for one model: stage and offloading from the environment, the rest given.

    bfloat16 is by autocast: weights, gradients, their sums and Adam's state stay float32.
    """
    settings = DeepSpeedPlugin(
        gradient_accumulation_steps=accumulation,
        gradient_clipping=clip,
        zero3_save_16bit_model=True,  # a student sharded by ZeRO-3 cannot be saved without
        zero3_init_flag=False,
    )
    config = settings.deepspeed_config
    config["train_micro_batch_size_per_gpu"] = 1  # for DeepSpeed's bookkeeping; our batches are counted in seconds
    config["gradient_accumulation_steps"] = accumulation
    config["gradient_clipping"] = clip
    config["zero_optimization"] |= {"reduce_bucket_size": BUCKET, "allgather_bucket_size": BUCKET}
    if dtype != torch.float32:
        name = str(dtype).removeprefix("torch.")
        config["torch_autocast"] = {"enabled": True, "dtype": name, "lower_precision_safe_modules": []}
    return settings


def sharding_plugin() -> DeepSpeedPlugin:
    """DeepSpeed's settings for a frozen module whose weights are shared out, none of them held in every process."""
    settings = DeepSpeedPlugin(
        gradient_accumulation_steps=1, zero_stage=3, offload_optimizer_device="none", zero3_init_flag=False
    )
    config = settings.deepspeed_config
    config |= {"train_micro_batch_size_per_gpu": 1, "train_batch_size": processes()}
    config["zero_optimization"] |= {
        "stage3_param_persistence_threshold": 0,
        "stage3_prefetch_bucket_size": BUCKET,
        "stage3_max_live_parameters": LIVE,
        "stage3_max_reuse_distance": 0,
        "memory_efficient_linear": False,  # it replaces torch's linear in the whole program, the student's too
    }
    return settings
