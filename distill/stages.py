"""The three stages of a run, each from a recipe to files in the run's folder."""

from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from distill import distillation, fit, runtime
from distill.checkpoint import Checkpoints
from distill.data.batches import accumulation
from distill.data.clips import Clips
from distill.evaluation import evaluate_rows
from distill.features import Encoder
from distill.files import write_json
from distill.loop import Plan
from distill.recipe import Distill, Fit
from distill.run import Run
from distill.tasks import TASKS
from distill.teacher import FusedTeacher, Summary

Export = Callable[[Encoder, Mapping[str, torch.Tensor], Path], None]  # student, heads, folder


def plan(run: Run, stage: str, settings: Fit | Distill, passes: int) -> Plan:
    """How long and how fast a training stage goes."""
    return Plan(
        stage=stage,
        seed=run.recipe.seed,
        steps=settings.steps,
        batch_seconds=settings.batch_seconds,
        passes=passes,
        learning_rate=settings.learning_rate,
        warmup=settings.warmup,
        save_every=settings.save_every,
        log_every=settings.log_every,
        blur=run.recipe.data.blur,
    )


def fit_teacher(run: Run, teacher: FusedTeacher, clips: Clips, machine: Path) -> None:
    """Calibrate and fit the teacher on `clips`, saved to `teacher/`."""
    settings, seconds, seed = run.recipe.fit, run.recipe.teacher.calibration_seconds, run.recipe.seed
    accelerator = runtime.start(machine, clip=settings.clip, logs=run.folder / "tensorboard")
    accelerator.init_trackers("fit")
    teacher.to(accelerator.device)
    fit.measure(accelerator, teacher.encoders(), teacher.fusion.standardisers(), clips, seconds, seed)
    tasks = [TASKS[name] for name in settings.tasks]
    heads = fit.fit(
        accelerator, teacher, tasks, clips, settings.weight_decay, plan(run, "fit", settings, 1), run.folder
    )
    fit.measure(accelerator, [Summary(teacher)], [teacher.summarise], clips, seconds, seed)
    if accelerator.is_main_process:
        teacher.save(run.teacher, heads)
        Checkpoints(run.folder / "checkpoints" / "fit").remove()
    accelerator.wait_for_everyone()
    runtime.finish(accelerator)


def distill_student(
    run: Run, teacher: FusedTeacher, student: Encoder, clips: Clips, machine: Path, export: Export
) -> None:
    """Distill the fitted teacher into the student, exported to `student/`."""
    settings = run.recipe.distill
    passes = accumulation(settings.batch_seconds, settings.forward_seconds, runtime.processes())
    accelerator = runtime.start(machine, accumulation=passes, clip=settings.clip, logs=run.folder / "tensorboard")
    accelerator.init_trackers("distill")
    distiller = distillation.distill(
        accelerator, teacher, student, clips, settings, plan(run, "distill", settings, passes), run.folder
    )
    if accelerator.is_main_process:
        heads = {name: weight for name, weight in distiller.state_dict().items() if not name.startswith("student.")}
        export(distiller.student, heads, run.student)
        Checkpoints(run.folder / "checkpoints" / "distill").remove()
    accelerator.wait_for_everyone()
    runtime.finish(accelerator)


def evaluate(run: Run, rows: Mapping[str, Encoder], splits: Mapping[str, Clips], machine: Path) -> dict:
    """Probe every row on every task, into `evaluation.json`."""
    accelerator = runtime.start(machine)
    result = evaluate_rows(
        {name: encoder.to(accelerator.device) for name, encoder in rows.items()},
        dict(splits),
        run.recipe.evaluate,
        run.folder / "evaluation",
        accelerator.device,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        barrier=accelerator.wait_for_everyone,
        say=lambda text: print(text, flush=True),
    )
    if accelerator.is_main_process:
        write_json(run.evaluation, result)
    accelerator.wait_for_everyone()
    runtime.finish(accelerator)
    return result
