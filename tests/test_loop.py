"""The one training loop, on a toy: its rate, its steps, and where it stops."""

import itertools
import json
from dataclasses import replace

import pytest
import torch
from torch import nn
from toy import PLAN, Toy, lines

from distill.data.batches import Batches
from distill.loop import NonFiniteLossError, optimizer, rate, seed_of, train


def test_the_rate_rises_to_its_highest_and_falls_to_a_hundredth():
    plan = replace(PLAN, steps=1000, warmup=0.1)
    rates = [rate(plan, step) for step in range(plan.steps)]
    assert max(rates) == rates[100] == plan.learning_rate
    assert all(0 < before < after for before, after in itertools.pairwise(rates[:101]))
    assert all(before > after for before, after in itertools.pairwise(rates[100:]))
    assert rates[0] == pytest.approx(plan.learning_rate / 101)
    assert rates[-1] == pytest.approx(plan.learning_rate / 100, rel=0.01)
    assert rates[550] == pytest.approx(plan.learning_rate * (0.01 + 0.99 / 2), rel=1e-3)  # half-way down


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_plans_learn_at_a_rate_above_zero(steps):
    for warmup in (0.0, 0.1, 0.9):
        rates = [rate(replace(PLAN, steps=steps, warmup=warmup), step) for step in range(steps)]
        assert all(0 < value <= PLAN.learning_rate for value in rates)


def test_biases_and_norms_do_not_decay():
    module = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 2, bias=False))
    module[2].requires_grad_(False)
    groups = {group["weight_decay"]: group["params"] for group in optimizer(module, 0.3).param_groups}
    assert {id(weight) for weight in groups[0.3]} == {id(module[0].weight)}
    assert {id(weight) for weight in groups[0.0]} == {id(module[0].bias), *map(id, module[1].parameters())}


def test_every_pass_of_every_process_draws_for_itself_and_the_same_again():
    seeds = [seed_of(*place) for place in itertools.product(range(3), range(40), range(4))]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [seed_of(*place) for place in itertools.product(range(3), range(40), range(4))]


def test_a_step_in_two_passes_is_one_step(learn, tmp_path):
    plan = replace(PLAN, steps=3)
    learned = [learn(tmp_path / str(passes), replace(plan, passes=passes))[1] for passes in (1, 2)]
    assert len(learned[0].before) == 3 and len(learned[1].before) == 6
    assert learned[1].before[::2] == learned[1].before[1::2], "the weights moved within a step"
    assert learned[1].before[0] != learned[1].before[2], "they never moved"


def test_passes_that_a_step_has_no_clip_for_teach_nothing(accelerator, noises, tmp_path, monkeypatch):
    """Steps of about five clips, dealt to nine passes."""
    monkeypatch.setattr(torch, "rand", lambda *size: torch.zeros(size))  # which every pass would draw for itself
    learned = []
    for passes in (1, 9):
        machine, toy, module = accelerator(passes), Toy(noises), nn.Linear(1, 1)
        nn.init.ones_(module.weight), nn.init.zeros_(module.bias)
        model, trainer = machine.prepare(module, optimizer(module, 0.1))
        (tmp_path / str(passes)).mkdir()
        train(machine, model, trainer, toy, replace(PLAN, passes=passes), tmp_path / str(passes))
        text = (tmp_path / str(passes) / "metrics.jsonl").read_text()
        learned.append((toy.before[::passes], [json.loads(line)["loss"] for line in text.splitlines()]))
    (ours, told), (theirs, expected) = learned
    assert ours == pytest.approx(theirs, rel=1e-5) and told == pytest.approx(expected, rel=1e-5)


def test_a_loss_that_is_no_number_stops_before_the_step(learn, tmp_path):
    """In the second pass of step 5: the weights stay those of step 5's first pass, and the clips are named."""
    _, undisturbed = learn(tmp_path / "undisturbed")
    with pytest.raises(NonFiniteLossError, match=r"^step 5: the loss is nan \(clips clip-\d+.*not taken") as caught:
        learn(tmp_path / "spoilt", spoil=lambda call: call == 11)
    assert "lower learning_rate; the last checkpoint is kept" in str(caught.value)
    assert (tmp_path / "spoilt/checkpoints/toy/step-000004").is_dir()
    assert lines(tmp_path / "spoilt") == [("toy", step) for step in range(1, 6)]
    learned, resumed = learn(tmp_path / "spoilt")
    assert resumed.before == undisturbed.before[8:]
    assert learned["0.weight"] == learn(tmp_path / "again")[0]["0.weight"]


def test_no_weight_moves_when_the_loss_is_no_number(accelerator, noises, tmp_path):
    machine, toy = accelerator(1), Toy(noises, lambda call: call == 2)
    module = nn.Linear(1, 1)
    model, trainer = machine.prepare(module, optimizer(module, 0.1))
    with pytest.raises(NonFiniteLossError):
        train(machine, model, trainer, toy, replace(PLAN, passes=1), tmp_path)
    assert float(module.weight.detach()) == toy.before[2]
    assert bool(module.bias.isfinite().all())


@pytest.mark.parametrize("call", [2, 3])
def test_no_pass_of_a_step_may_be_no_number(accelerator, noises, tmp_path, call):
    """They are asked about once a step, before it is taken; the clips named are those of the pass."""
    machine, toy = accelerator(2), Toy(noises, lambda number: number == call)
    module = nn.Linear(1, 1)
    model, trainer = machine.prepare(module, optimizer(module, 0.1))
    with pytest.raises(NonFiniteLossError, match="step 1: the loss is nan") as caught:
        train(machine, model, trainer, toy, PLAN, tmp_path)
    assert float(module.weight.detach()) == toy.before[2] == toy.before[3] != toy.before[0]
    deal = {"start": 0, "steps": 8, "passes": 2, "process": 0, "processes": 1}
    spoiled = Batches(noises, toy.counts, batch_seconds=PLAN.batch_seconds, seed=0, **deal)[call]
    assert f"(clips {', '.join(spoiled.ids)})" in str(caught.value)


def test_many_clips_are_not_all_named(learn, tmp_path):
    with pytest.raises(NonFiniteLossError) as caught:
        learn(tmp_path, replace(PLAN, passes=1, batch_seconds=30.0), spoil=lambda call: True)
    assert "step 0" in str(caught.value) and "and 16 more" in str(caught.value)
