"""How training went, from the journal of a run."""

from collections.abc import Iterable

POINTS = 100  # of a curve, at most


def training(journal: Iterable[dict]) -> dict:
    """Stage -> its curves: `step` and every value that each of its lines has, and `seconds` in all.

    journal: the lines of metrics.jsonl. Between two points that are kept, values are averaged. Seconds are None
    where a line does not tell them.
    """
    stages: dict[str, list[dict]] = {}
    for line in journal:
        stages.setdefault(line["stage"], []).append(line)
    return {stage: {"seconds": seconds(lines), "curves": curves(lines)} for stage, lines in stages.items()}


def seconds(lines: list[dict]) -> float | None:
    """Time that the steps took, from first to last, each counted once however often a run was interrupted."""
    return sum(line["seconds"] for line in lines) if all("seconds" in line for line in lines) else None


def curves(lines: list[dict]) -> dict[str, list[float]]:
    """Every number that all lines have, by name, in at most POINTS points; a point bears its last line's step."""
    size = -(-len(lines) // POINTS)
    groups = [lines[start : start + size] for start in range(0, len(lines), size)]
    shared = set.intersection(*(set(line) for line in lines)) - {"stage", "step", "seconds"}
    names = [name for name in lines[0] if name in shared]
    found: dict[str, list[float]] = {"step": [group[-1]["step"] for group in groups]}
    return found | {name: [sum(line[name] for line in group) / len(group) for group in groups] for name in names}
