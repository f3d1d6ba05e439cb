"""The distill stage: a student learns the teacher's fused layers, layer by layer."""

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from distill import runtime
from distill.coding import CodeDistillation, CodeDistiller
from distill.data.batches import Batch
from distill.data.clips import Clips
from distill.data.embedded import cache_folder
from distill.data.stream import Feed, Source
from distill.distiller import Distiller, Group, Outcome, pairs
from distill.features import Encoder
from distill.harder import QUIET, Noise
from distill.loop import Plan, optimizer, train
from distill.losses import Agreement
from distill.recipe import Distill
from distill.targets import Supervision, Targets, cached, codes, memory, online
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
    noise: Noise = QUIET  # over what the student hears, and the teacher does not

    def counts(self, rows: np.ndarray) -> Tensor:
        """Frames the student makes of these clips: (1,)."""
        return frames(self.student, torch.from_numpy(self.clips.samples[rows]))

    def outcome(self, model: nn.Module, batch: Batch, progress: float) -> tuple[Tensor, Tensor]:
        targets, interface_BTD = self.targets(batch)
        audio_BN = self.noise.over(batch.audio, batch.lengths)
        out: Outcome = model(audio_BN, batch.lengths, targets, interface_BTD)
        tally = [
            torch.stack([out.loss_sum.detach().double(), out.count.double()]),
            out.agreement.tensor().flatten(),
        ]
        if out.interface is not None:
            tally.append(out.interface.tensor().flatten())
        return out.loss_sum / batch.counts[0], torch.cat(tally)

    def read(self, tally: Tensor) -> dict[str, float]:
        """Explained variance and cosine of every target, their means first."""
        loss, frames = tally[:2].tolist()
        split = 2 + len(self.names) * (4 + self.width)
        agreement = Agreement.from_tensor(tally[2:split].view(len(self.names), -1))
        explained_K, cosine_K = agreement.explained_variance(), agreement.cosine()
        values = {"explained_variance": float(explained_K.mean()), "loss": loss / frames}
        for name, explained, cosine in zip(self.names, explained_K.tolist(), cosine_K.tolist(), strict=True):
            values |= {f"explained_variance_{name}": explained, f"cosine_{name}": cosine}
        if tally.numel() > split:
            values["explained_variance_interface"] = float(
                Agreement.from_tensor(tally[None, split:]).explained_variance()
            )
        return values


def frames(student: Encoder, lengths_B: Tensor) -> Tensor:
    """Frames the student makes of clips of so many samples, all together: (1,)."""
    return student.frames(lengths_B).sum().double()[None]


def distill(
    accelerator: Accelerator,
    teacher: FusedTeacher,
    student: Encoder,
    clips: Clips,
    settings: Distill,
    plan: Plan,
    folder: Path,
    source: Source | None = None,
) -> Learner:
    """Train the student on `clips`, or on a stream, against a fitted teacher; on the CPU, with what it learned.

    The interface's output is one more target where settings.interface_weight is not 0.
    """
    groups = sources(student, teacher, settings)
    supervision = supervise(teacher, groups, settings, runtime.precision())
    distiller = build(student, teacher, settings, groups, plan.seed)
    blank = deepcopy(distiller)
    model, trainer = accelerator.prepare(distiller, optimizer(distiller, settings.weight_decay))
    names = [name for group in groups for name in group.names()]
    objective = look(supervision.to(accelerator.device), student, clips, settings, names, accelerator)
    feed = streamed(source, accelerator, student, plan) if source else None
    train(accelerator, model, trainer, objective, plan, folder, feed)
    blank.load_state_dict(runtime.weights(accelerator, model))
    return blank.eval()


def streamed(source: Source, accelerator: Accelerator, student: Encoder, plan: Plan) -> Feed:
    """What this process hears of a stream, its losses divided by the frames that all processes hear in a step."""

    def total(count: Tensor) -> Tensor:
        return cast(Tensor, accelerator.reduce(count.to(accelerator.device), "sum")).cpu()

    return Feed(
        source,
        count=lambda lengths_B: frames(student, lengths_B),
        total=total,
        seed=plan.seed,
        batch_seconds=plan.batch_seconds,
        passes=plan.passes,
        blur=plan.blur,
        process=accelerator.process_index,
        processes=accelerator.num_processes,
        say=tqdm.write,  # which leaves the progress bar whole
    )


def sources(student: Encoder, teacher: FusedTeacher, settings: Distill) -> list[Group]:
    """The fused stack, or each upstream with pairs over its own depth, or both."""

    def group(name: str, layers: int, width: int) -> Group:
        return Group(name, tuple(pairs(student.layers, layers, settings.layers)), width)

    upstreams = zip(teacher.upstreams, teacher.fusion.shapes, strict=True)
    own = [group(name, shape.layers, shape.width) for name, shape in upstreams]
    fused = [group("", teacher.layers, teacher.width)]
    return {"fused": fused, "separate": own, "both": fused + own}[settings.supervise]


def supervise(teacher: FusedTeacher, groups: Sequence[Group], settings: Distill, dtype: torch.dtype) -> Supervision:
    """What the teacher tells of these groups, in their order."""
    layers = {group.name: [layer for _, layer in group.pairs] for group in groups}
    fused = layers.pop("", [])
    return Supervision(teacher, fused, own=layers, summary=settings.interface_weight > 0, dtype=dtype)


def build(student: Encoder, teacher: FusedTeacher, settings: Distill, groups: Sequence[Group], seed: int) -> Learner:
    """The student with its heads, whose first weights depend on the seed alone."""
    weights = settings.layer_weights or [1.0] * settings.layers
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if settings.targets == "codes":
            layers = [layer for group in groups for layer, _ in group.pairs]
            layers += [student.layers - 1] * (settings.interface_weight > 0)
            shares = [weight / sum(weights) / len(groups) for _ in groups for weight in weights]
            shares += [settings.interface_weight]
            return CodeDistiller(student, layers, settings.codebooks, shares[: len(layers)])
        return Distiller(
            student,
            groups,
            teacher.interface.width if settings.interface_weight else None,
            settings.loss,
            weights,
            settings.interface_weight,
            drop=settings.drop,
            balance=settings.balance,
        )


def look(
    supervision: Supervision,
    student: Encoder,
    clips: Clips,
    settings: Distill,
    names: Sequence[str],
    accelerator: Accelerator,
) -> Distillation | CodeDistillation:
    """The objective with targets as the recipe wants them: the teacher live, or heard once; names: of the layers."""
    noise = Noise(settings.noise_share, *settings.noise_db)
    place, seconds = Path(settings.cache).expanduser() if settings.cache else cache_folder(), settings.forward_seconds
    if settings.targets == "codes":
        recall = codes(accelerator, supervision, clips, seconds, settings.codebooks, place)
        coded = [*names, *["interface"] * supervision.summary]
        objective = CodeDistillation(clips, student, recall, coded, noise)
    else:
        if settings.targets == "online":
            targets = online(supervision)
        elif settings.targets == "cached":
            targets = cached(accelerator, supervision, clips, seconds, settings.cache_precision, place)
        else:
            accelerator.print(f"the teacher listens to {clips.seconds() / 3600:.2f} h of audio, once")
            targets = memory(supervision, clips, seconds, accelerator.device)
        objective = Distillation(clips, student, targets, names, supervision.told, noise)
    if settings.targets != "online":
        supervision.to("cpu")  # it has said all it has to say; a GPU has other uses for its memory
    return objective
