"""The stages of a run, each from a recipe to files in the run's folder."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from distill import distillation, fit, runtime
from distill.checkpoint import Checkpoints
from distill.data.batches import accumulation
from distill.data.clips import Clips
from distill.data.stream import Source
from distill.encoders.sharding import in_step
from distill.encoders.waveform import Waveform
from distill.evaluation import Splits, evaluate_rows
from distill.evidence.errors import errors
from distill.evidence.similarity import similarity
from distill.evidence.training import training
from distill.features import Encoder, parameters
from distill.files import read_json, write_json
from distill.finetune import Downstream, finetune, score
from distill.listening import listening, needed
from distill.loop import Plan
from distill.protocol import DATA
from distill.recipe import Distill, Finetune, Fit
from distill.report import write_comparison, write_report
from distill.run import Run, newer
from distill.supervision.posteriors import posteriors
from distill.tasks import TASKS, Task
from distill.teacher import WEIGHTS, FusedTeacher, Summary, saved_heads

Export = Callable[[Encoder, Mapping[str, torch.Tensor], Path], None]  # student, heads, folder
Save = Callable[[Downstream, Task, Path], None]  # fine-tuned model, its task, folder


def plan(run: Run, stage: str, settings: Fit | Distill | Finetune, passes: int) -> Plan:
    """How long and how fast a training stage goes."""
    return Plan(
        stage=stage,
        seed=run.recipe.student_seed() if stage == "distill" else run.recipe.seed,
        steps=settings.steps,
        batch_seconds=settings.batch_seconds,
        passes=passes,
        learning_rate=settings.learning_rate,
        warmup=settings.warmup,
        save_every=settings.save_every,
        log_every=settings.log_every,
        workers=run.recipe.data.decoders(runtime.processes()),
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


def listen(run: Run, teacher: FusedTeacher, clips: Clips, accelerator: Accelerator) -> dict:
    """What the fitted teacher listens to, asked once: the content of listening.json; call it in every process."""
    asked = newer(run.listening, run.teacher / WEIGHTS)
    accelerator.wait_for_everyone()  # before one of them writes it
    if not asked:
        tasks, seconds = [TASKS[name] for name in run.recipe.fit.tasks], run.recipe.evaluate.forward_seconds
        with in_step(accelerator.device, teacher.to(accelerator.device)):
            if accelerator.is_main_process:
                found = listening(teacher, saved_heads(run.teacher), tasks, clips, seconds, accelerator.device)
                write_json(run.listening, found)
        accelerator.wait_for_everyone()
    return read_json(run.listening)


def distill_student(
    run: Run,
    teacher: FusedTeacher,
    student: Encoder,
    clips: Clips,
    machine: Path,
    export: Export,
    source: Source | None = None,
) -> None:
    """Distill the fitted teacher into the student on `clips` or on a stream; exported to `student/`."""
    settings = run.recipe.distill
    passes = accumulation(settings.batch_seconds, settings.forward_seconds, runtime.processes())
    accelerator = runtime.start(machine, accumulation=passes, clip=settings.clip, logs=run.folder / "tensorboard")
    accelerator.init_trackers("distill")
    if settings.balance == "listening" and len(settings.sources(list(teacher.upstreams))) > 1:
        by = needed(listen(run, teacher, clips, accelerator))
        told = ", ".join(f"{name} {weight:.2f}" for name, weight in by.items())
        accelerator.print(f"sources weigh by what the teacher's tasks lose without them: {told}")
        settings = settings.weighed(by)
    goes, tasks = plan(run, "distill", settings, passes), [TASKS[name] for name in run.recipe.fit.tasks]
    heads = posteriors(teacher, tasks, clips, saved_heads(run.teacher), settings.posteriors_weight)
    distiller = distillation.distill(accelerator, teacher, student, clips, settings, goes, run.folder, heads, source)
    if accelerator.is_main_process:
        learned = {name: weight for name, weight in distiller.state_dict().items() if not name.startswith("student.")}
        export(distiller.student, learned, run.student)
        Checkpoints(run.folder / "checkpoints" / "distill").remove()
    accelerator.wait_for_everyone()
    runtime.finish(accelerator)


def evaluate(run: Run, rows: Mapping[str, Encoder], corpora: Mapping[str, Splits], machine: Path) -> dict:
    """Probe every row on every task, into `evaluation.json`; corpora: as `load_corpora` gives them."""
    accelerator = runtime.start(machine)
    result = evaluate_rows(
        {name: encoder.to(accelerator.device) for name, encoder in rows.items()},
        corpora,
        run.recipe.evaluate,
        run.folder / "evaluation",
        accelerator.device,
        rank=accelerator.process_index,
        world=accelerator.num_processes,
        barrier=accelerator.wait_for_everyone,
        say=lambda text: print(text, flush=True),
    )
    for row in result["rows"].values():
        for task, cell in row["tasks"].items():
            cell["corpus"] = run.recipe.corpus_of(task)
    if accelerator.is_main_process:
        write_json(run.evaluation, result)
    accelerator.wait_for_everyone()
    runtime.finish(accelerator)
    return result


def report(run: Run, teacher: FusedTeacher, student: Encoder, corpora: Mapping[str, Splits], machine: Path) -> None:
    """Ask an evaluated run what scores do not tell, into `analysis.json`; then `report.html` and `report.md`."""
    accelerator = runtime.start(machine)
    listen(run, teacher, corpora[DATA]["train"], accelerator)
    with in_step(accelerator.device, teacher):
        if accelerator.is_main_process and not newer(run.analysis, run.evaluation):
            write_json(run.analysis, analyse(run, teacher, student, corpora, accelerator.device))
    if accelerator.is_main_process:
        write_report(run.folder)
    accelerator.wait_for_everyone()
    runtime.finish(accelerator)


def analyse(
    run: Run, teacher: FusedTeacher, student: Encoder, corpora: Mapping[str, Splits], device: torch.device
) -> dict:
    """The content of analysis.json."""
    settings, rows, splits = run.recipe.evaluate, read_json(run.evaluation)["rows"], corpora[DATA]
    seconds, folder, groups = settings.forward_seconds, run.folder / "evaluation", {}
    for name, own in settings.by_corpus(settings.tasks).items():
        groups |= errors(rows, own, corpora[name]["test"], folder)
    teacher.to(device)
    student.to(device)
    upstreams = dict(zip(teacher.upstreams, teacher.encoders(), strict=True))
    journal = run.folder / "metrics.jsonl"  # of stages without steps there is none
    lines = [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []
    return {
        "training": training(lines),
        "listening": read_json(run.listening),
        "similarity": similarity(student, upstreams | {"teacher": teacher}, splits["test"], seconds, device),
        "errors": {task: groups[task] for task in settings.tasks},
    }


def compare_runs(run: Run) -> Path:
    """`comparison.html` and `comparison.md` of the evaluated runs that the recipe names; call it in one process."""
    return write_comparison([Path(folder) for folder in run.recipe.report.runs], run.folder)


def finetune_student(
    run: Run, student: Waveform, name: str, splits: Splits, machine: Path, save: Save
) -> dict[str, Any]:
    """Fine-tune the student for one task, saved to `finetuned/<task>/`; what it scores on the test split."""
    settings, stage, scores = run.recipe.finetune, f"finetune-{name}", run.finetuned / f"{name}.json"
    kept = {key: value for key, value in asdict(settings).items() if key not in ("tasks", "save_every", "log_every")}
    if scores.exists() and (stored := read_json(scores))["settings"] == kept:
        return stored["result"]
    passes = accumulation(settings.batch_seconds, settings.forward_seconds, runtime.processes())
    accelerator = runtime.start(machine, accumulation=passes, clip=settings.clip, logs=run.folder / "tensorboard")
    accelerator.init_trackers(stage)
    goes = plan(run, stage, settings, passes)
    downstream, task = finetune(
        accelerator, student, TASKS[name], splits["train"], settings.weight_decay, goes, run.folder
    )
    if accelerator.is_main_process:
        clips = splits["test"].select(task.choose(splits["test"], run.recipe.evaluate.score_clips))
        found = score(downstream, task, clips, settings.forward_seconds, accelerator.device)
        heard = {"corpus": run.recipe.corpus_of(name)}
        run.finetuned.mkdir(exist_ok=True)
        save(downstream.cpu(), task, run.finetuned / name)
        write_json(scores, {"settings": kept, "result": described(downstream, task, found, clips) | heard})
        Checkpoints(run.folder / "checkpoints" / stage).remove()
    accelerator.wait_for_everyone()
    runtime.finish(accelerator)
    return read_json(scores)["result"]


def described(downstream: Downstream, task: Task, scores: dict[str, float], clips: Clips) -> dict[str, Any]:
    """A fine-tuned model as `evaluation.json` tells of it."""
    return {
        "model": type(downstream.stock).__name__,
        "parameters": parameters(downstream.stock),
        "metric": task.metric,
        "lower_is_better": task.lower_is_better,
        "value": scores[task.metric],
        "clips": len(clips),
        "languages": clips.values("language"),
        "labels": list(task.vocabulary) if task.name in ("er", "lid") else [],
    } | {key: value for key, value in scores.items() if key != task.metric}
