"""The published heads: parameters counted by hand, numbers equal to plain loops, padding means nothing."""

import numpy as np
import pytest
import torch
from heads import LENGTHS, WIDTH, frames, small
from spoken import make_clips
from torch import nn
from torch.nn import functional as F

from distill.tasks import SUPERB
from distill.tasks.superb import (
    LOST,
    Dictation,
    Masks,
    Multilingual,
    Phones,
    Pooled,
    Warp,
    XVector,
    positions,
)


def parameters(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def linear(inside: int, outside: int) -> int:
    return inside * outside + outside


def lstm(inside: int, hidden: int) -> int:
    return 2 * 4 * hidden * (inside + hidden + 2)  # both directions, four gates, two biases


def block(width: int, inner: int) -> int:
    return linear(width, 3 * width) + linear(width, width) + linear(width, inner) + linear(inner, width) + 4 * width


COUNTS = {
    "asr": linear(768, 1024) + lstm(1024, 1024) + lstm(2048, 1024) + linear(2048, 32),
    "pr": linear(768, 256) + linear(256, 32),
    "sid": linear(768, 256) + linear(256, 32),
    "er": linear(768, 256) + linear(256, 32),
    "sv": linear(768, 512)
    + linear(5 * 512, 512)
    + 2 * linear(3 * 512, 512)
    + linear(512, 512)
    + linear(512, 1500)
    + linear(3000, 512)
    + linear(512, 512)
    + 32 * 512,
    "ml-mono": linear(768, 80)
    + linear(9, 256)
    + linear(9 * 256, 256)
    + linear(37 * 256, 256)
    + linear(256, 32)
    + 2 * block(256, 1024)
    + 2 * 256,
}


@pytest.mark.parametrize("name", COUNTS)
def test_a_head_has_the_published_parameters(name):
    make = SUPERB[name].make
    with torch.device("meta"):
        assert parameters(make(768, 32)) == COUNTS[name]


@pytest.mark.parametrize("garbage", [0.0, 30.0])
@pytest.mark.parametrize("make", [Dictation, Phones, Pooled, XVector, Multilingual])
def test_a_clip_gives_the_same_alone_and_in_a_batch(make, garbage):
    head, (frames_BTD, lengths_B) = small(make), frames(garbage)
    together = head(frames_BTD, lengths_B)
    for clip, length in enumerate(LENGTHS):
        alone = head(frames_BTD[clip : clip + 1, :length], lengths_B[clip : clip + 1])
        for whole, one in zip(parts(together), parts(alone), strict=True):
            whole_T = whole[clip][: len(one[0])] if one.ndim > 1 else whole[clip]
            torch.testing.assert_close(whole_T, one[0], atol=2e-5, rtol=1e-4)


def parts(outputs) -> tuple[torch.Tensor, ...]:
    return tuple(outputs) if isinstance(outputs, tuple) else (outputs,)


def test_dictation_is_two_lstms_between_linears():
    head, (frames_BTD, _) = small(Dictation), frames(0.0)
    clip_TD = frames_BTD[0, : LENGTHS[0]]
    hidden_TH = clip_TD @ head.enter.weight.T + head.enter.bias
    for layer in (head.first, head.second):
        hidden_TH = torch.cat([recur(layer, hidden_TH, ""), recur(layer, hidden_TH.flip(0), "_reverse").flip(0)], 1)
    expected_TC = hidden_TH @ head.leave.weight.T + head.leave.bias
    got_TC = head(clip_TD[None], torch.tensor([len(clip_TD)]))[0]
    torch.testing.assert_close(got_TC, expected_TC, atol=1e-5, rtol=1e-4)


def recur(layer: nn.LSTM, inputs_TD: torch.Tensor, way: str) -> torch.Tensor:
    """One direction of an LSTM from its equations."""
    weight, recurrent = getattr(layer, f"weight_ih_l0{way}"), getattr(layer, f"weight_hh_l0{way}")
    bias = getattr(layer, f"bias_ih_l0{way}") + getattr(layer, f"bias_hh_l0{way}")
    state, cell, states = torch.zeros(layer.hidden_size), torch.zeros(layer.hidden_size), []
    for frame in inputs_TD:
        let, keep, new, out = (weight @ frame + recurrent @ state + bias).chunk(4)
        cell = keep.sigmoid() * cell + let.sigmoid() * new.tanh()
        state = out.sigmoid() * cell.tanh()
        states.append(state)
    return torch.stack(states)


def test_the_x_vector_is_spliced_linears_and_statistics():
    head, (frames_BTD, _) = small(XVector), frames(0.0)
    clip_TD = frames_BTD[1, : LENGTHS[1]]
    hidden_TH = head.enter(clip_TD)
    for delay, context, dilation in zip(head.delays, (5, 3, 3, 1, 1), (1, 2, 3, 1, 1), strict=True):
        reach = (context - 1) * dilation
        spliced = [
            torch.cat([hidden_TH[t + i * dilation] for i in range(context)]) for t in range(len(hidden_TH) - reach)
        ]
        kernel = delay.weight.transpose(1, 2).flatten(1)  # (out, context * in)
        hidden_TH = (torch.stack(spliced) @ kernel.T + delay.bias).relu()
    assert len(hidden_TH) == len(clip_TD) - LOST
    pooled = torch.cat([hidden_TH.mean(0), hidden_TH.std(0)])
    embedding = head.embed(pooled).relu()
    voices = head(clip_TD[None], torch.tensor([len(clip_TD)]))
    torch.testing.assert_close(voices.embedding_BE[0], F.normalize(embedding, dim=0), atol=1e-4, rtol=1e-4)
    trained = F.normalize(head.last(embedding).relu(), dim=0)
    cosines = torch.stack([trained @ F.normalize(speaker, dim=0) for speaker in head.speakers_SE])
    torch.testing.assert_close(voices.cosines_BS[0], cosines, atol=1e-4, rtol=1e-4)


def test_the_multilingual_head_halves_the_rate():
    head, (frames_BTD, _) = small(Multilingual), frames(0.0)
    clip_TD = frames_BTD[0, : LENGTHS[0]]
    out = head(clip_TD[None], torch.tensor([len(clip_TD)]))
    image = head.enter(clip_TD)[None, None]
    image = F.conv2d(
        F.conv2d(image, head.halve.weight, head.halve.bias, 2).relu(), head.smooth.weight, head.smooth.bias
    )
    hidden_SH = head.flat(image.relu()[0].permute(1, 0, 2).flatten(1)) * 16
    steps = [
        [np.sin(t / 10000 ** (i / 256)) if i % 2 == 0 else np.cos(t / 10000 ** ((i - 1) / 256)) for i in range(256)]
        for t in range(len(hidden_SH))
    ]
    hidden_SH = hidden_SH + torch.tensor(steps, dtype=torch.float32)
    for layer in head.blocks.layers:
        hidden_SH = hidden_SH + attend(layer.self_attn, layer.norm1(hidden_SH))
        hidden_SH = hidden_SH + layer.linear2(layer.linear1(layer.norm2(hidden_SH)).relu())
    expected_SC = head.leave(head.blocks.norm(hidden_SH))
    assert out.lengths_B.tolist() == [len(expected_SC)]
    torch.testing.assert_close(out.scores_BTC[0], expected_SC, atol=1e-4, rtol=1e-4)


def attend(attention: nn.MultiheadAttention, hidden_SH: torch.Tensor) -> torch.Tensor:
    """Scaled dot products, head by head."""
    query, key, value = (hidden_SH @ attention.in_proj_weight.T + attention.in_proj_bias).chunk(3, dim=1)
    size = hidden_SH.shape[1] // attention.num_heads
    heads = []
    for q, k, v in zip(query.split(size, 1), key.split(size, 1), value.split(size, 1), strict=True):
        heads.append((q @ k.T / size**0.5).softmax(1) @ v)
    return attention.out_proj(torch.cat(heads, 1))


def test_one_adam_step_is_that_of_the_equations():
    head, (frames_BTD, lengths_B) = small(Pooled), frames(0.0)
    before = [weight.detach().clone() for weight in head.parameters()]
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-4, weight_decay=0.0)
    F.cross_entropy(head(frames_BTD, lengths_B), torch.tensor([0, 1, 2])).backward()
    optimizer.step()
    for old, weight in zip(before, head.parameters(), strict=True):
        expected = old - 1e-4 * weight.grad / (weight.grad.abs() + 1e-8)  # Adam's first step: both moments corrected
        torch.testing.assert_close(weight.detach(), expected, atol=1e-7, rtol=1e-5)


def test_masks_hide_no_more_than_announced_and_each_clip_its_own():
    torch.manual_seed(0)
    ones_BTD = torch.ones(50, 200, 300)
    masked_BTD = Masks()(ones_BTD)
    hidden_times = (masked_BTD.sum(2) == 0).sum(1)
    hidden_channels = (masked_BTD.sum(1) == 0).sum(1)
    assert hidden_times.max() <= 80 and hidden_times.float().mean() > 20
    assert hidden_channels.max() <= 200 and hidden_channels.float().mean() > 50
    assert len({tuple(clip) for clip in (masked_BTD.sum(2) == 0).tolist()}) > 40, "every clip has its own"


def test_dictation_hears_masked_frames_in_training_alone():
    torch.manual_seed(0)
    head, (frames_BTD, lengths_B) = small(Dictation), frames(0.0)
    head.warp = Warp(0)
    heard: list[torch.Tensor] = []
    head.enter.register_forward_pre_hook(lambda module, given: heard.append(given[0]))
    head(frames_BTD, lengths_B)
    head.train()(frames_BTD, lengths_B)
    assert torch.equal(heard[0], frames_BTD) and not torch.equal(heard[1], frames_BTD)
    kept = heard[1] != 0
    assert torch.equal(heard[1][kept], frames_BTD[kept]), "what is not hidden is as it was"


def test_dictation_drops_out_in_training_alone():
    head, (frames_BTD, lengths_B) = small(Dictation), frames(0.0)
    head.masks = lambda frames_BTD: frames_BTD
    assert torch.equal(head(frames_BTD, lengths_B), head(frames_BTD, lengths_B))
    head.train()
    assert not torch.equal(head(frames_BTD, lengths_B), head(frames_BTD, lengths_B))


@pytest.mark.parametrize("length", [1, 3, 6, LOST + 1])
@pytest.mark.parametrize("make", [XVector, Multilingual])
def test_a_clip_too_short_for_the_convolutions_is_filled_up(make, length):
    head, (frames_BTD, lengths_B) = small(make), frames(0.0)
    lengths_B[1] = length
    together = parts(head(frames_BTD, lengths_B))
    alone = parts(head(frames_BTD[1:2, :length], lengths_B[1:2]))
    for whole, one in zip(together, alone, strict=True):
        own = whole[1][: len(one[0])] if one.ndim > 1 else whole[1]
        assert bool(own.isfinite().all())
        torch.testing.assert_close(own, one[0], atol=2e-5, rtol=1e-4)


def test_positions_are_sines_and_cosines():
    angles = positions(5, 6, torch.device("cpu"))
    assert angles[0].tolist() == [0, 1, 0, 1, 0, 1]
    assert angles[3, 2].item() == pytest.approx(np.sin(3 / 10000 ** (2 / 6)), abs=1e-6)


@pytest.mark.parametrize("name", ["asr", "pr", "sid", "sv", "er", "ml-mono", "ml-multi"])
def test_every_head_learns(name):
    """A few steps lower the loss of a few clips."""
    torch.manual_seed(0)
    heard = make_clips(
        transcript=["a b", "ba", "abab"],
        phones=["a b", "b a", "a"],
        speaker=["x", "y", "z"],
        style=["p", "q", "p"],
        language=["en", "en", "en"],
    )
    task = SUPERB[name].prepare(heard)
    head = Dictation(WIDTH, 1 + len(task.vocabulary), 16) if name == "asr" else task.head(WIDTH)
    frames_BTD, lengths_B = frames(0.0)
    optimizer, losses = torch.optim.AdamW(head.parameters(), lr=3e-3, weight_decay=0.0), []
    for _ in range(20):
        total, count = task.loss(head(frames_BTD, lengths_B), lengths_B, task.targets(heard), 0.5)
        losses.append(total.item() / count)
        optimizer.zero_grad()
        (total / count).backward()
        optimizer.step()
    assert losses[-1] < 0.9 * losses[0]
