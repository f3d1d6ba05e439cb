"""The evaluation stage: probes of the same budget on every encoder, their scores, costs and one table."""

import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from time import perf_counter

import torch

from distill.encoders.cost import cost
from distill.encoders.sharding import in_step
from distill.evidence.comparison import STUDENT, compare, write_predictions
from distill.features import Encoder
from distill.files import read_json, write_json
from distill.hearing import Heard, Rows, Splits, groups, hear_splits, passes
from distill.probe import Probe, Split, predict, score, train
from distill.protocol import DATA, Evaluate, demand
from distill.tasks.asr import FLAT
from distill.tasks.task import Task

FRAMES = ".frames-"  # folders of features, while they are needed
WHOLE = 3.0  # seconds of a clip that is not cropped, about; who does which task depends on it, no result does


def evaluate_rows(
    rows: dict[str, Encoder],
    corpora: Mapping[str, Splits],
    settings: Evaluate,
    folder: Path,
    device: torch.device,
    *,
    rank: int = 0,
    world: int = 1,
    barrier: Callable[[], None] = lambda: None,
    say: Callable[[str], None] = print,
) -> dict:
    """The content of evaluation.json; finished cells stay in `folder`, a killed evaluation goes on from them.

    corpora: `data`, on whose test split costs are measured, and those that tasks are scored on, by name. The tasks of
    a row are dealt to `world` processes that share the folder; `barrier` waits for all of them.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if rank == 0:
        for left in folder.glob(f"{FRAMES}*"):  # by an evaluation that was killed
            shutil.rmtree(left)
    for name, encoder in rows.items():
        with in_step(device, encoder):
            if rank == 0 and _read(folder, settings, name) is None:
                found = cost(encoder, corpora[DATA]["test"], settings.forward_seconds, device)
                _write(folder, settings, found, name)
    barrier()  # times are taken while nothing else runs
    for group in groups(rows):
        evaluate_group(group, corpora, settings, folder, device, rank=rank, world=world, say=say)
    barrier()
    return gather(list(rows), settings, folder) | {"machine": machine(device)}


def machine(device: torch.device) -> dict:
    """What the costs were measured on."""
    cuda = device.type == "cuda"
    return {"device": torch.cuda.get_device_name(device) if cuda else "CPU", "threads": torch.get_num_threads()}


def evaluate_group(
    rows: Rows,
    corpora: Mapping[str, Splits],
    settings: Evaluate,
    folder: Path,
    device: torch.device,
    *,
    rank: int = 0,
    world: int = 1,
    say: Callable[[str], None] = print,
) -> None:
    """Write `<row>.<task>.json` for those tasks of these rows that this process does and has not done yet.

    One corpus after the other: what is kept at a time are the features of one, of all rows that are heard together,
    each row's until its own probes are done.
    """
    mine = deal(settings, world)[rank]
    for corpus, tasks in settings.by_corpus(settings.tasks).items():
        own = [task for task in tasks if task in mine]
        waiting = {name: [task for task in own if _read(folder, settings, name, task) is None] for name in rows}
        for names in passes(rows, waiting, corpora[corpus], settings, folder, world):
            wanted = waiting[names[0]] if names else []
            evaluate_corpus(rows, names, corpora[corpus], wanted, settings, folder, device, say)


def evaluate_corpus(
    rows: Rows,
    names: list[str],
    splits: Splits,
    tasks: list[str],
    settings: Evaluate,
    folder: Path,
    device: torch.device,
    say: Callable[[str], None],
) -> None:
    """The cells of some rows of a group whose tasks hear one corpus, each of its clips once.

    All processes come here equally often with the same group, whichever of its rows they need.
    """
    with TemporaryDirectory(prefix=FRAMES, dir=folder) as place:
        started, wanted = perf_counter(), {name: rows[name] for name in names}
        with in_step(device, *rows.values()):
            heard = hear_splits(wanted, splits, tasks, settings, device, Path(place)) if names else {}
        hearing = perf_counter() - started
        if names:
            say(f"evaluate {', '.join(names)}: heard the clips of {', '.join(tasks)} in {hearing:.0f} s")
        for name in names:
            evaluate_row(name, heard.pop(name), hearing / len(names) / len(tasks), settings, folder, device, say)
            shutil.rmtree(Path(place) / name)


def evaluate_row(
    name: str,
    heard: Heard,
    hearing: float,
    settings: Evaluate,
    folder: Path,
    device: torch.device,
    say: Callable[[str], None],
) -> None:
    """The cells of a row; hearing: each one's equal share of the seconds in which all rows and tasks were heard."""
    for task, parts in heard.items():
        started = perf_counter()
        cell = evaluate_task(task, parts, settings, device, folder / f"{name}.{task}.npz")
        cell["seconds"] = {"hearing": hearing, "probes": perf_counter() - started}
        _write(folder, settings, cell, name, task)
        rate = f"{cell['learning_rate']:g}"
        how = f"validation {cell['metric']} {cell['validation'][rate]:.1f} % at learning rate {rate}"
        say(f"evaluate {name} {task}: {how}, {perf_counter() - started:.0f} s")


def deal(settings: Evaluate, world: int) -> list[list[str]]:
    """The tasks of each process: the longest first, always to the process with the least to do."""
    tasks = settings.menu()
    work = {task: settings.budget(task).steps * (tasks[task].crop_seconds or WHOLE) for task in settings.tasks}
    hands: list[list[str]] = [[] for _ in range(world)]
    for task in sorted(settings.tasks, key=lambda task: -work[task]):
        min(hands, key=lambda hand: sum(work[task] for task in hand)).append(task)
    return hands


def evaluate_task(
    name: str, parts: dict[str, Split], settings: Evaluate, device: torch.device, predictions: Path
) -> dict:
    """One cell: the learning rate chosen on validation with the first seed, then every seed on test.

    What the chosen probes say of every test clip is written to `predictions`, unless one diverged.
    """
    task = settings.menu()[name].prepare(parts["train"].clips)
    budget = settings.budget(name)
    first, *others = settings.seeds
    train_on, check_on = parts["train"], parts["validation"]
    probes, validation = {}, {}
    for rate in settings.learning_rates:
        probes[rate] = train(task, train_on, budget, rate, first, device, check_on)
        validation[rate] = score(task, probes[rate], check_on, budget.batch, device)[task.metric]
    choose = min if task.lower_is_better else max
    learned = [rate for rate in validation if probes[rate] is not None]  # the worst of them is better than divergence
    best = choose(learned or validation, key=lambda rate: validation[rate])
    chosen = [probes[best], *(train(task, train_on, budget, best, seed, device, check_on) for seed in others)]
    tests = examine(task, chosen, parts["test"], budget.batch, device, predictions)
    values = [one[task.metric] for one in tests]
    extra = {key for one in tests for key in one} - {task.metric}
    return {
        "metric": task.metric,
        "lower_is_better": task.lower_is_better,
        "value": mean(values),
        "seeds": values,
        "learning_rate": best,
        "validation": {f"{rate:g}": value for rate, value in validation.items()},
        "budget": {
            "steps": budget.steps,
            "checks": budget.checks,
            "batch": budget.batch,
            "interface": budget.interface,
        },
        "clips": {part: len(split.rows) for part, split in parts.items()},
    } | {key: mean(one[key] for one in tests if key in one) for key in sorted(extra)}


def examine(
    task: Task, probes: list[Probe | None], split: Split, batch: int, device: torch.device, path: Path
) -> list[dict[str, float]]:
    """The metrics of each probe on the test split; what it said of each clip goes to `path`."""
    path.unlink(missing_ok=True)
    if any(probe is None for probe in probes):
        return [score(task, probe, split, batch, device) for probe in probes]
    said = [predict(task, probe, split, batch, device) for probe in probes if probe is not None]
    write_predictions(path, split.clips, task.references(split.clips), list(map(task.comparable, said)))
    return [task.score(one, split.clips) for one in said]


def gather(names: list[str], settings: Evaluate, folder: Path) -> dict:
    """All cells of the folder as one result, compared with each other; ValueError when one is missing."""
    rows = {}
    for name in names:
        cells = {task: _read(folder, settings, name, task) for task in settings.tasks}
        missing = [task for task, cell in cells.items() if cell is None]
        demand(not missing, f"{folder}: {name} has no result for {', '.join(missing)} with these settings")
        seconds = [cell.pop("seconds") for cell in cells.values() if cell is not None]
        rows[name] = (_read(folder, settings, name) or {}) | settings.other(name)
        rows[name] |= {
            "tasks": cells,
            "seconds": {part: sum(one[part] for one in seconds) for part in ("hearing", "probes")},
        }
    others = [Path(folder).name for folder in settings.students]
    compare(rows, folder, [name for name in (STUDENT, *others) if name in rows])
    return {"rows": rows}


def table(result: dict) -> str:
    """The result as plain text, for a terminal."""
    cells = next(iter(result["rows"].values()))["tasks"]
    ways = {True: "-", False: "+"}
    heads = [f"{task} {cell['metric']}{ways[cell['lower_is_better']]}" for task, cell in cells.items()]
    lines = [["", *heads, "retention", "parameters", "MACs/s", "RTF"]]
    corpora = [cell.get("corpus", "") for cell in cells.values()]
    if len(set(corpora)) > 1:
        lines.append(["of", *corpora, "", "", "", ""])
    for name, row in result["rows"].items():
        kept = row.get("retention", {}).get("mean")
        scores = [f"{cell['value']:.1f} ({_spread(cell['seeds']):.1f})" for cell in row["tasks"].values()]
        costs = [f"{row['parameters'] / 1e6:.2f} M", f"{row['macs'] / 1e6:.0f} M"]
        share = "" if kept is None else f"{kept:.2f}"
        lines.append([name, *scores, share, *costs, f"{row['real_time_factor']:.4f}"])
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    padded = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])  # one width for each cell
        for line in lines
    ]
    note = "Test split, in percent: mean over seeds (half their range); - lower is better, + higher is better."
    return "\n".join([*padded, note])


def _spread(values: list[float]) -> float:
    return (max(values) - min(values)) / 2


def _read(folder: Path, settings: Evaluate, row: str, task: str = "") -> dict | None:
    """What a cell's file, or a row's of costs, holds; None when it is not there or was made with other settings."""
    path = _path(folder, row, task)
    if not path.exists():
        return None
    stored = read_json(path)
    return stored["result"] if stored["settings"] == _matter(settings, row, task) else None


def _write(folder: Path, settings: Evaluate, result: dict, row: str, task: str = "") -> None:
    write_json(_path(folder, row, task), {"settings": _matter(settings, row, task), "result": result})


def _path(folder: Path, row: str, task: str) -> Path:
    return folder / (f"{row}.{task}.json" if task else f"{row}.json")


def _matter(settings: Evaluate, row: str, task: str) -> dict:
    """The settings that a cell depends on, and which student another run's is; what is another cell's is left out."""
    budget = settings.budget(task) if task else None
    steps, checks = ({task: budget.steps}, {task: budget.checks}) if budget else ({}, {})
    own = {"tasks": [task] if task else [], "steps": steps, "checks": checks}
    kept = asdict(settings) | own | {"students": [], "cache": "memory"}
    idle = {"rows", "corpora"} | ({"flat"} if task != "asr" or settings.flat == FLAT else set())  # cells of before stay
    idle |= set() if budget and budget.checks > 1 else {"checks"}
    corpus = {"corpus": settings.corpora[task]} if task in settings.corpora else {}
    return {name: value for name, value in kept.items() if name not in idle} | corpus | settings.other(row)
