"""The distill stage: a student learns the teacher's fused layers, layer by layer."""

from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from distill import runtime
from distill.coding import CodeDistillation, CodeDistiller
from distill.data.batches import Batch
from distill.data.clips import Clips
from distill.data.embedded import cache_folder
from distill.distiller import Distiller, Outcome, pairs
from distill.features import Encoder
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
    layers: int  # K
    width: int  # D of the targets

    def counts(self, rows: np.ndarray) -> Tensor:
        """Frames the student makes of these clips: (1,)."""
        return self.student.frames(torch.from_numpy(self.clips.samples[rows])).sum().double()[None]

    def outcome(self, model: nn.Module, batch: Batch, progress: float) -> tuple[Tensor, Tensor]:
        targets, interface_BTD = self.targets(batch)
        out: Outcome = model(batch.audio, batch.lengths, targets, interface_BTD)
        tally = [
            torch.stack([out.loss_sum.detach().double(), out.count.double()]),
            out.agreement.tensor().flatten(),
        ]
        if out.interface is not None:
            tally.append(out.interface.tensor().flatten())
        return out.loss_sum / batch.counts[0], torch.cat(tally)

    def read(self, tally: Tensor) -> dict[str, float]:
        """Explained variance and cosine of every layer pair, their means first."""
        loss, frames = tally[:2].tolist()
        split = 2 + self.layers * (4 + self.width)
        agreement = Agreement.from_tensor(tally[2:split].view(self.layers, -1))
        explained_K, cosine_K = agreement.explained_variance(), agreement.cosine()
        values = {"explained_variance": float(explained_K.mean()), "loss": loss / frames}
        for pair in range(self.layers):
            values[f"explained_variance_{pair + 1}"] = float(explained_K[pair])
            values[f"cosine_{pair + 1}"] = float(cosine_K[pair])
        if tally.numel() > split:
            values["explained_variance_interface"] = float(
                Agreement.from_tensor(tally[None, split:]).explained_variance()
            )
        return values


def distill(
    accelerator: Accelerator,
    teacher: FusedTeacher,
    student: Encoder,
    clips: Clips,
    settings: Distill,
    plan: Plan,
    folder: Path,
) -> Learner:
    """Train the student on `clips` against a fitted teacher; on the CPU, with what it learned.

    The interface's output is one more target where settings.interface_weight is not 0.
    """
    chosen = pairs(student.layers, teacher.layers, settings.layers)
    layers = [layer for _, layer in chosen]
    supervision = Supervision(teacher, layers, summary=settings.interface_weight > 0, dtype=runtime.precision())
    distiller = build(student, teacher, settings, chosen, plan.seed)
    blank = deepcopy(distiller)
    model, trainer = accelerator.prepare(distiller, optimizer(distiller, settings.weight_decay))
    objective = look(supervision.to(accelerator.device), student, clips, settings, accelerator)
    train(accelerator, model, trainer, objective, plan, folder)
    blank.load_state_dict(runtime.weights(accelerator, model))
    return blank.eval()


def build(
    student: Encoder, teacher: FusedTeacher, settings: Distill, chosen: list[tuple[int, int]], seed: int
) -> Learner:
    """The student with its heads, whose first weights depend on the seed alone."""
    weights = settings.layer_weights or [1.0] * len(chosen)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if settings.targets == "codes":
            layers = [layer for layer, _ in chosen] + [student.layers - 1] * (settings.interface_weight > 0)
            shares = [weight / sum(weights) for weight in weights] + [settings.interface_weight]
            return CodeDistiller(student, layers, settings.codebooks, shares[: len(layers)])
        return Distiller(
            student,
            chosen,
            teacher.width,
            teacher.interface.width if settings.interface_weight else None,
            settings.loss,
            weights,
            settings.interface_weight,
        )


def look(
    supervision: Supervision, student: Encoder, clips: Clips, settings: Distill, accelerator: Accelerator
) -> Distillation | CodeDistillation:
    """The objective with targets as the recipe wants them: the teacher live, or heard once."""
    place, seconds = Path(settings.cache).expanduser() if settings.cache else cache_folder(), settings.forward_seconds
    if settings.targets == "codes":
        recall = codes(accelerator, supervision, clips, seconds, settings.codebooks, place)
        names = [str(number + 1) for number in range(settings.layers)] + ["interface"] * supervision.summary
        objective = CodeDistillation(clips, student, recall, names)
    else:
        if settings.targets == "online":
            targets = online(supervision)
        elif settings.targets == "cached":
            targets = cached(accelerator, supervision, clips, seconds, settings.cache_precision, place)
        else:
            accelerator.print(f"the teacher listens to {clips.seconds() / 3600:.2f} h of audio, once")
            targets = memory(supervision, clips, seconds, accelerator.device)
        objective = Distillation(clips, student, targets, settings.layers, supervision.width)
    if settings.targets != "online":
        supervision.to("cpu")  # it has said all it has to say; a GPU has other uses for its memory
    return objective
