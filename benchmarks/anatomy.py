"""What an online distillation step is made of, at any scale: CPU time of each part on one thread, no corpus needed.

python -m benchmarks.anatomy [clips=1] [seconds=15] [recipe=wavlm+whisper] [key=value ...]

`scale=base teacher.weights=random` needs no Hub. Processor time, so that other work on the machine does not count.
The clips are noise, whose content costs nothing.
"""

import io
import sys
from collections.abc import Iterator
from dataclasses import replace
from time import process_time

import datasets
import numpy as np
import soundfile
import torch
from torch import Tensor, nn

from benchmarks.clock import BACKWARD, Clock
from benchmarks.reference import Plain
from benchmarks.steps import Feed, distilling, supervising, time_steps
from distill import runtime
from distill.data.batches import Batch
from distill.data.clips import Clips, pad
from distill.distillation import sources, supervise
from distill.features import SAMPLE_RATE, parameters
from distill.loading import load
from distill.loop import Objective
from distill.recipe import Recipe
from distill.supervision.targets import online
from students import make_student
from teachers import FAMILIES, build_teacher

CPU = torch.device("cpu")
FRONT_END = "front end"


def noise(count: int, seconds: float) -> Clips:
    """So many clips of that length."""
    rng, samples, rows = np.random.default_rng(0), round(seconds * SAMPLE_RATE), []
    for number in range(count):
        file = io.BytesIO()
        soundfile.write(file, 0.1 * rng.standard_normal(samples), SAMPLE_RATE, format="WAV")
        rows.append({"id": str(number), "audio": {"bytes": file.getvalue(), "path": None}, "samples": samples})
    return Clips(datasets.Dataset.from_list(rows).cast_column("audio", datasets.Audio(decode=False)))


def always(objective: Objective) -> Feed:
    """All clips of an objective in one batch, again and again."""
    rows = np.arange(len(objective.clips))
    while True:
        audio_BN, lengths_B = pad([objective.clips.audio(row) for row in range(len(rows))])
        batch = Batch(rows, objective.clips.ids, audio_BN, lengths_B, objective.counts(rows))
        yield batch, batch.seconds()


def anatomy(recipe: Recipe, clips: Clips) -> dict:
    """What `time_steps` tells of a step that hears all of these clips in one pass."""
    settings, clock = replace(recipe.distill, targets="online"), Clock(CPU, process_time)
    teacher, student = build_teacher(recipe.teacher, recipe.seed), make_student(recipe.student, recipe.seed)

    def split(module: nn.Module, inputs: tuple, heard_BDT: Tensor) -> None:
        clock.split_backward(f"{BACKWARD}, {FRONT_END}", heard_BDT)

    print(f"teacher {parameters(teacher) / 1e6:.1f} M parameters, student {parameters(student) / 1e6:.1f} M")
    for name, upstream in teacher.upstreams.items():
        clock.watch(name, upstream)
    clock.watch("fusion", teacher.fusion)
    first = student.model.feature_extractor
    clock.watch(FRONT_END, first)
    first.register_forward_hook(split)
    supervision = supervise(teacher, sources(student, teacher, settings), settings, torch.float32)
    module, objective = distilling(clock, teacher, student, clips, online(supervision), settings)
    module.train()
    return time_steps(clock, Plain(module, settings.clip), objective, always(objective), 1)


def lines(step: dict) -> Iterator[str]:
    """A line for each part, dearest first."""
    yield f"{'ms per audio second':<22}{'ms':>9}{'%':>8}"
    for part, seconds in sorted(step["seconds"].items(), key=lambda item: -item[1]):
        yield f"  {part:<20}{1000 * seconds:>9.2f}{100 * step['share'][part]:>8.2f}"
    yield f"  {'whole step':<20}{1000 * sum(step['seconds'].values()):>9.2f}"
    yield f"fusion and losses: {100 * supervising({'online': step})['online']:.2f} % of the step"


def main(argv: list[str]) -> None:
    """Measure and print."""
    runtime.quiet()
    torch.set_num_threads(1)
    own = {"clips": "1", "seconds": "15", "recipe": "wavlm+whisper"}
    own |= dict(word.split("=", 1) for word in argv if word.split("=")[0] in own)
    given = [word for word in argv if word.split("=")[0] not in own]
    try:
        recipe = load([f"recipe={own['recipe']}", *given], FAMILIES)
        step = anatomy(recipe, noise(int(own["clips"]), float(own["seconds"])))
    except (ValueError, OSError) as error:
        sys.exit(f"anatomy.py: {error}")
    print("\n".join(lines(step)))


if __name__ == "__main__":
    main(sys.argv[1:])
