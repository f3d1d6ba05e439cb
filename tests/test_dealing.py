"""Losses and gradients of a step do not depend on how its clips are dealt to passes and processes."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from distill.data.batches import Batches
from distill.distillation import Distillation, build, restored, sources, supervise
from distill.fit import Fit, Fitting, Labels
from distill.recipe import Distill
from distill.supervision.posteriors import posteriors
from distill.supervision.targets import memory, online
from distill.tasks import TASKS
from distill.teacher import FusedTeacher


@pytest.fixture
def teacher(pair) -> FusedTeacher:
    """A random WavLM and a random Whisper, fused."""
    return pair("layer")


def dealt(objective, model: nn.Module, parts: int) -> tuple[float, Tensor, Tensor]:
    """Loss, gradient and tally of one step of all clips, in so many hands."""
    model.zero_grad()
    total, tallies = 0.0, []
    one = {"batch_seconds": 1e9, "seed": 0, "start": 0, "steps": 1}
    for batch in Batches(objective.clips, objective.counts, **one, passes=parts, process=0, processes=1):
        loss, tally = objective.outcome(model, batch, 0.5)
        (batch.weight * loss).backward()
        total += batch.weight * float(loss.detach())
        tallies.append(batch.weight * tally.double())
    gradient = torch.cat([w.grad.flatten() for w in model.parameters() if w.grad is not None])
    return total, gradient.clone(), torch.stack(tallies).sum(0)


def assert_dealing_changes_nothing(objective, model: nn.Module) -> None:
    """Nor where there are more hands than clips: what an empty one hears is not counted."""
    loss, gradient, tally = dealt(objective, model, 1)
    for parts in (2, 5, len(objective.clips), len(objective.clips) + 2):
        other_loss, other_gradient, other_tally = dealt(objective, model, parts)
        assert other_loss == pytest.approx(loss, rel=1e-5)
        assert float((other_gradient - gradient).norm()) < 1e-4 * float(gradient.norm())
        for name, value in objective.read(tally).items():
            assert objective.read(other_tally)[name] == pytest.approx(value, rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize(
    ("by", "weight", "halved"),
    [("fused", 0.0, False), ("both", 0.0, False), ("fused", 2.0, False), ("both", 2.0, True)],
)
def test_the_distillation_loss_does_not_depend_on_how_a_step_is_dealt(
    noises, teacher, build_tiny_student, by, weight, halved
):
    clips = noises.select(range(7))
    student = build_tiny_student(halved=halved)
    settings = Distill(layers=2, interface_weight=0.5, supervise=by)
    groups = sources(student, teacher, settings)
    times = restored(student, teacher, settings)
    assert times == 1 + halved
    model = build(student, teacher, settings, groups, 0)
    supervision = supervise(teacher, groups, settings, torch.float32)
    names = [name for group in groups for name in group.names()]
    tasks = [Labels.of(task, clips).task for task in TASKS.values()]
    fitted = nn.ModuleDict({task.name: task.head(teacher.interface.width) for task in tasks}).state_dict()
    heads = posteriors(teacher, list(TASKS.values()), clips, fitted, weight)
    for targets in (online(supervision), memory(supervision, clips, 5.0, torch.device("cpu"))):
        objective = Distillation(clips, student, targets, names, supervision.told, posteriors=heads, times=times)
        assert_dealing_changes_nothing(objective, model.eval())


def test_one_upstreams_own_layers_are_the_fused_stack_and_taught_once(teacher, build_tiny_student):
    name, encoder = next(iter(teacher.upstreams.items()))
    alone = FusedTeacher({name: encoder}, "sum", 0, "weighted_sum", 0)
    student = build_tiny_student(halved=False)
    for one in ("separate", "both"):
        found = sources(student, alone, Distill(layers=2, supervise=one))
        assert found == sources(student, alone, Distill(layers=2, supervise="fused"))
    by = {one: sources(student, teacher, Distill(layers=2, supervise=one)) for one in ("fused", "separate", "both")}
    assert [group.name for group in by["both"]] == ["", *teacher.upstreams]
    assert by["both"] == by["fused"] + by["separate"]


def test_a_source_weighs_as_the_recipe_says_and_one_of_no_weight_teaches_nothing(teacher, build_tiny_student):
    student, (first, second) = build_tiny_student(halved=False), teacher.upstreams
    settings = Distill(layers=2, layer_weights=[1.0, 3.0], source_weights={"fused": 0.5, first: 1.5})
    groups = sources(student, teacher, settings)
    assert {group.name: group.weight for group in groups} == {"": 0.5, first: 1.5, second: 1.0}
    coded = build(student, teacher, replace(settings, targets="codes"), groups, 0)
    assert coded.weights == pytest.approx([share * part / 12 for share in (0.5, 1.5, 1.0) for part in (1.0, 3.0)])
    for balance, of_each in (("equal", ()), ("uncertainty", (2, 2, 2))):
        made = build(student, teacher, replace(settings, targets="codes", balance=balance), groups, 0)
        assert made.sources == of_each
    two = sources(student, teacher, replace(settings, source_weights={first: 0.0}))
    assert [group.name for group in two] == ["", second]
    assert supervise(teacher, two, settings, torch.float32).count() == 4


def test_the_fit_loss_does_not_depend_on_how_a_step_is_dealt(noises, teacher):
    """A hand may hold no clip of a task: English alone is transcribed."""
    clips = noises.select(range(7))
    labels = [Labels.of(task, clips) for task in TASKS.values()]
    model = Fitting(teacher.fusion, teacher.interface, [one.task for one in labels])
    assert_dealing_changes_nothing(Fit(clips, teacher.encoders(), labels), model.eval())
