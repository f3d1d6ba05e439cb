"""What every encoder promises: padding means nothing, frames lie on the grid, a frozen one never changes."""

import pytest
import torch
from torch import Tensor, nn

from distill.encoders.frozen import Frozen
from distill.features import SAMPLE_RATE, Encoder, shortest
from teachers.seamless import Adapted

LENGTHS = [16_000, 11_237, 4_999, 1_777]  # samples; none but the first a multiple of a hop
EXTRA = 3_210  # samples of padding behind the longest clip


def garbage_batch(clips: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Clips in one batch whose padding is loud and partly not a number."""
    lengths_B = torch.tensor([len(clip) for clip in clips])
    audio_BN = 1e3 * torch.randn(len(clips), max(LENGTHS) + EXTRA)
    audio_BN[:, -7:] = torch.nan
    for row, clip in zip(audio_BN, clips, strict=True):
        row[: len(clip)] = clip
    return audio_BN, lengths_B


def furthest(found_LTD: Tensor, wanted_LTD: Tensor) -> float:
    """The largest relative difference of a layer."""
    gap_L = (found_LTD - wanted_LTD).flatten(1).norm(dim=1) / wanted_LTD.flatten(1).norm(dim=1)
    return gap_L.max().item()


def alone(encoder: Encoder, clip: Tensor):
    with torch.no_grad():
        return encoder(clip[None], torch.tensor([len(clip)]))


def test_a_clip_sounds_the_same_alone_and_in_a_batch(encoder, noise):
    clips = [noise(samples) for samples in LENGTHS]
    with torch.no_grad():
        batch = encoder(*garbage_batch(clips))
    for index, clip in enumerate(clips):
        single = alone(encoder, clip)
        frames = int(single.lengths[0])
        assert batch.lengths[index] == frames
        assert furthest(batch.hidden[index, :, :frames], single.hidden[0, :, :frames]) < 1e-4


def test_padding_is_zero(encoder, noise):
    features = encoder(*garbage_batch([noise(samples) for samples in LENGTHS]))
    padding_BT = ~features.mask()
    assert padding_BT.any()
    assert (features.hidden.transpose(1, 2)[padding_BT] == 0).all()


def test_shapes_are_as_declared(encoder, noise):
    features = encoder(*garbage_batch([noise(samples) for samples in LENGTHS]))
    lengths_B = torch.tensor(LENGTHS)
    assert features.hidden.shape[:2] == (len(LENGTHS), encoder.layers)
    assert features.hidden.shape[3] == encoder.width
    assert features.hidden.shape[2] >= features.lengths.max()
    assert features.hidden.dtype == torch.float32
    assert features.grid == encoder.grid
    assert features.lengths.dtype == torch.int64
    assert torch.equal(features.lengths, encoder.frames(lengths_B))


def test_frames_agree_with_forward_around_every_step(encoder, noise):
    for samples in range(2_000, 2_000 + 330, 33):
        features = alone(encoder, noise(samples))
        assert features.hidden.shape[2] == encoder.frames(torch.tensor([samples]))[0] == features.lengths[0]


def test_a_burst_moves_the_frame_that_lies_over_it(encoder, noise):
    if isinstance(encoder, Adapted):
        pytest.skip("it has no layer before its attention; see test_families.py")
    clip = noise(16_000)
    quiet_TD = alone(encoder, clip).hidden[0, 0]
    burst_N = torch.hann_window(64) * torch.randn(64, generator=torch.Generator().manual_seed(0))
    for frame in {int(number * encoder.grid.rate / 50) for number in (9, 14, 20, 27, 35)}:
        middle = round(encoder.grid.centres(48)[frame].item() * SAMPLE_RATE)
        loud = clip.clone()
        loud[middle - 32 : middle + 32] += 0.5 * burst_N
        moved_T = (alone(encoder, loud).hidden[0, 0] - quiet_TD).norm(dim=1)
        assert moved_T.argmax() == frame


def test_the_shortest_clip_gives_one_frame_and_a_shorter_one_is_named(encoder, noise):
    least = shortest(encoder)
    assert alone(encoder, noise(least)).lengths[0] == 1
    audio_BN = torch.stack([noise(4_000), noise(4_000)])
    with pytest.raises(ValueError, match=rf"clip 1 .* {least - 1} samples .* below {least} samples"):
        encoder(audio_BN, torch.tensor([4_000, least - 1]))


def test_a_teacher_says_the_same_bits_twice_and_records_no_gradient(encoder, noise):
    teacher = Frozen(encoder)
    audio_BN, lengths_B = garbage_batch([noise(samples) for samples in LENGTHS])
    first, second = (teacher(audio_BN.requires_grad_(), lengths_B) for _ in range(2))
    assert torch.equal(first.hidden, second.hidden)
    assert not first.hidden.requires_grad
    assert not any(parameter.requires_grad for parameter in teacher.parameters())


def test_a_teacher_stays_in_eval_mode(encoder):
    teacher = Frozen(encoder.train())
    nn.ModuleList([teacher, nn.Dropout()]).train()
    teacher.train(True)
    assert not any(module.training for module in teacher.modules())


def test_a_teacher_has_the_shape_of_its_encoder(encoder, noise):
    teacher = Frozen(encoder)
    assert (teacher.grid, teacher.layers, teacher.width) == (encoder.grid, encoder.layers, encoder.width)
    assert torch.equal(alone(teacher, noise(9_000)).hidden, alone(encoder, noise(9_000)).hidden)


def test_what_a_student_learns_from_teacher_features_has_gradients(encoder, noise):
    head = nn.Linear(encoder.width, 3)
    head(Frozen(encoder)(noise(9_000)[None], torch.tensor([9_000])).hidden).sum().backward()
    assert head.weight.grad is not None
    assert head.weight.grad.abs().sum() > 0
