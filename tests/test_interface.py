"""HConv against the published plan and a slow implementation; the weighted sum."""

import pytest
import torch
from torch import Tensor

from distill.features import parameters
from distill.interface import INTERFACES, Gumbel, HConv, WeightedSum, layer_axis
from distill.limits import RecipeError
from distill.loading import load
from teachers import FAMILIES

PUBLISHED = [  # layers, width, layer axis, output, millions of parameters
    (13, 768, [13, 5, 2], 768, 4.42),
    (25, 1024, [25, 9, 3], 1023, 6.99),
    (33, 1280, [33, 11, 4, 2], 1280, 20.48),
    (9, 768, [9, 3, 1], 768, 5.90),
    (7, 512, [7, 3], 510, 0.44),
    (5, 384, [5, 2], 384, 0.37),
]


@pytest.mark.parametrize(("layers", "width", "axis", "output", "millions"), PUBLISHED)
def test_hconv_follows_the_published_plan(layers, width, axis, output, millions):
    interface = HConv(layers, width)
    assert layer_axis(layers) == axis and len(interface.convs) == len(axis) - 1
    assert interface.width == output
    assert round(parameters(interface) / 1e6, 2) == millions
    assert interface(torch.zeros(1, layers, 2, width)).shape == (1, 2, output)


@pytest.mark.parametrize(("layers", "convolutions"), [(3, 1), (8, 1), (9, 2), (242, 4), (243, 5), (729, 6)])
def test_the_number_of_convolutions_is_exact(layers, convolutions):
    assert len(layer_axis(layers)) - 1 == convolutions


def slow_hconv(interface: HConv, frame_LD: Tensor) -> Tensor:
    """One frame, loops over convolutions, layers and taps."""
    rows = list(frame_LD)
    for conv in interface.convs:
        out = []
        for centre in range(0, len(rows), 3):
            value = conv.bias.clone()
            for tap in range(5):
                layer = centre + tap - 2
                if 0 <= layer < len(rows):
                    value = value + conv.weight[:, :, tap] @ rows[layer]
            out.append(value.clamp(min=0.0))
        rows = out
    return torch.stack([row[channel] for channel in range(len(rows[0])) for row in rows])  # channels outer


@pytest.mark.parametrize(("layers", "width"), [(3, 4), (5, 6), (7, 8), (13, 7), (27, 5)])
def test_hconv_equals_a_slow_implementation(layers, width):
    torch.manual_seed(0)
    interface, hidden = HConv(layers, width), torch.randn(2, layers, 3, width)
    slow = [[slow_hconv(interface, hidden[clip, :, frame]) for frame in range(3)] for clip in range(2)]
    expected = torch.stack([torch.stack(clip) for clip in slow])
    assert expected.any()
    torch.testing.assert_close(interface(hidden), expected)
    strided = hidden.transpose(1, 2).contiguous().transpose(1, 2)
    torch.testing.assert_close(interface(strided), expected)


def test_hconv_passes_gradients_like_a_slow_implementation():
    torch.manual_seed(0)
    interface, hidden = HConv(5, 6), torch.randn(1, 5, 1, 6, requires_grad=True)
    leaves = [hidden, *interface.parameters()]
    fast = torch.autograd.grad(interface(hidden).square().sum(), leaves)
    slow = torch.autograd.grad(slow_hconv(interface, hidden[0, :, 0]).square().sum(), leaves)
    for mine, theirs in zip(fast, slow, strict=True):
        torch.testing.assert_close(mine, theirs)


def test_every_frame_is_heard_alone():
    torch.manual_seed(0)
    hidden = torch.randn(3, 5, 7, 6)
    for interface in (HConv(5, 6), WeightedSum(5, 6), Gumbel(5, 6).eval()):
        torch.testing.assert_close(interface(hidden)[1:2, 2:3], interface(hidden[1:2, :, 2:3]))


def test_hconv_takes_no_two_layers():
    with pytest.raises(ValueError, match="got 2; use weighted_sum"):
        HConv(2, 8)


THIN = ["student.layers=1", "distill.layers=1"]
FLAT = ["teacher.depth.wavlm=1", "teacher.depth.whisper=1", "evaluate.interface=weighted_sum"]


@pytest.mark.parametrize(
    ("words", "key", "way"),
    [(THIN, "student.layers=1", "evaluate.interface"), (FLAT, "teacher.depth.wavlm=1", "teacher.interface")],
)
def test_a_recipe_that_lets_hconv_take_two_layers_is_refused_by_its_keys(words, key, way):
    words = ["recipe=wavlm+whisper", *words]
    with pytest.raises(RecipeError, match=f"^{key} gives a stack of 2 layers, which {way}=hconv cannot take.*{way}=w"):
        load(words, FAMILIES)
    load([*words, f"{way}=weighted_sum"], FAMILIES)
    load([*words, f"{key[:-1]}2"], FAMILIES)


@pytest.mark.parametrize("name", INTERFACES)
def test_one_layer_is_passed_through(name):
    interface, hidden = INTERFACES[name](1, 6), torch.randn(2, 1, 4, 6)
    assert interface.width == 6 and torch.equal(interface(hidden), hidden[:, 0])


def test_the_weighted_sum_starts_as_the_mean_and_weighs_by_softmax():
    interface, hidden = WeightedSum(4, 6), torch.randn(2, 4, 3, 6)
    assert parameters(interface) == 4 and interface.width == 6
    torch.testing.assert_close(interface(hidden), hidden.mean(1))
    with torch.no_grad():
        interface.scores.copy_(torch.tensor([0.0, 1.0, 2.0, 3.0]))
    weights = [2.718281828**score / 31.19287485 for score in range(4)]
    expected = sum(weight * layer for weight, layer in zip(weights, hidden.unbind(1), strict=True))
    torch.testing.assert_close(interface(hidden), expected)


def test_gumbel_takes_every_feature_from_the_layer_of_its_highest_score():
    interface, hidden = Gumbel(4, 6).eval(), torch.randn(2, 4, 3, 6)
    torch.nn.init.normal_(interface.scores)
    best = interface.scores.argmax(0).tolist()
    expected = torch.stack([hidden[:, layer, :, feature] for feature, layer in enumerate(best)], -1)
    assert len(set(best)) > 1 and torch.equal(interface(hidden), expected)


def test_gumbel_draws_layers_by_their_scores_while_it_learns():
    torch.manual_seed(0)
    interface, hidden = Gumbel(3, 2000).train(), torch.randn(1, 3, 1, 2000, requires_grad=True)
    share = torch.tensor([0.6, 0.3, 0.1])
    with torch.no_grad():
        interface.scores.copy_(share.log()[:, None].expand(3, 2000))
    heard = interface(hidden)
    taken = torch.isclose(heard, hidden[:, :, 0]).float()[0]
    assert (taken.sum(0) == 1).all(), "one layer each"
    torch.testing.assert_close(taken.mean(1), share, atol=0.04, rtol=0)
    heard.square().sum().backward()
    assert bool(interface.scores.grad.any()), "scores learn"
