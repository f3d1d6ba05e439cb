"""Codes: codebooks find the clusters there are, keep more with more bytes, and are learned to be told."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from distill.features import Grid
from distill.supervision.codes import CODES, Codebooks, Codes, k_means, learn_codebooks, nearest
from distill.supervision.coding import NONE, CodeDistillation, CodeDistiller, at_frames

GRID = Grid(50.0, 0.0125)


@pytest.fixture(scope="module")
def frames() -> torch.Tensor:
    """Two layers of 16 correlated features."""
    torch.manual_seed(0)
    return torch.randn(3000, 2, 6) @ torch.randn(6, 16) + 0.1 * torch.randn(3000, 2, 16)


@pytest.fixture(scope="module")
def books(frames) -> Codebooks:
    return learn_codebooks(frames[:2500], 3, 0)


def test_as_many_points_as_centres_are_found_exactly():
    torch.manual_seed(0)
    clusters_ND = torch.randn(CODES, 8)
    points_LFD = torch.stack([clusters_ND[torch.randperm(CODES)], 3 * clusters_ND])
    centres = k_means(points_LFD, torch.Generator().manual_seed(0))
    assert torch.equal(torch.sort(nearest(points_LFD, centres)).values[0], torch.arange(CODES))
    assert torch.allclose(centres.sum(1), points_LFD.sum(1), atol=1e-3)


def test_the_nearest_centre_is_the_nearest():
    torch.manual_seed(0)
    points, centres = torch.randn(2, 50, 5), torch.randn(2, CODES, 5)
    assert torch.equal(nearest(points, centres), torch.cdist(points, centres).argmin(2))


def test_more_codebooks_keep_more(frames):
    kept = [float(learn_codebooks(frames[:2500], n, 0).explained_variance(frames[2500:]).mean()) for n in (1, 2, 4)]
    assert 0.7 < kept[0] < 0.9 < kept[1] < 0.97 < kept[2] < 1  # each has to code what is left, not all again


def test_explained_variance_is_of_what_is_unpacked(frames, books):
    back_LFD = books.unpack(books.pack(frames[2500:])[None])[0]
    error = (back_LFD.transpose(0, 1) - frames[2500:]).square().mean((0, 2))
    variance = frames[2500:].var(0, unbiased=False).mean(1)
    assert torch.allclose(books.explained_variance(frames[2500:]), 1 - error / variance, atol=1e-4)


def test_a_frame_takes_a_byte_for_each_codebook_and_layer(frames, books):
    packed = books.pack(frames[:7])
    assert packed.shape == (7, books.width) == (7, 6) and packed.dtype == torch.uint8
    split_BLTC = books.split(packed[None])
    assert split_BLTC.shape == (1, 2, 7, 3)
    assert torch.equal(split_BLTC[0, 1, 4], packed[4, 3:])


def test_a_seed_gives_the_same_codebooks_and_a_file_keeps_them(frames, books, tmp_path):
    again = learn_codebooks(frames[:2500], 3, 0)
    assert torch.equal(again.centres, books.centres)
    assert not torch.equal(learn_codebooks(frames[:300], 1, 0).centres, learn_codebooks(frames[:300], 1, 1).centres)
    books.save(tmp_path / "books.safetensors")
    loaded = Codebooks.load(tmp_path / "books.safetensors")
    assert torch.equal(loaded.pack(frames), books.pack(frames))
    assert [path.name for path in tmp_path.iterdir()] == ["books.safetensors"]


def test_codebooks_that_are_there_already_stay(frames, books, tmp_path):
    """Another run may have coded with them."""
    path, other = tmp_path / "books.safetensors", learn_codebooks(frames, 2, 1)
    other.save(path)
    books.save(path)
    assert torch.equal(Codebooks.load(path).centres, other.centres) and list(tmp_path.iterdir()) == [path]


def test_fewer_frames_than_centres_are_kept_exactly(frames):
    few = learn_codebooks(frames[:40], 1, 0)
    assert float(few.explained_variance(frames[:40]).min()) > 0.999


def test_codes_are_those_of_the_nearest_frame():
    index = torch.arange(12, dtype=torch.uint8).view(1, 1, 6, 2)
    codes = Codes(index, torch.tensor([6]), GRID)
    same = at_frames(codes, GRID, torch.tensor([6]), 6)
    assert torch.equal(same, index.long())
    shifted = at_frames(codes, replace(GRID, first=GRID.first + 0.7 * 0.02), torch.tensor([4]), 7)
    assert shifted[0, 0, :4].tolist() == index[0, 0, 1:5].tolist()
    assert (shifted[0, 0, 4:] == NONE).all()


@pytest.fixture
def heard(build_tiny_student, noise):
    """A student, a batch of two clips, and codes for two targets."""
    student = build_tiny_student().eval()
    lengths_B = torch.tensor([8000, 5000])
    audio_BN = F.pad(noise(8000)[None], (0, 0)).repeat(2, 1)
    frames_B = student.frames(lengths_B)
    torch.manual_seed(0)
    index = torch.randint(0, CODES, (2, 2, int(frames_B.max()), 3), dtype=torch.uint8)
    torch.manual_seed(0)
    distiller = CodeDistiller(student, [1, 2], 3, [0.25, 2.0])
    return distiller, audio_BN, lengths_B, Codes(index, frames_B, student.grid)


def test_the_loss_is_the_cross_entropy_of_valid_frames(heard):
    distiller, audio_BN, lengths_B, codes = heard
    out = distiller(audio_BN, lengths_B, codes)
    hidden = distiller.student(audio_BN, lengths_B).hidden
    expected = torch.zeros(())
    for number, (layer, weight) in enumerate(((1, 0.25), (2, 2.0))):
        for clip, frames in enumerate(codes.lengths.tolist()):
            logits = distiller.heads[number](hidden[clip, layer, :frames]).view(frames, 3, CODES)
            wanted = codes.index[clip, number, :frames].long()
            expected = expected + weight * -logits.log_softmax(2).gather(2, wanted[..., None]).mean((1, 2)).sum()
    assert torch.allclose(out.loss_sum, expected, rtol=1e-4)
    assert int(out.count) == int(codes.lengths.sum())


def test_codes_of_doubted_sources_weigh_as_one_over_their_loss(heard):
    """Two sources of one layer each and a third layer that is of none, whose loss counts as it is told."""
    told, audio_BN, lengths_B, codes = heard
    codes = replace(codes, index=torch.cat([codes.index, codes.index[:, :1]], 1))
    plain, model = (CodeDistiller(told.student, [1, 2, 2], 3, [0.5, 0.5, 2.0], 1, own) for own in ((), (1, 1)))
    plain.load_state_dict(model.state_dict(), strict=False)
    before, equal = model(audio_BN, lengths_B, codes), plain(audio_BN, lengths_B, codes)
    torch.testing.assert_close(before.loss_sum, equal.loss_sum)
    losses_K = equal.losses_K / equal.count
    with torch.no_grad():
        model.doubts.copy_(losses_K[:2].log())
    after = model(audio_BN, lengths_B, codes)
    expected = (0.5 * (1 + losses_K[:2].log())).sum() + 2.0 * losses_K[2]
    torch.testing.assert_close(after.loss_sum / after.count, expected)
    (slope_G,) = torch.autograd.grad(after.loss_sum / after.count, [model.doubts])
    torch.testing.assert_close(slope_G, torch.zeros(2), atol=1e-5, rtol=0)
    assert torch.equal(after.losses_K, equal.losses_K), "the log knows no doubts"


def test_a_student_of_half_the_frames_tells_all_codes(build_tiny_student):
    student = build_tiny_student(halved=True).eval()
    audio_BN, lengths_B = 0.1 * torch.randn(1, 16_000), torch.tensor([16_000])
    hidden = student(audio_BN, lengths_B).hidden
    distiller, frames = CodeDistiller(student, [2], 3, [1.0], 2), 2 * hidden.shape[2]
    index = torch.randint(0, CODES, (1, 1, frames, 3), dtype=torch.uint8)
    out = distiller(audio_BN, lengths_B, Codes(index, torch.tensor([frames]), student.grid.finer(2)))
    logits = distiller.heads[0](hidden[0, 2]).view(frames, 3, CODES).log_softmax(2)
    expected = -logits.gather(2, index[0, 0, ..., None].long()).mean((1, 2)).sum()
    torch.testing.assert_close(out.loss_sum, expected)
    assert int(out.count) == frames


def test_codes_in_the_padding_change_nothing(heard):
    distiller, audio_BN, lengths_B, codes = heard
    other = codes.index.clone()
    other[1, :, int(codes.lengths[1]) :] += 1
    before, after = distiller(audio_BN, lengths_B, codes), distiller(audio_BN, lengths_B, replace(codes, index=other))
    assert torch.equal(before.loss_sum, after.loss_sum) and torch.equal(before.right_K, after.right_K)


def test_the_log_says_what_share_is_told_right(heard):
    distiller, audio_BN, lengths_B, codes = heard
    out = distiller(audio_BN, lengths_B, codes)
    hidden = distiller.student(audio_BN, lengths_B).hidden
    told = torch.stack(
        [head(hidden[:, n + 1]).unflatten(2, (3, CODES)).argmax(3) for n, head in enumerate(distiller.heads)]
    )
    valid = torch.arange(told.shape[2]) < codes.lengths[:, None]
    right_K = (told.transpose(0, 1) == codes.index).float().mean(3).transpose(0, 1)[:, valid].mean(1)
    counts = torch.stack([out.loss_sum.detach().double(), out.count.double()])
    read = CodeDistillation(None, None, None, ["1", "interface"]).read(  # pyright: ignore[reportArgumentType]
        torch.cat([counts, out.losses_K.double(), out.right_K.double()])
    )
    assert read["code_accuracy_1"] == pytest.approx(float(right_K[0]), abs=1e-6)
    assert next(iter(read)) == "code_accuracy"
    assert read["loss"] == pytest.approx(0.25 * read["cross_entropy_1"] + 2 * read["cross_entropy_interface"], rel=1e-5)
