"""What the student hears less of than its teacher: masked frames and noise, drawn anew in every pass."""

import numpy as np
import pytest
import torch
from conftest import tiny_student

from distill.features import SAMPLE_RATE, Features, frame_mask
from distill.harder import QUIET, Masking, Noise, Room, Surroundings, coloured, convolved, responses
from students.export import export, open_student

LENGTHS = torch.tensor([16_000, 9_000, 12_000])


def batch() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    audio_BN = torch.randn(3, 16_000, generator=generator) * torch.tensor([[0.1], [0.5], [0.02]])
    return audio_BN * frame_mask(LENGTHS, 16_000)


@pytest.mark.parametrize(("share", "span"), [(0.5, 10), (0.2, 1), (0.65, 4)])
def test_the_share_of_masked_frames_is_the_share_asked_for(share, span):
    torch.manual_seed(0)
    mask = Masking(share, span).draw(torch.full((400,), 100), 100)
    assert float(mask.float().mean()) == pytest.approx(share, abs=0.015)
    assert float(mask[:, 0].float().mean()) == pytest.approx(share, abs=0.09), "at the edges too"
    padded = Masking(share, span).draw(torch.tensor([30, 100]), 100)
    assert not padded[0, 30:].any()


def test_masks_come_in_spans():
    torch.manual_seed(0)
    mask = Masking(0.1, 7).draw(torch.full((50,), 200), 200).float()
    edges = mask.diff(dim=1, prepend=mask[:, :1])
    for clip, edge in zip(mask, edges, strict=True):
        for begin in (edge == 1).nonzero().flatten().tolist():
            assert clip[begin : begin + 7].all(), "no span is shorter but at an end"


def test_no_share_is_no_noise():
    assert QUIET.over(batch(), LENGTHS) is not None and torch.equal(QUIET.over(batch(), LENGTHS), batch())


def test_noise_lies_at_the_ratio_asked_for_and_leaves_padding_alone():
    torch.manual_seed(0)
    clean, mask = batch(), frame_mask(LENGTHS, 16_000)
    dirty, seen = torch.where(mask, clean, 100.0), []  # what stands in the padding is not heard
    for _ in range(20):
        added = Noise(1.0, 3.0, 9.0).over(dirty, LENGTHS) - dirty
        assert not added[~mask].any()
        seen.append(10 * torch.log10(clean.square().sum(1) / added.square().sum(1)))
    ratios = torch.stack(seen)
    assert 3.0 - 0.01 <= float(ratios.min()) < 4.5 and 7.5 < float(ratios.max()) <= 9.0 + 0.01


def test_noise_comes_to_a_share_of_the_clips_and_is_at_times_another_clip():
    torch.manual_seed(0)
    clean = batch().repeat(40, 1)
    lengths = LENGTHS.repeat(40)
    added = Noise(0.5, 0.0, 0.0).over(clean, lengths) - clean
    noisy = added.abs().sum(1) > 0
    assert 0.35 < float(noisy.float().mean()) < 0.65
    other = clean.roll(1, 0) * frame_mask(lengths, 16_000)
    alike = torch.cosine_similarity(added, other, dim=1)[noisy]
    speech = alike > 0.99
    assert 0.3 < float(speech.float().mean()) < 0.7 and float(alike[~speech].abs().max()) < 0.2


def test_a_room_convolves_each_clip_and_leaves_its_sounds_in_place():
    torch.manual_seed(0)
    clean, response = batch()[:, :300], responses(torch.tensor([0.02, 0.03, 0.02]), 200)
    heard = convolved(clean, response)
    for clip, (audio, own) in enumerate(zip(clean.numpy(), response.numpy(), strict=True)):
        assert np.allclose(heard[clip], np.convolve(audio, own)[:300], atol=1e-5)
    assert (response[:, 0] == 1).all(), "direct sound comes at once"
    pulse = Room(1.0, 0.3, 0.3).over(torch.eye(2, 4000)[:, torch.arange(4000).roll(1000)], torch.tensor([4000, 4000]))
    assert pulse.abs().argmax(1).tolist() == [1000, 1001] and float(pulse[:, :1000].abs().max()) < 1e-6


def test_a_rooms_tail_falls_by_60_decibels_in_the_time_drawn():
    torch.manual_seed(0)
    response = responses(torch.full((200,), 0.25), 4000)[:, 1:]
    early, late = (10 * torch.log10(response[:, part].square().mean()) for part in (slice(0, 500), slice(2000, 2500)))
    assert float(early - late) == pytest.approx(60 * 2000 / SAMPLE_RATE / 0.25, abs=0.5)
    energy = responses(torch.full((200,), 0.25), 4000)[:, 1:].norm(dim=1)
    assert 0.3 <= float(energy.min()) < 0.4 and 0.9 < float(energy.max()) <= 1.0


def test_a_room_keeps_energy_and_padding_and_comes_to_a_share_of_the_clips():
    torch.manual_seed(0)
    clean, lengths = batch().repeat(40, 1), LENGTHS.repeat(40)
    heard = Room(0.5, 0.1, 0.6).over(clean, lengths)
    assert not heard[~frame_mask(lengths, 16_000)].any()
    torch.testing.assert_close(heard.square().sum(1), clean.square().sum(1))
    changed = (heard != clean).any(1)
    assert 0.35 < float(changed.float().mean()) < 0.65
    assert torch.equal(Room(0.0, 0.1, 0.6).over(clean, lengths), clean)


def test_noise_comes_after_the_room_and_a_seed_gives_both_again():
    both = Surroundings(Room(1.0, 0.1, 0.6), Noise(1.0, 3.0, 3.0))
    torch.manual_seed(0)
    heard = both.over(batch(), LENGTHS)
    torch.manual_seed(0)
    there = both.room.over(batch(), LENGTHS)
    assert torch.equal(both.noise.over(there, LENGTHS), heard)
    added = (heard - there).square().sum(1) / there.square().sum(1)
    torch.testing.assert_close(-10 * torch.log10(added), torch.full((3,), 3.0))


def test_one_clip_alone_gets_noise_and_not_itself():
    torch.manual_seed(0)
    clean, length = batch()[:1], LENGTHS[:1]
    for _ in range(10):
        added = Noise(1.0, 0.0, 0.0).over(clean, length) - clean
        assert float(torch.cosine_similarity(added, clean).abs()) < 0.2


def test_coloured_noise_is_not_white():
    torch.manual_seed(0)
    power = torch.fft.rfft(coloured(torch.zeros(200, 4096))).abs().square()
    slopes = power[:, 30:200].mean(1) / power[:, 1000:].mean(1)
    assert float(slopes.median()) > 3
    assert float(slopes.min()) < 1.5 and float(slopes.max()) > 20, "every clip has its own colour"


def hear(student, audio: torch.Tensor, lengths: torch.Tensor, seed: int) -> Features:
    torch.manual_seed(seed)
    return student(audio, lengths)


def test_a_student_is_masked_while_it_learns_and_only_then(tmp_path):
    student, audio = tiny_student(masking=Masking(0.5, 5)), batch()
    one, same, other = (hear(student, audio, LENGTHS, seed).hidden for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other), "drawn anew, by the seed"
    one.square().sum().backward()
    assert bool(student.model.masked_spec_embed.grad.any())
    whole = student.eval()(audio, LENGTHS).hidden
    assert torch.equal(whole, hear(student, audio, LENGTHS, 3).hidden)
    export(student, {}, tmp_path / "student", "card")
    found = open_student(tmp_path / "student")
    assert torch.equal(found(audio, LENGTHS).hidden, whole)
    found.train()(audio, LENGTHS)  # nothing is masked behind the back of who trains it on


def test_masked_frames_hear_nothing_of_themselves():
    """The front end's output of a masked frame is replaced before the first block."""
    student, audio = tiny_student(masking=Masking(0.5, 5)), batch()
    seen = []
    layer = student.model.encoder.layers[0]
    student.model.encoder.pos_conv_embed.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    torch.manual_seed(1)
    mask = student.masking.draw(student.frames(LENGTHS), int(student.frames(torch.tensor(16_000))))
    torch.manual_seed(1)
    student(audio, LENGTHS)
    assert layer is not None and bool(mask.any())
    embedding = student.model.masked_spec_embed
    torch.testing.assert_close(seen[0][mask], embedding.expand(int(mask.sum()), -1))
    assert (
        not torch.isclose(seen[0][~mask & frame_mask(student.frames(LENGTHS), mask.shape[1])], embedding).all(1).any()
    )
