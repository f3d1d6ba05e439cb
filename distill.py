"""Fuse speech foundation models into a teacher, distill it into one small student, evaluate all of them.

accelerate launch distill.py recipe=wavlm+whisper
"""

import os
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from distill import planning, runtime, stages
from distill.data.clips import Clips
from distill.data.corpora import load_corpora, speaking_of
from distill.data.splits import SPLITS
from distill.data.stream import open_stream
from distill.distillation import demand_whole_heads
from distill.encoders.frozen import Frozen
from distill.encoders.logmel import LogMel
from distill.encoders.sharding import Sharded, held
from distill.encoders.waveform import Waveform
from distill.evaluation import Splits, table
from distill.features import Encoder, demand_frames, parameters
from distill.files import read_json, write_json
from distill.finetune import stock_tasks
from distill.loading import cost, load, text, usage
from distill.protocol import DATA
from distill.publish import MARK, demand_free, demand_login, listing, upload
from distill.recipe import Recipe
from distill.run import Run, demand_students, open_run
from distill.supervision.caching import size
from distill.supervision.identity import module_digest
from distill.tasks import demand_labels
from distill.teacher import FusedTeacher
from students import make_student, start
from students.card import Facts, facts_of, student_card
from students.deployment import FILES, OnnxEncoder, export_onnx
from students.downstream import save_downstream
from students.export import export, open_student
from students.hub import demand_publishable, hub_folders, measured
from teachers import FAMILIES, build_teacher
from teachers.licences import binding, licence
from teachers.rehearsal import listener

MACHINE = Path(__file__).with_name("accelerate_config.yaml")


def run(recipe: Recipe) -> None:
    """All stages that the recipe names and that are not finished yet."""
    demand_publishable(recipe)
    accelerator = runtime.start(MACHINE)
    with accelerator.main_process_first():
        place = open_run(recipe, accelerator.is_main_process)
        what = f"{recipe.recipe} at scale {recipe.scale}, corpus {recipe.data.corpus}"
        accelerator.print(f"{what}, on {runtime.describe(accelerator)}; in {place.folder}")
        waiting = [stage for stage in recipe.stages if not place.finished(stage)]
        if recipe.report.runs:  # a comparison of other runs, which needs nothing of this one
            waiting = [stage for stage in waiting if stage != "report"]
        if "evaluate" in waiting:
            demand_students(recipe.evaluate.students)
        corpora = load_corpora(recipe, heard(recipe, waiting), accelerator.print) if waiting else {}
    if "distill" in waiting:
        demand_whole_heads(accelerator, recipe.distill)
    runtime.finish(accelerator)
    if waiting:
        work(place, waiting, corpora, accelerator.print)
    tell(place, accelerator.print)


def heard(recipe: Recipe, waiting: Collection[str]) -> list[str]:
    """The tasks whose corpora these stages hear."""
    measured = recipe.evaluate.tasks if {"evaluate", "report", "publish"} & set(waiting) else []
    return [*measured, *(learned(recipe) if "publish" in waiting else [])]


def learned(recipe: Recipe) -> list[str]:
    """The tasks that the student is fine-tuned for."""
    return stock_tasks(recipe.finetune.tasks, recipe.student.architecture)


def demand_all_labels(recipe: Recipe, waiting: Collection[str], corpora: Mapping[str, Splits]) -> None:
    """ValueError for a task whose corpus cannot serve it, before anything is trained."""
    if "fit" in waiting:
        demand_labels(recipe.fit.tasks, {"train": corpora[DATA]["train"]}, key="fit.tasks")
    probed = recipe.evaluate.tasks if "evaluate" in waiting else []
    tuned = learned(recipe) if "publish" in waiting else []
    for key, heads, wanted, parts in (
        ("evaluate.tasks", recipe.evaluate.heads, probed, SPLITS),
        ("finetune.tasks", "light", tuned, ("train", "test")),
    ):
        for name, tasks in recipe.evaluate.by_corpus(wanted).items():
            with speaking_of(name):
                demand_labels(tasks, {split: corpora[name][split] for split in parts}, heads, key)


def work(place: Run, waiting: list[str], corpora: Mapping[str, Splits], say: Callable[[str], None]) -> None:
    """The stages that wait, in their order."""
    recipe, train = place.recipe, corpora[DATA]["train"]
    demand_all_labels(recipe, waiting, corpora)
    say(f"to do: {', '.join(waiting)}; {train.seconds() / 3600:.2f} h of training audio in {len(train)} clips")
    source = open_stream(recipe, runtime.processes()) if "distill" in waiting else None
    if source:
        say(source.shards.describe(runtime.processes()))
    whole = cost(recipe, FAMILIES) if {"fit", "distill", "evaluate"} <= set(waiting) else ""
    say(f"this takes about: {whole or 'not measured so; the bars below show the time left'}")
    hold = shared if recipe.teacher.shard and runtime.processes() > 1 else lambda encoder: encoder
    teacher = build_teacher(recipe.teacher, recipe.seed, runtime.precision(), hold)
    if recipe.teacher.shard:
        others = f"in each of {runtime.processes()} processes" if hold is shared else "in this process, the only one"
        say(f"teacher.shard: {size(held(teacher))} of the teacher {others}")
    student = new_student(recipe, teacher, train) if "distill" in waiting else None  # what cannot be fails before fit
    if "fit" in waiting:
        stages.fit_teacher(place, teacher, train, MACHINE)
    place.demand("fit")
    teacher.load(place.teacher)
    if student is not None:
        stages.distill_student(place, teacher, student, train, MACHINE, exporter(recipe, train), source)
    if "evaluate" in waiting:
        place.demand("distill")
        stages.evaluate(place, rows(place, teacher), corpora, MACHINE)
    if "report" in waiting:
        place.demand("evaluate")
        stages.report(place, teacher, open_student(place.student), corpora, MACHINE)
    if "publish" in waiting:
        place.demand("distill", "evaluate")
        publish(place, teacher, corpora, say)
        if place.report.exists() and not place.finished("report"):  # it has rows of ONNX now
            stages.report(place, teacher, open_student(place.student), corpora, MACHINE)


def shared(encoder: Encoder) -> Encoder:
    """An encoder whose weights are shared out to all processes."""
    return Sharded(encoder, module_digest(encoder), runtime.deal_out)


def tell(place: Run, say: Callable[[str], None]) -> None:
    """What there is to see now."""
    if "evaluate" in place.recipe.stages:
        say(table(read_json(place.evaluation)))
    if place.recipe.report.runs and "report" in place.recipe.stages:
        alone(lambda: say(f"comparison: {stages.compare_runs(place)}"))
    elif "report" in place.recipe.stages:
        say(f"report: {place.report}")
    if place.finished("distill"):
        say(f'student: AutoModel.from_pretrained("{place.student}")')


def publish(place: Run, teacher: FusedTeacher, corpora: Mapping[str, Splits], say: Callable[[str], None]) -> None:
    """The student in ONNX, its fine-tuned models, their scores; then folders with cards, then the Hub."""
    student, settings = open_student(place.student), place.recipe.publish
    alone(lambda: prepare(place))
    if settings.onnx and not FILES.keys() <= read_json(place.evaluation)["rows"].keys():
        stages.evaluate(place, rows(place, teacher), corpora, MACHINE)
    finetuned = {}
    for task in place.recipe.finetune.tasks:
        if task in learned(place.recipe):
            own = corpora[place.recipe.evaluate.corpus(task)]
            finetuned[task] = stages.finetune_student(place, student, task, own, MACHINE, save_downstream)
        else:
            say(f"finetune {task}: transformers has no stock model of this student for it; left out")
    alone(lambda: send(place, facts(student, place.recipe, corpora[DATA]["train"]), finetuned, say))


def prepare(place: Run) -> None:
    """What fails early, before work is done that cannot be published; and the ONNX files."""
    settings = place.recipe.publish
    if not settings.dry_run:
        demand_login()
        demand_free(settings.repo, place.folder / MARK, settings)
    if settings.onnx and not place.onnx.exists():
        export_onnx(place.student, place.onnx)


def send(place: Run, facts: Facts, finetuned: Mapping[str, dict], say: Callable[[str], None]) -> None:
    """Complete evaluation.json, write `hub/`, and send it where this is no dry run."""
    settings = place.recipe.publish
    write_json(place.evaluation, measured(place, finetuned))
    folders = hub_folders(place, facts, list(finetuned))
    if settings.dry_run:
        say(f"dry run, nothing is sent:\n{listing(folders)}")
    else:
        upload(folders, settings, say)


def alone(work: Callable[[], None]) -> None:
    """The first process works, the others wait."""
    accelerator = runtime.start(MACHINE)
    with accelerator.main_process_first():
        if accelerator.is_main_process:
            work()
    runtime.finish(accelerator)


def facts(student: Waveform, recipe: Recipe, train: Clips) -> Facts:
    """What a card says of a student besides its scores."""
    licences = {family: licence(name) for family, name in recipe.teacher.checkpoints.items()}
    return facts_of(student, recipe, train.values("language"), licences, binding(licences.values()))


def new_student(recipe: Recipe, teacher: FusedTeacher, train: Clips) -> Waveform:
    """The student before it has learned, started from an upstream where the recipe wants that.

    Raises ValueError where it cannot be built, started so, or hear every clip.
    """
    student = blank_student(recipe)
    start(student, recipe.student, dict(zip(recipe.teacher.upstreams, teacher.encoders(), strict=True)))
    demand_frames(student, torch.from_numpy(train.samples))
    return student


def blank_student(recipe: Recipe) -> Waveform:
    """The random student."""
    return make_student(recipe.student, recipe.student_seed(), recipe.distill.masking())


def exporter(recipe: Recipe, train: Clips) -> stages.Export:
    """How a student becomes a folder with a card."""

    def write(student: Encoder, heads: Mapping[str, Tensor], folder: Path) -> None:
        assert isinstance(student, Waveform)  # `new_student` makes no other
        export(student, heads, folder, student_card(facts(student, recipe, train), str(folder)))

    return write


def rows(place: Run, teacher: FusedTeacher) -> dict[str, Encoder]:
    """Everything that is compared, by the name of its row."""
    recipe = place.recipe
    upstreams = dict(zip(recipe.teacher.upstreams, teacher.encoders(), strict=True))
    ours = {"student": open_student(place.student), "untrained": blank_student(recipe)}
    baselines = {"log-mel": LogMel()}
    files = FILES if place.onnx.exists() else {}
    deployed = {name: OnnxEncoder(place.onnx / file, ours["student"]) for name, file in files.items()}
    compared = baselines | upstreams | {"teacher": teacher} | ours | deployed
    others = {Path(folder).name: open_student(Path(folder) / "student") for folder in recipe.evaluate.students}
    wanted = recipe.evaluate.rows or list(compared)
    kept = {name: encoder for name, encoder in compared.items() if name in wanted or name in deployed}
    return {name: Frozen(encoder) for name, encoder in (kept | others).items()}


def plan(recipe: Recipe) -> str:
    """What a run will take, with nothing loaded and nothing heard."""

    def parts(dtype: torch.dtype) -> planning.Parts:
        teacher = build_teacher(replace(recipe.teacher, weights="random"), recipe.seed)
        upstreams = [
            listener(*named, dtype) for named in zip(recipe.teacher.upstreams, teacher.encoders(), strict=True)
        ]
        student = listener("student", blank_student(recipe).eval(), torch.float32)
        return upstreams, student, parameters(teacher.fusion) + parameters(teacher.interface)

    with FakeTensorMode():
        return planning.outlook(recipe, parts, MACHINE)


def main(argv: list[str]) -> None:
    """The command line; what a user can get wrong ends in a message of a few lines."""
    if not argv or "--help" in argv or "-h" in argv:
        print(usage(FAMILIES))
        return
    runtime.quiet()
    try:
        recipe = load([word for word in argv if word not in ("--show", "--plan")], FAMILIES)
        if "--show" in argv or "--plan" in argv:
            if os.environ.get("RANK", "0") == "0":
                print(plan(recipe) if "--plan" in argv else text(recipe).rstrip())
            return
        run(recipe)
    except (ValueError, OSError) as error:
        if "FUSEDISTILL_DEBUG" in os.environ:
            raise
        sys.exit(f"distill.py: {error}\n(FUSEDISTILL_DEBUG=1 shows where)")
    runtime.leave()


if __name__ == "__main__":
    main(sys.argv[1:])
