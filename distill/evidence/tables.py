"""The report's tables: cells that know from which value of evaluation.json their text was made."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import floor, log10
from typing import Any

NAMES = {"wer": "WER", "per": "PER", "cer": "CER", "eer": "EER", "bleu": "BLEU", "mindcf": "minDCF"}
Form = Callable[[Any], str]  # a value as a reader wants it


@dataclass(frozen=True)
class Cell:
    """Text for one value, or two numbers that bound it, and where these stand; a note stands below it."""

    text: str
    source: str = ""  # keys from the top of evaluation.json, joined by "/"; empty: no number
    note: "Cell | None" = None


@dataclass(frozen=True)
class Table:
    name: str
    head: list[str]
    rows: list[list[Cell]] = field(default_factory=list)


def points(value: float) -> str:
    return f"{value:.1f}"


def share(value: float) -> str:
    return f"{value:.2f}"


def signed(value: float) -> str:
    return f"{value:+z.1f}"


def count(value: float) -> str:
    """A large number with its unit: 0.63 M, 48 M, 1.20 G."""
    if not value:
        return "0"
    scale, unit = (1e9, "G") if value >= 1e9 else (1e6, "M")
    scaled = value / scale
    return f"{scaled:.0f} {unit}" if scaled >= 10 else f"{scaled:.2f} {unit}"


def small(value: float) -> str:
    """Two digits that tell something, never an exponent."""
    if not value:
        return "0"
    return f"{value:.{max(1 - floor(log10(abs(value))), 0)}f}"


def megabytes(value: float) -> str:
    return f"{value / 1e6:.0f} MB" if value >= 1e7 else f"{value / 1e6:.2f} MB"


def chance(value: float) -> str:
    return f"{value:.3f}"


def rate(value: float) -> str:
    return f"{value:g}"


def duration(value: float) -> str:
    return f"{value:.0f} s"


def between(values: Sequence[float]) -> str:
    return bounds(values, points)


def bounds(values: Sequence[float], form: Form) -> str:
    low, high = (form(value) for value in values)
    return f"{low} to {high}" if low[0] in "+-" else f"{low}–{high}"  # noqa: RUF001


def cell(result: dict, source: str, form: Form, *, bound: str = "") -> Cell:
    """The value at a source, with the interval at `bound` as its note; an empty cell where there is none."""
    value = look_up(result, source)
    if value is None:
        return Cell("")
    interval = look_up(result, bound) if bound else None
    return Cell(form(value), source, Cell(bounds(interval, form), bound) if interval else None)


def look_up(result: Any, source: str) -> Any:
    """What stands under these keys; None where a key is missing."""
    for key in source.split("/"):
        if result is None:
            return None
        result = result[int(key)] if isinstance(result, list) else result.get(key)
    return result


def heading(task: str, found: dict) -> str:
    """A task's name, metric and which way is better: ASR WER ↓."""
    return f"{task.upper()} {NAMES.get(found['metric'], found['metric'])} {'↓' if found['lower_is_better'] else '↑'}"


def tasks(result: dict, places: Mapping[str, str]) -> dict[str, dict]:
    """Every task that some row has, with one of its cells; places: row -> where it stands."""
    return {task: found for at in places.values() for task, found in look_up(result, at)["tasks"].items()}


def standing(result: dict) -> dict[str, str]:
    """Where each row of an evaluation stands."""
    return {name: f"rows/{name}" for name in result["rows"]}


def score_table(result: dict, places: Mapping[str, str]) -> Table:
    known = tasks(result, places)
    head = ["row", *(heading(task, found) for task, found in known.items()), "mean ↑", "retention ↑"]
    table = Table("scores", head)
    if len({found.get("corpus") for found in known.values()}) > 1:
        table.rows.append([Cell("of"), *(_corpus(result, places, task) for task in known), Cell(""), Cell("")])
    for name, at in places.items():
        cells = [_scored(result, f"{at}/tasks/{task}") for task in known]
        mean = cell(result, f"{at}/score/value", points, bound=f"{at}/score/interval")
        kept = cell(result, f"{at}/retention/mean", share, bound=f"{at}/retention_interval/mean")
        table.rows.append([Cell(name), *cells, mean, kept])
    return table


def _corpus(result: dict, places: Mapping[str, str], task: str) -> Cell:
    """The corpus that a task is scored on, from the first row that has the task."""
    found = (cell(result, f"{at}/tasks/{task}/corpus", str) for at in places.values())
    return next((one for one in found if one.text), Cell(""))


def _scored(result: dict, at: str) -> Cell:
    return cell(result, f"{at}/value", points, bound=f"{at}/interval")


def cost_table(result: dict, places: Mapping[str, str]) -> Table:
    forms = {
        "parameters": count,
        "macs": count,
        "real_time_factor": small,
        "real_time_factor_batch": small,
        "peak_memory": megabytes,
    }
    head = ["row", "parameters", "MACs / s", "RTF, one clip", "RTF, full batch", "peak memory"]
    if any(look_up(result, f"{at}/bytes") for at in places.values()):  # of what is published
        head, forms = [*head, "file"], forms | {"bytes": megabytes}
    rows = [
        [Cell(name), *(cell(result, f"{at}/{key}", form) for key, form in forms.items())] for name, at in places.items()
    ]
    return Table("costs", head, rows)


def ready_table(result: dict) -> Table:
    """The fine-tuned models that were published beside the student."""
    table = Table("ready", ["model", "parameters", "metric", "test"])
    for task, found in result.get("finetuned", {}).items():
        at = f"finetuned/{task}"
        size, value = cell(result, f"{at}/parameters", count), cell(result, f"{at}/value", points)
        table.rows.append([Cell(found["model"]), size, Cell(heading(task, found)), value])
    return table


def paired_table(result: dict) -> Table:
    """The student minus each other row, with p-values."""
    known = tasks(result, standing(result))
    titles = [part for task, found in known.items() for part in (heading(task, found)[:-2], "p")]
    table = Table("tests", ["student minus", *titles])
    for name, at in standing(result).items():
        if name != "student":
            found = [f"{at}/tasks/{task}/student_minus_row" for task in known]
            pairs = [
                (cell(result, f"{one}/value", signed, bound=f"{one}/interval"), cell(result, f"{one}/p_value", chance))
                for one in found
            ]
            table.rows.append([Cell(name), *(part for pair in pairs for part in pair)])
    return table


def sweep_table(result: dict) -> Table:
    """Every cell's learning rates with their validation scores, its choice, its seeds."""
    head = ["row", "task", "validation at each rate", "chosen", "test, each seed", "95 % over seeds"]
    table = Table("sweep", head)
    for name, at in standing(result).items():
        for task, found in look_up(result, at)["tasks"].items():
            where = f"{at}/tasks/{task}"
            rates = ", ".join(f"{rate}: {points(value)}" for rate, value in found["validation"].items())
            cells = [
                Cell(rates, f"{where}/validation"),
                cell(result, f"{where}/learning_rate", rate),
                Cell(", ".join(points(value) for value in found["seeds"]), f"{where}/seeds"),
                cell(result, f"{where}/seed_interval", between),
            ]
            table.rows.append([Cell(name), Cell(task.upper()), *cells])
    return table


def time_table(result: dict) -> Table:
    """Where the time of a run went."""
    stages = [(name, f"analysis/training/{name}/seconds") for name in ("fit", "distill")]
    table = Table("times", ["stage", "time"], [[Cell(name), cell(result, at, duration)] for name, at in stages])
    for part, words in (("hearing", "evaluate: hearing"), ("probes", "evaluate: probes")):
        table.rows.append([Cell(words), cell(result, f"seconds/{part}", duration)])
    return Table("times", table.head, [line for line in table.rows if line[1].text])
