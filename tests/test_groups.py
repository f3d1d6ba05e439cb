"""Several sources of targets in one loss: how much each counts, by its weight, by chance, or by a learned doubt."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from sliced import PAIRS, batch, distiller

from distill.distiller import BALANCE, Group
from distill.features import Features
from distill.limits import RecipeError
from distill.loading import load
from distill.planning import Load
from distill.recipe import Recipe
from teachers import FAMILIES

MACHINE = Path(__file__).parents[1] / "accelerate_config.yaml"

TWO = [Group("", PAIRS, 5), Group("thin", ((2, 1), (3, 2)), 3)]


def two_groups():
    """Audio, lengths, four targets of which the last two are three features wide, interface targets."""
    audio, lengths, targets, interface = batch([7, 4])
    thin = targets.hidden.flip(1).clone()
    thin[..., 3:] = 0.0
    both = Features(torch.cat([targets.hidden, thin], 1), targets.lengths, targets.grid)
    return audio, lengths, both, interface


@pytest.mark.parametrize("loss", ["l1_cosine", "mse", "gram", "cka"])
def test_groups_count_alike_however_wide_they_are(loss):
    audio, lengths, both, _ = two_groups()
    together = distiller(groups=TWO, interface_width=None, loss=loss)
    sums = []
    for number, group in enumerate(TWO):
        alone = distiller(groups=[group], interface_width=None, loss=loss)
        alone.heads.load_state_dict(together.heads[2 * number : 2 * number + 2].state_dict())
        own = both.hidden[:, 2 * number : 2 * number + 2, :, : group.width]
        sums.append(alone(audio, lengths, Features(own, both.lengths, both.grid), None))
    outcome = together(audio, lengths, both, None)
    torch.testing.assert_close(outcome.loss_sum, (sums[0].loss_sum + sums[1].loss_sum) / 2)
    expected = torch.cat([one.agreement.explained_variance() for one in sums])
    torch.testing.assert_close(outcome.agreement.explained_variance(), expected)


def test_groups_count_by_the_ratio_of_their_weights():
    audio, lengths, both, _ = two_groups()

    def loss(*weights: float) -> torch.Tensor:
        groups = [replace(group, weight=weight) for group, weight in zip(TWO, weights, strict=True)]
        return distiller(groups=groups, interface_width=None)(audio, lengths, both, None).loss_sum

    equal, first, second = loss(1.0, 1.0), loss(1.0, 1e-6), loss(1e-6, 1.0)
    assert not torch.isclose(first, second, rtol=1e-2)
    torch.testing.assert_close(equal, (first + second) / 2, rtol=1e-5, atol=0)
    torch.testing.assert_close(loss(1.0, 3.0), 0.25 * first + 0.75 * second, rtol=1e-5, atol=0)
    torch.testing.assert_close(loss(10.0, 30.0), loss(1.0, 3.0))
    with pytest.raises(ValueError, match=r"must be above 0, got .* leave a source out"):
        loss(1.0, 0.0)


def test_groups_name_their_targets():
    assert [name for group in TWO for name in group.names()] == ["1", "2", "thin_1", "thin_2"]


def test_a_group_is_dropped_unless_its_loss_is_the_highest():
    inputs, count = two_groups(), 400
    model = distiller(groups=TWO, drop=0.75, interface_weight=0.0)
    whole = distiller(groups=TWO, interface_weight=0.0)
    with torch.no_grad():
        sums = whole._by_group(torch.tensor([1.0, 1.0, 3.0, 3.0])), torch.tensor(1), torch.zeros(())
        drawn = torch.stack([model._balanced(*sums) for _ in range(count)])
        assert (drawn[:, 1] == 3.0).all(), "the highest"
        assert set(drawn[:, 0].tolist()) == {0.0, 1.0}
        assert 0.17 < float(drawn[:, 0].mean()) < 0.33, "kept once in four"
        assert torch.equal(model.eval()(*inputs).loss_sum, whole.eval()(*inputs).loss_sum)


def test_a_learned_doubt_settles_at_the_logarithm_of_the_loss():
    inputs = two_groups()
    model, equal = (distiller(groups=TWO, interface_weight=0.0, balance=balance) for balance in BALANCE[1::-1])
    assert torch.equal(model(*inputs).loss_sum, equal(*inputs).loss_sum), "no doubt at the start"
    sums, count = torch.tensor([2.0, 40.0]), torch.tensor(10)
    with torch.no_grad():
        model.doubts.copy_((sums / count).log())
    (gradient,) = torch.autograd.grad(model._balanced(sums, count, torch.zeros(())).sum(), [model.doubts])
    torch.testing.assert_close(gradient, torch.zeros(2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("balance", BALANCE[1:])
def test_a_single_source_has_nothing_to_be_balanced_with(balance):
    one, inputs = distiller(balance=balance), batch([7, 4])
    assert torch.equal(one(*inputs).loss_sum, distiller()(*inputs).loss_sum)
    assert set(one.state_dict()) == set(distiller().state_dict())


def made(*words: str) -> Recipe:
    return load(list(words), FAMILIES)


def test_some_source_must_teach():
    words = ["recipe=hubert+wavlm", "distill.supervise=separate", "distill.source_weights.hubert=0"]
    assert made(*words).distill.sources(["hubert", "wavlm"]) == {"wavlm": 1.0}
    with pytest.raises(RecipeError, match=r"nothing that distill\.supervise=separate names has any"):
        made(*words, "distill.source_weights.wavlm=0")
    assert made("recipe=wavlm", "distill.source_weights.wavlm=0").distill.sources(["wavlm"]) == {"": 1.0}, "no others"


@pytest.mark.parametrize(("by", "name"), [("separate", "fused"), ("fused", "wavlm")])
def test_a_weight_that_cannot_act_is_refused(by, name):
    words = [f"distill.supervise={by}", f"distill.source_weights.{name}=2"]
    with pytest.raises(RecipeError, match=rf"_weights\.{name}: {name} does not teach with .*={by}, .*take .*=both"):
        made("recipe=hubert+wavlm", *words)
    assert made("recipe=hubert+wavlm", words[1]).distill.source_weights == {name: 2.0}
    assert made("recipe=wavlm", *words).distill.sources(["wavlm"]) == {"": 1.0}, "it is the only one"


@pytest.mark.parametrize(("by", "pairs"), [("fused", 3), ("separate", 6), ("both", 9)])
def test_every_source_of_targets_is_counted(by, pairs):
    words = ["recipe=wavlm+whisper", f"distill.supervise={by}", "distill.layers=3"]
    assert Load.of(load([*words, "distill.interface_weight=0"], FAMILIES), MACHINE).pairs == pairs
    assert Load.of(load([*words, "distill.interface_weight=0.5"], FAMILIES), MACHINE).pairs == pairs + 1
    assert Load.of(load(["recipe=wavlm", *words[1:], "distill.interface_weight=0"], FAMILIES), MACHINE).pairs == 3
    if by != "fused":
        without = load([*words, "distill.source_weights.whisper=0"], FAMILIES)
        assert Load.of(without, MACHINE).pairs == pairs - 3
