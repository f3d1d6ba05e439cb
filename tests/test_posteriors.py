"""What the teacher's task heads make of the student: compared with clips heard alone and a reference of torch's."""

from dataclasses import replace

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from distill.features import Features, Grid, zero_padding
from distill.fusion import align_time
from distill.supervision.posteriors import Posteriors, divergence
from distill.tasks import TASKS
from distill.tasks.asr import Spelled
from distill.tasks.superb import Multilingual
from distill.teacher import FusedTeacher

GRID, WIDTH = Grid(50.0, 0.01), 32
FRAMES = torch.tensor([21, 9, 14])
VOCABULARY = {"asr": tuple("abc"), "sv": ("ada", "bo", "cy", "di"), "er": ("calm", "glad"), "lid": ("de", "en", "fr")}


@pytest.fixture
def posteriors(build_tiny_student) -> Posteriors:
    """Random heads over an interface's output of 32 features on scales of its own, one of which is dead."""
    torch.manual_seed(0)
    teacher = FusedTeacher({"one": build_tiny_student(width=WIDTH)}, "sum", 0, "weighted_sum", 0)
    teacher.summarise.mean.normal_()
    teacher.summarise.std.uniform_(0.5, 2.0)[0, 3] = torch.inf
    tasks = [replace(TASKS[name], vocabulary=words) for name, words in VOCABULARY.items()]
    heads = torch.nn.ModuleDict({task.name: task.head(WIDTH) for task in tasks})
    return Posteriors(teacher, tasks, heads.state_dict(), 1.0)


def output(seed: int, frames_B: torch.Tensor = FRAMES, grid: Grid = GRID) -> Features:
    hidden = torch.randn(len(frames_B), 1, int(frames_B.max()), WIDTH, generator=torch.Generator().manual_seed(seed))
    return Features(zero_padding(hidden, frames_B), frames_B, grid)


def test_divergences_are_those_of_each_clip_alone(posteriors):
    """By hand: scales undone, no padding, torch's own divergence."""
    told, wanted = output(0), output(1)
    found = dict(zip(VOCABULARY, posteriors(told, wanted).tolist(), strict=True))
    std = posteriors.scale.std.nan_to_num(posinf=0.0)
    expected = dict.fromkeys(VOCABULARY, 0.0)
    for clip, length in enumerate(FRAMES.tolist()):
        told_1TD, wanted_1TD = (
            (part.hidden[clip, :, :length] * std + posteriors.scale.mean) for part in (told, wanted)
        )
        for name, head in posteriors.heads.items():
            said = [head(part, torch.tensor([length])) for part in (told_1TD, wanted_1TD)]
            if name == "sv":
                said = [30.0 * voices.cosines_BS for voices in said]
            ours, theirs = (Categorical(logits=logits[0]) for logits in said)
            expected[name] += float(kl_divergence(theirs, ours).sum())
    assert found == pytest.approx(expected, rel=1e-3)
    assert min(found.values()) > 0


def test_padding_means_nothing(posteriors):
    told, wanted = output(0), output(1)
    clean = posteriors(told, wanted)
    padding = ~told.mask()[:, None, :, None]
    dirty = [replace(part, hidden=part.hidden.masked_fill(padding, 1e9)) for part in (told, wanted)]
    assert torch.equal(posteriors(*dirty), clean)


def test_parts_of_a_batch_add_up_to_it(posteriors):
    told, wanted = output(0), output(1)

    def part(features: Features, clips: list[int]) -> Features:
        frames = int(features.lengths[clips].max())
        return Features(features.hidden[clips, :, :frames], features.lengths[clips], GRID)

    parts = [posteriors(part(told, clips), part(wanted, clips)) for clips in ([0], [1, 2])]
    torch.testing.assert_close(parts[0] + parts[1], posteriors(told, wanted))
    assert posteriors.counts(44, 3).tolist() == [44.0, 3.0, 3.0, 3.0]


def test_a_student_that_tells_the_teachers_output_has_its_posteriors_too(posteriors):
    wanted = output(1)
    torch.testing.assert_close(posteriors(wanted, wanted), torch.zeros(4))


def test_only_what_the_student_tells_gets_a_gradient(posteriors):
    told, wanted = output(0), output(1)
    told.hidden.requires_grad_()
    wanted.hidden.requires_grad_()
    posteriors(told, wanted).sum().backward()
    assert told.hidden.grad is not None and wanted.hidden.grad is None
    assert told.hidden.grad[0, 0, :, :3].abs().min() > 0
    assert not told.hidden.grad[..., 3].any(), "a dead channel is at its mean whatever is told"
    assert not told.hidden.grad.transpose(1, 2)[~told.mask()].any()
    assert not any(weight.requires_grad for weight in posteriors.parameters())
    assert not any(module.training for module in posteriors.modules())


def test_a_student_of_other_frames_is_heard_on_the_teachers(posteriors):
    half = Grid(25.0, 0.02)
    told, wanted = output(0, (FRAMES + 1) // 2, half), output(1)
    there = align_time(told, GRID, FRAMES)
    found, expected = posteriors(told, wanted), posteriors(there, wanted)
    torch.testing.assert_close(found[1:], expected[1:])
    assert 0.4 < float(found[0] / expected[0]) < 0.7, "counted by its own frames"


def test_a_head_with_frames_of_its_own_is_averaged_over_them():
    torch.manual_seed(0)
    head, frames_BTD = Multilingual(WIDTH, 5).eval(), torch.randn(2, 40, WIDTH)
    task = replace(TASKS["asr"], vocabulary=tuple("abcd"))
    lengths_B = torch.tensor([40, 25])
    logits, own_B = task.logits(head(frames_BTD, lengths_B), lengths_B)
    assert own_B.tolist() == [17, 10]
    expected = [
        kl_divergence(Categorical(torch.full((5,), 0.2)), Categorical(logits=one[:n])).mean()
        for one, n in zip(logits, own_B.tolist(), strict=True)
    ]
    torch.testing.assert_close(divergence(logits, torch.zeros_like(logits), own_B), torch.stack(expected))
    assert isinstance(head(frames_BTD, lengths_B), Spelled)
