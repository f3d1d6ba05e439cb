"""Weights of sources by the norms of their gradients: what they settle at, and that dealing changes nothing."""

from types import SimpleNamespace

import pytest
import torch

from distill.balance import SLOWEST, GradientNorms
from distill.distillation import demand_whole_heads
from distill.recipe import Distill


def passes(
    module: GradientNorms, frames: int, scales: list[float], losses: list[float], seed: int, weight: float = 1.0
) -> torch.Tensor:
    """One pass of losses whose gradient with respect to every activation is the source's scale."""
    hidden = torch.randn(1, 2, frames, 3, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    level = torch.tensor(losses) * frames
    sums = torch.stack([scale * hidden.sum() for scale in scales])
    return module(sums - sums.detach() + level, torch.tensor(frames), hidden, weight)


def test_gradients_come_to_equal_norms_where_sources_learn_equally_fast():
    module = GradientNorms(3, 1)
    assert passes(module, 5, [1.0, 4.0, 0.5], [1.0, 2.0, 3.0], 0).tolist() == [1.0, 1.0, 1.0], "equal in the first step"
    weights = passes(module, 5, [1.0, 4.0, 0.5], [1.0, 2.0, 3.0], 1)
    torch.testing.assert_close(weights * torch.tensor([1.0, 4.0, 0.5]), torch.full((3,), float(weights[0])))
    assert float(weights.sum()) == pytest.approx(3.0)


def test_a_source_that_has_come_less_far_gets_the_larger_gradient():
    """Against GradNorm's loss, searched over all weights; its targets with a mean of 1, or none reach them all."""
    module = GradientNorms(2, 1)
    passes(module, 5, [1.0, 2.0], [1.0, 4.0], 0)
    for step in range(500):
        passes(module, 5, [1.0, 2.0], [0.9, 2.0], step)
    left_G = torch.tensor([0.9, 0.5])
    first_N = torch.linspace(0.001, 1.999, 1999)
    norms_NG = torch.stack([first_N, 2 - first_N], 1) * torch.tensor([1.0, 2.0])
    pull_G = (left_G / left_G.mean()) ** SLOWEST
    target_NG = norms_NG.mean(1, keepdim=True) * pull_G / pull_G.mean()
    best = first_N[(norms_NG - target_NG).abs().sum(1).argmin()]
    torch.testing.assert_close(module.weights, torch.stack([best, 2 - best]), rtol=0, atol=2e-3)


def test_how_a_step_is_dealt_changes_nothing():
    whole, dealt = GradientNorms(2, 1), GradientNorms(2, 3)
    for step in range(3):
        passes(whole, 12, [1.0, 3.0], [2.0, 1.0 + step], step)
        first = passes(dealt, 4, [1.0, 3.0], [2.0, 1.0 + step], step)
        assert torch.equal(passes(dealt, 8, [1.0, 3.0], [2.0, 1.0 + step], step), first), "one weight all step"
        passes(dealt, 8, [5.0, 1.0], [1.0, 7.0], step, weight=0.0)
    torch.testing.assert_close(dealt.weights, whole.weights)


def test_it_sees_nothing_outside_of_training():
    module = GradientNorms(2, 1).eval()
    passes(module, 5, [1.0, 2.0], [1.0, 1.0], 0)
    assert module.weights.tolist() == [1.0, 1.0] and not module.first.any()


def test_a_kept_state_goes_on_as_it_was():
    module, other = GradientNorms(2, 2), GradientNorms(2, 2)
    for step in range(4):
        passes(module, 5, [1.0, 2.0 + step], [1.0, 1.0 + step], step)
    other.load_state_dict(module.state_dict())
    for step in range(4, 8):
        ours, theirs = (passes(one, 5, [1.0, 2.0 + step], [1.0, 2.0], step) for one in (module, other))
        assert torch.equal(ours, theirs)


def test_sharded_heads_are_refused_before_anything_is_heard():
    def under(stage: int):
        return SimpleNamespace(state=SimpleNamespace(deepspeed_plugin=SimpleNamespace(zero_stage=stage)))

    settings = Distill(balance="gradient", supervise="both")
    demand_whole_heads(under(2), settings)
    demand_whole_heads(under(3), Distill())
    with pytest.raises(ValueError, match="ZeRO stage 3 shards them; set zero_stage: 2"):
        demand_whole_heads(under(3), settings)
