"""Checkpoints of a training stage: they appear whole or not at all, and the newest one is enough to go on."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator

from distill.files import writing


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one stage, in a folder of their own: `step-000100/` and so on, only the newest kept.

    Nothing random is in them: all randomness of a step is a function of seed, step and process.
    """

    folder: Path

    def newest(self) -> Path | None:
        return max((path for path in self.folder.glob("step-*") if path.suffix == ""), default=None)

    def save(self, accelerator: Accelerator, step: int, place: dict | None = None) -> None:
        """Write what is needed to go on after `step` optimizer steps; all processes together.

        place: where in its stream this process is, plain data; None: what it hears is known from the step.
        """
        whole = self.folder / f"step-{step:06d}"
        unfinished = whole.with_suffix(".unfinished")
        if accelerator.is_main_process:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
        accelerator.wait_for_everyone()
        with writing(unfinished):
            accelerator.save_state(str(unfinished))
            if place is not None:
                (unfinished / self._place(accelerator)).write_text(json.dumps(place))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            state = {"step": step, "processes": accelerator.num_processes, "zero_stage": zero_stage(accelerator)}
            (unfinished / "loop.json").write_text(json.dumps(state))
            older = self.newest()
            unfinished.rename(whole)
            if older is not None:
                shutil.rmtree(older)
        accelerator.wait_for_everyone()

    def load(self, accelerator: Accelerator) -> int:
        """Go back to the newest checkpoint; returns its step, 0 when there is none.

        Raises ValueError when it was written by another number of processes or under another ZeRO stage.
        """
        newest = self.newest()
        if newest is None:
            return 0
        state = json.loads((newest / "loop.json").read_text())
        if state["processes"] != accelerator.num_processes:
            raise ValueError(
                f"{newest} was written by {state['processes']} processes and cannot be continued "
                f"by {accelerator.num_processes}; launch {state['processes']}, "
                "or delete the folder to start this stage anew"
            )
        demand_stage(newest, state.get("zero_stage"), zero_stage(accelerator))
        accelerator.load_state(str(newest))
        return state["step"]

    def place(self, accelerator: Accelerator) -> dict | None:
        """Where in its stream this process was when the newest checkpoint was written; None where it heard none."""
        newest = self.newest()
        path = newest / self._place(accelerator) if newest else None
        return json.loads(path.read_text()) if path and path.exists() else None

    def _place(self, accelerator: Accelerator) -> str:
        return f"stream-{accelerator.process_index:05d}.json"

    def remove(self) -> None:
        """Everything: the stage is finished."""
        shutil.rmtree(self.folder, ignore_errors=True)


def zero_stage(accelerator: Accelerator) -> int | None:
    """DeepSpeed's; None without DeepSpeed."""
    plugin = accelerator.state.deepspeed_plugin
    return None if plugin is None else plugin.zero_stage


def demand_stage(checkpoint: Path, written: int | None, ours: int | None) -> None:
    """ValueError where a checkpoint of a ZeRO stage has not the files that ours looks for; 1 and 2 write the same."""
    if written is not None and written != ours and {written, ours} != {1, 2}:
        raise ValueError(
            f"{checkpoint} was written under zero_stage: {written} and cannot be continued under {ours}; "
            f"set zero_stage: {written} in accelerate_config.yaml, or delete the folder to start this stage anew"
        )
