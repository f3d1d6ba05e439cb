"""The distill stage: a student learns the teacher's fused layers, layer by layer."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from distill import runtime
from distill.data.batches import Batch
from distill.data.clips import Clips
from distill.data.embedded import cache_folder
from distill.data.stream import Feed, Source
from distill.distiller import Distiller, Group, Outcome, pairs, shares
from distill.encoders.frames import bytes_of, demand_memory
from distill.features import Encoder
from distill.harder import QUIET, Surroundings
from distill.loop import Plan, optimizer, train
from distill.losses import Agreement
from distill.recipe import Distill
from distill.supervision.coding import CodeDistillation, CodeDistiller
from distill.supervision.posteriors import Posteriors
from distill.supervision.targets import Supervision, Targets, cached, codes, memory, online
from distill.teacher import FusedTeacher

Learner = Distiller | CodeDistiller


@dataclass(frozen=True)
class Distillation:
    """The objective: layerwise loss over valid frames against targets, wherever they come from."""

    clips: Clips
    student: Encoder
    targets: Targets
    names: Sequence[str]  # of the K targets, in the log
    width: int  # D of the targets
    around: Surroundings = QUIET  # over what the student hears, and the teacher does not
    posteriors: Posteriors | None = None  # the teacher's task heads, where they supervise too
    times: int = 1  # frames told of each of the student's

    def counts(self, rows: np.ndarray) -> Tensor:
        """Frames the student tells of these clips, then what each task's posteriors are counted in: (1 + J,)."""
        return self.counted(torch.from_numpy(self.clips.samples[rows]))

    def counted(self, samples_B: Tensor) -> Tensor:
        """The same for clips of so many samples; counts of parts add up."""
        frames = self.times * int(self.student.frames(samples_B).sum())
        told = [] if self.posteriors is None else [self.posteriors.counts(frames, len(samples_B))]
        return torch.cat([torch.tensor([float(frames)]), *told]).double()

    def outcome(self, model: nn.Module, batch: Batch, progress: float) -> tuple[Tensor, Tensor]:
        targets, interface_BTD = self.targets(batch)
        audio_BN = self.around.over(batch.audio, batch.lengths)
        out: Outcome = model(audio_BN, batch.lengths, targets, interface_BTD, batch.weight)
        loss = out.loss_sum / batch.counts[0]
        clips = torch.full_like(out.count, len(batch.rows))
        tally = [torch.stack([out.loss_sum.detach().double(), out.count.double(), clips.double()])]
        tally.append(out.agreement.tensor().flatten())
        if self.posteriors is not None and out.told is not None and interface_BTD is not None:
            sums_J = self.posteriors(out.told, replace(targets, hidden=interface_BTD[:, None]))
            loss = loss + self.posteriors.weight * (sums_J / batch.counts[1:]).mean()
            tally.append(sums_J.detach().double())
        if out.interface is not None:
            tally.append(out.interface.tensor().flatten())
        return loss, torch.cat(tally)

    def read(self, tally: Tensor) -> dict[str, float]:
        """Explained variance and cosine of every target, their means first; divergences of posteriors."""
        loss, frames, clips = tally[:3].tolist()
        heads = [] if self.posteriors is None else self.posteriors.tasks
        sizes = [len(self.names) * (4 + self.width), len(heads)]
        layers, sums_J, interface = tally[3:].split([*sizes, len(tally) - 3 - sum(sizes)])
        agreement = Agreement.from_tensor(layers.view(len(self.names), -1))
        explained_K, cosine_K = agreement.explained_variance(), agreement.cosine()
        values = {"explained_variance": float(explained_K.mean()), "loss": loss / frames}
        for name, explained, cosine in zip(self.names, explained_K.tolist(), cosine_K.tolist(), strict=True):
            values |= {f"explained_variance_{name}": explained, f"cosine_{name}": cosine}
        if len(interface):
            values["explained_variance_interface"] = float(Agreement.from_tensor(interface[None]).explained_variance())
        if self.posteriors is not None:
            apart_J = sums_J / self.posteriors.counts(int(frames), int(clips)).to(sums_J)
            values["loss"] += self.posteriors.weight * float(apart_J.mean())
            values |= {f"divergence_{task.name}": float(apart) for task, apart in zip(heads, apart_J, strict=True)}
        return values


def distill(
    accelerator: Accelerator,
    teacher: FusedTeacher,
    student: Encoder,
    clips: Clips,
    settings: Distill,
    plan: Plan,
    folder: Path,
    posteriors: Posteriors | None = None,
    source: Source | None = None,
) -> Learner:
    """Train the student on `clips`, or on a stream, against a fitted teacher; on the CPU, with what it learned.

    The interface's output is one more target where settings.interface_weight is not 0; posteriors: the teacher's
    task heads, where they supervise too.
    """
    demand_whole_heads(accelerator, settings)
    groups = sources(student, teacher, settings)
    supervision = supervise(teacher, groups, settings, runtime.precision())
    distiller = build(student, teacher, settings, groups, plan.seed, plan.passes)
    blank = deepcopy(distiller)
    model, trainer = accelerator.prepare(distiller, optimizer(distiller, settings.weight_decay))
    names = [name for group in groups for name in group.names()]
    heads = None if posteriors is None else posteriors.to(accelerator.device)
    objective = look(supervision.to(accelerator.device), student, clips, settings, names, accelerator, heads)
    feed = None
    if source is not None:
        assert isinstance(objective, Distillation), "a recipe refuses a stream with targets other than online"
        feed = streamed(source, accelerator, objective, plan)
    train(accelerator, model, trainer, objective, plan, folder, feed)
    blank.load_state_dict(runtime.weights(accelerator, model))
    return blank.eval()


def streamed(source: Source, accelerator: Accelerator, objective: Distillation, plan: Plan) -> Feed:
    """What this process hears of a stream, its losses divided by what all processes hear in a step."""

    def total(count: Tensor) -> Tensor:
        return cast(Tensor, accelerator.reduce(count.to(accelerator.device), "sum")).cpu()

    return Feed(
        source,
        count=objective.counted,
        total=total,
        seed=plan.seed,
        batch_seconds=plan.batch_seconds,
        passes=plan.passes,
        blur=plan.blur,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
        say=tqdm.write,  # which leaves the progress bar whole
    )


def demand_whole_heads(accelerator: Accelerator, settings: Distill) -> None:
    """ValueError where gradients would have to go back through heads that ZeRO-3 has taken apart."""
    plugin = accelerator.state.deepspeed_plugin
    if settings.balance == "gradient" and plugin is not None and plugin.zero_stage == 3:
        raise ValueError(
            "distill.balance=gradient needs the student's heads whole in every process, ZeRO stage 3 shards them; "
            "set zero_stage: 2 in accelerate_config.yaml, or choose distill.balance=uncertainty"
        )


def sources(student: Encoder, teacher: FusedTeacher, settings: Distill) -> list[Group]:
    """The fused stack and upstreams that teach, each with pairs over its own depth."""
    sizes = {"": (teacher.layers, teacher.width)}
    upstreams = zip(teacher.upstreams, teacher.fusion.shapes, strict=True)
    sizes |= {name: (shape.layers, shape.width) for name, shape in upstreams}
    return [
        Group(name, tuple(pairs(student.layers, sizes[name][0], settings.layers)), sizes[name][1], weight)
        for name, weight in settings.sources(list(teacher.upstreams)).items()
    ]


def supervise(teacher: FusedTeacher, groups: Sequence[Group], settings: Distill, dtype: torch.dtype) -> Supervision:
    """What the teacher tells of these groups, in their order."""
    layers = {group.name: [layer for _, layer in group.pairs] for group in groups}
    fused = layers.pop("", [])
    return Supervision(teacher, fused, own=layers, summary=settings.interface_weight > 0, dtype=dtype)


def restored(student: Encoder, teacher: Encoder, settings: Distill) -> int:
    """Frames of the teacher that heads tell of each of the student's, where they restore its rate."""
    return max(round(teacher.grid.rate / student.grid.rate), 1) if settings.restore_rate else 1


def build(
    student: Encoder, teacher: FusedTeacher, settings: Distill, groups: Sequence[Group], seed: int, passes: int = 1
) -> Learner:
    """The student with its heads, whose first weights depend on the seed alone; passes: of a process in a step."""
    weights, times = settings.layer_weights or [1.0] * settings.layers, restored(student, teacher, settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if settings.targets == "codes":
            layers = [layer for group in groups for layer, _ in group.pairs]
            layers += [student.layers - 1] * (settings.interface_weight > 0)
            parts = [share * weight / sum(weights) for share in shares(groups) for weight in weights]
            parts += [settings.interface_weight]
            own = [len(group.pairs) for group in groups] if settings.balance == "uncertainty" else []
            return CodeDistiller(student, layers, settings.codebooks, parts[: len(layers)], times, own)
        return Distiller(
            student,
            groups,
            teacher.interface.width if settings.interface_weight else None,
            settings.loss,
            weights,
            settings.interface_weight,
            drop=settings.drop,
            balance=settings.balance,
            passes=passes,
            times=times,
        )


def look(
    supervision: Supervision,
    student: Encoder,
    clips: Clips,
    settings: Distill,
    names: Sequence[str],
    accelerator: Accelerator,
    posteriors: Posteriors | None = None,
) -> Distillation | CodeDistillation:
    """The objective with targets as the recipe wants them: the teacher live, or heard once; names: of the layers."""
    times = restored(student, supervision.teacher, settings)
    place, seconds = Path(settings.cache).expanduser() if settings.cache else cache_folder(), settings.forward_seconds
    if settings.targets == "codes":
        recall = codes(accelerator, supervision, clips, seconds, settings.codebooks, place)
        coded = [*names, *["interface"] * supervision.summary]
        objective = CodeDistillation(clips, student, recall, coded, settings.surroundings(), times)
    else:
        if settings.targets == "online":
            targets = online(supervision)
        elif settings.targets == "cached":
            targets = cached(accelerator, supervision, clips, seconds, settings.cache_precision, place)
        else:
            accelerator.print(f"the teacher listens to {clips.seconds() / 3600:.2f} h of audio, once")
            demand_memory(bytes_of(supervision, clips), runtime.processes_here())
            targets = memory(supervision, clips, seconds, accelerator.device)
        objective = Distillation(
            clips, student, targets, names, supervision.told, settings.surroundings(), posteriors, times
        )
    if settings.targets != "online":
        supervision.to("cpu")  # it has said all it has to say; a GPU has other uses for its memory
    return objective
