"""Encoders of few frames a second: tasks that score each frame are given enough of them, the others are left alone."""

from dataclasses import replace

import pytest
import torch

from distill.probe import Probe
from distill.tasks import TASKS

LENGTHS = torch.tensor([9, 6])


@pytest.mark.parametrize(("rate", "times"), [(100.0, 1), (50.0, 1), (49.0, 1), (25.0, 2), (6.25, 8)])
def test_a_head_that_spells_gets_fifty_frames_a_second(rate, times):
    task = replace(TASKS["asr"], vocabulary=tuple("abc"))
    hidden = torch.randn(2, 3, 9, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    probe, plain = Probe(task, "hconv", 3, 8, rate), Probe(task, "hconv", 3, 8, 50.0)
    plain.load_state_dict(probe.state_dict())
    logits, own_B = task.logits(probe(hidden, LENGTHS), LENGTHS)
    again = torch.cat([hidden[:, :, t : t + 1] for t in range(9) for _ in range(times)], 2)
    assert torch.equal(logits, plain(again, LENGTHS * times))
    assert torch.equal(own_B, LENGTHS * times)


def test_a_text_of_more_letters_than_frames_can_be_learned():
    task = replace(TASKS["asr"], vocabulary=tuple("abc"))
    hidden, target = torch.randn(1, 3, 9, 8), [torch.tensor([1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2])]
    losses = []
    for rate in (50.0, 25.0):
        torch.manual_seed(0)
        outputs = Probe(task, "hconv", 3, 8, rate)(hidden, LENGTHS[:1])
        losses.append(float(task.loss(outputs, LENGTHS[:1], target, 0.9)[0].detach()))
    assert losses[0] == 0.0 < losses[1], "CTC passes over a clip with fewer frames than it needs"


def test_a_label_of_the_clip_needs_no_more_frames():
    task = replace(TASKS["lid"], vocabulary=("de", "en"))
    assert Probe(task, "hconv", 3, 8, 6.25).times == 1
