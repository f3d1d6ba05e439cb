"""Targets behind one door: heard now, in memory, on the disk or as codes, they are the same targets."""

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import soundfile
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from miniature import Miniature, Moment
from safetensors import safe_open

from distill.data.batches import Batch
from distill.data.clips import Clips, pad
from distill.distillation import Distillation, look
from distill.encoders.frames import bytes_of
from distill.encoders.frozen import Frozen
from distill.encoders.waveform import Waveform
from distill.features import SAMPLE_RATE, Features
from distill.fusion import align_time
from distill.recipe import Distill
from distill.supervision.caching import StoreError, open_store
from distill.supervision.identity import corpus_digest, module_digest
from distill.supervision.packing import Float16
from distill.supervision.targets import Supervision, cached, codes, identity, memory, online
from distill.teacher import FusedTeacher

CPU, SECONDS = torch.device("cpu"), 5.0


def speak(change: Callable[[int, np.ndarray], np.ndarray] = lambda row, audio: audio, ids: str = "clip") -> Clips:
    """Twelve clips of noise, each as it is or changed."""
    rng, rows = np.random.default_rng(0), []
    for row in range(12):
        file, audio = io.BytesIO(), rng.uniform(-0.3, 0.3, int(rng.integers(8000, 24000)))
        soundfile.write(file, change(row, audio), SAMPLE_RATE, format="WAV")
        stored = {"bytes": file.getvalue(), "path": None}
        rows.append({"id": f"{ids}-{row}", "audio": stored, "samples": len(audio)})
    return Clips(datasets.Dataset.from_list(rows).cast_column("audio", datasets.Audio(decode=False)))


@pytest.fixture(scope="module")
def clips() -> Clips:
    return speak()


@pytest.fixture
def teacher(pair) -> FusedTeacher:
    """A random WavLM and a random Whisper, fused."""
    return pair("group")


@pytest.fixture
def supervision(teacher) -> Supervision:
    return Supervision(teacher, [1, 2], summary=True)


@pytest.fixture
def accelerator() -> Iterator[Accelerator]:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    yield Accelerator(cpu=True)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def batch_of(clips: Clips, rows: list[int]) -> Batch:
    audio_BN, lengths_B = pad([clips.audio(row) for row in rows])
    return Batch(np.array(rows), [clips.ids[row] for row in rows], audio_BN, lengths_B, torch.ones(1))


def distance(ours: tuple[Features, torch.Tensor | None], theirs: tuple[Features, torch.Tensor | None]) -> float:
    """The largest relative difference of layers or interface output; frames and padding must be the same."""
    (layers, output), (other_layers, other_output) = ours, theirs
    assert output is not None and other_output is not None
    assert torch.equal(layers.lengths, other_layers.lengths) and layers.grid == other_layers.grid
    assert not layers.hidden.transpose(1, 2)[~layers.mask()].any() and not output[~layers.mask()].any()
    pairs = ((layers.hidden, other_layers.hidden), (output, other_output))
    return max(float((one - other).norm() / other.norm()) for one, other in pairs)


@pytest.fixture
def unequal(build_model, build_tiny_student) -> FusedTeacher:
    """Upstreams of 32 and 48 features, two and three layers, on two grids; scales that are not 1."""
    upstreams = {
        "narrow": Frozen(Waveform(build_model("wavlm", norm="group"), normalize=True)),
        "wide": Frozen(build_tiny_student(layers=3, width=48)),
    }
    teacher = FusedTeacher(upstreams, "sum", 0, "hconv", 0).eval()
    for standardise in teacher.fusion.standardisers():
        standardise.mean.normal_()
        standardise.std.uniform_(0.5, 2.0)
    return teacher


OWN = {"narrow": [0, 2], "wide": [3]}


def test_each_upstreams_own_layers_supervise_filled_up_with_zeros(unequal, clips):
    batch = batch_of(clips, [3, 8])
    layers, _ = online(Supervision(unequal, [1], own=OWN, summary=True))(batch)
    assert layers.hidden.shape[1] == 4 and layers.hidden.shape[3] == unequal.width == 48
    fused = unequal(batch.audio, batch.lengths)
    assert torch.equal(layers.hidden[:, 0], fused.hidden[:, 1])
    places = {"narrow": slice(1, 3), "wide": slice(3, 4)}
    for (name, chosen), standardise in zip(OWN.items(), unequal.fusion.standardisers(), strict=True):
        heard = unequal.upstreams[name](batch.audio, batch.lengths)
        scaled = (heard.hidden - standardise.mean[:, None]) / standardise.std[:, None]
        alone = align_time(replace(heard, hidden=scaled), fused.grid, fused.lengths, frames=fused.hidden.shape[2])
        told = layers.hidden[:, places[name]]
        expected = alone.hidden[:, chosen] * fused.mask()[:, None, :, None]
        torch.testing.assert_close(told[..., : heard.hidden.shape[3]], expected)
        assert not told[..., heard.hidden.shape[3] :].any()


def test_own_layers_come_back_from_memory_and_disk(accelerator, unequal, clips, tmp_path):
    supervision = Supervision(unequal, [1], own=OWN, summary=True)
    live, batch = online(supervision), batch_of(clips, [2, 9, 4])
    assert distance(memory(supervision, clips, SECONDS, CPU)(batch), live(batch)) < 5e-4
    assert distance(cached(accelerator, supervision, clips, SECONDS, "int8", tmp_path)(batch), live(batch)) < 2e-2
    assert codes(accelerator, supervision, clips, SECONDS, 2, tmp_path)(batch).index.shape[1] == 5


def test_memory_must_hold_the_targets_of_every_process_here(
    accelerator, supervision, clips, build_tiny_student, monkeypatch
):
    free = SimpleNamespace(available=3 * bytes_of(supervision, clips) - 1)
    monkeypatch.setattr("distill.encoders.frames.psutil.virtual_memory", lambda: free)
    student, settings = build_tiny_student(halved=False), Distill(targets="memory")
    asked = (supervision, student, clips, settings, ["1", "2"], accelerator)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert isinstance(look(*asked), Distillation)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    with pytest.raises(ValueError, match=r"GB of memory in each of 3 processes, .* take distill\.targets=online"):
        look(*asked)


@pytest.mark.parametrize(("precision", "error"), [("float16", 5e-4), ("int8", 2e-2)])
def test_what_is_on_the_disk_is_what_the_teacher_says(accelerator, supervision, clips, tmp_path, precision, error):
    live, recall = online(supervision), cached(accelerator, supervision, clips, SECONDS, precision, tmp_path)
    for rows in ([3], [0, 11, 5], list(range(12))):
        assert distance(recall(batch_of(clips, rows)), live(batch_of(clips, rows))) < error


def test_the_disk_keeps_the_same_bits_as_memory(accelerator, supervision, clips, tmp_path):
    recall = cached(accelerator, supervision, clips, SECONDS, "float16", tmp_path)
    remembered = memory(supervision, clips, SECONDS, CPU)
    batch = batch_of(clips, [2, 9, 4])
    assert distance(recall(batch), remembered(batch)) == 0


def test_a_second_run_finds_them_and_writes_nothing(accelerator, supervision, clips, tmp_path, monkeypatch):
    cached(accelerator, supervision, clips, SECONDS, "int8", tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr("distill.supervision.store.Store.write", None)
    recall = cached(accelerator, supervision, clips, SECONDS, "int8", tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert recall(batch_of(clips, [1]))[0].hidden.any()


def test_whatever_makes_other_targets_has_another_folder(accelerator, teacher, clips, tmp_path):
    """Layers, interface, precision, what is heard at once, weights, settings, audio, ids and order."""
    louder = speak(lambda row, audio: 1.01 * audio if row == 7 else audio)
    asked = [
        (Supervision(teacher, [1, 2], summary=True), clips, SECONDS, "float16"),
        (Supervision(teacher, [0, 2], summary=True), clips, SECONDS, "float16"),
        (Supervision(teacher, [1, 2], summary=False), clips, SECONDS, "float16"),
        (Supervision(teacher, [1], own={"wavlm": [2]}, summary=True), clips, SECONDS, "float16"),
        (Supervision(teacher, [1], own={"whisper": [2]}, summary=True), clips, SECONDS, "float16"),
        (Supervision(teacher, [1, 2], summary=True, dtype=torch.bfloat16), clips, SECONDS, "float16"),
        (Supervision(teacher, [1, 2], summary=True), clips, SECONDS, "int8"),
        (Supervision(teacher, [1, 2], summary=True), clips, 4.0, "float16"),
        (Supervision(teacher, [1, 2], summary=True), louder, SECONDS, "float16"),
        (Supervision(teacher, [1, 2], summary=True), speak(ids="other"), SECONDS, "float16"),
        (Supervision(teacher, [1, 2], summary=True), clips.select([1, 0, *range(2, 12)]), SECONDS, "float16"),
    ]
    for number, (supervision, heard, seconds, precision) in enumerate(asked, 1):
        cached(accelerator, supervision, heard, seconds, precision, tmp_path)
        assert len(list(tmp_path.iterdir())) == number
    next(teacher.upstreams["whisper"].parameters()).data[0] += 1e-3
    cached(accelerator, asked[0][0], clips, SECONDS, "float16", tmp_path)
    assert len(list(tmp_path.iterdir())) == len(asked) + 1


def test_what_a_module_was_told_belongs_to_its_digest(build_model):
    plain, normed = (Waveform(build_model("wavlm", norm="layer"), normalize=flag) for flag in (False, True))
    assert module_digest(plain) != module_digest(normed)
    before = module_digest(plain)
    plain(torch.ones(1, 8000), torch.tensor([8000]))
    assert module_digest(plain) == before, "being used is no setting"
    assert module_digest(plain) == module_digest(Waveform(build_model("wavlm", norm="layer"), normalize=False).train())


def test_where_a_checkpoint_lies_is_no_setting(build_model):
    here, there = (Waveform(build_model("wavlm", norm="layer"), normalize=True) for _ in range(2))
    there.model.name_or_path = "/elsewhere/wavlm"
    assert module_digest(here) == module_digest(there)


def test_the_corpus_digest_reads_the_audio(accelerator, clips):
    assert corpus_digest(clips, accelerator) == corpus_digest(speak(), accelerator)
    flipped = speak(lambda row, audio: -audio if row == 11 else audio)
    assert corpus_digest(clips, accelerator) != corpus_digest(flipped, accelerator)


def test_targets_the_teacher_would_not_give_are_found(accelerator, supervision, clips, tmp_path):
    """As if a library had changed behind its version: everything has the same name, the features differ."""
    made_of = identity(accelerator, supervision, clips, SECONDS)
    packing = Float16(supervision.layers, supervision.width)
    asked = (clips, packing, SECONDS, tmp_path, made_of)
    open_store(accelerator, Frozen(supervision), *asked)
    with torch.no_grad():
        supervision.teacher.interface.convs[0].weight.mul_(1.5)
    with pytest.raises(StoreError, match=r"other targets than the teacher gives now .*delete the folder"):
        open_store(accelerator, Frozen(supervision), *asked)


def test_codes_come_back_and_say_what_they_keep(accelerator, supervision, clips, tmp_path, capsys):
    recall = codes(accelerator, supervision, clips, SECONDS, 2, tmp_path)
    assert "codes: 6 bytes a frame, explained variance of each target 0." in capsys.readouterr().out
    told, (layers, _) = recall(batch_of(clips, [3, 8])), online(supervision)(batch_of(clips, [3, 8]))
    assert told.index.shape == (2, 3, layers.hidden.shape[2], 2) and told.index.dtype == torch.uint8
    assert torch.equal(told.lengths, layers.lengths)
    codes(accelerator, supervision, clips, SECONDS, 2, tmp_path)
    assert "explained variance" not in capsys.readouterr().out, "learned again"


def test_half_the_bits_give_nearly_the_same_targets(teacher, clips):
    """What a GPU computes in; as on a CPU, by autocast."""
    whole, half = (Supervision(teacher, [1, 2], summary=True, dtype=dtype) for dtype in (torch.float32, torch.bfloat16))
    told, expected = online(half)(batch_of(clips, [0, 1])), online(whole)(batch_of(clips, [0, 1]))
    assert told[0].hidden.dtype == torch.float32
    assert 1e-5 < distance(told, expected) < 0.05


GIVEN = {
    "cached": [
        *("distill.cache_precision=int8", "distill.interface_weight=0.5", "distill.posteriors_weight=0.5"),
        *("distill.balance=gradient", "distill.reverb_share=0.5", "distill.noise_share=0.5"),
    ],
    "codes": [],
    "online": [],
}
MOMENTS = {
    "online": [Moment("os.rename", f"checkpoints/distill/step-00000{step}.unfinished") for step in (2, 4)],
    "cached": [
        Moment("os.rename", ".frames.", count=3),
        Moment("os.rename", "00004.json"),
        Moment("os.rename", "checkpoints/distill/step-000004.unfinished"),
    ],
    "codes": [
        Moment("os.rename", "codebooks-"),
        Moment("open", ".unfinished", count=9),
        Moment("os.rename", "checkpoints/distill/step-000002.unfinished"),
    ],
}


@pytest.mark.parametrize(
    "mode", ["cached", *(pytest.param(mode, marks=pytest.mark.slow) for mode in ("online", "codes"))]
)
def test_killed_while_writing_targets_a_run_goes_on_as_if_it_were_not(miniature: Miniature, tmp_path: Path, mode: str):
    words = {
        name: [
            *miniature.words(tmp_path / name, "stages=[fit,distill]", f"distill.targets={mode}", *GIVEN[mode]),
            f"distill.cache={tmp_path / name / 'cache'}",
        ]
        for name in ("whole", "killed")
    }
    miniature.run(words["whole"])
    for moment in MOMENTS[mode]:
        job = miniature.start(words["killed"], moment=moment)
        assert job.code() < 0, f"not killed at {moment}:\n{job.said()}"
    miniature.run(words["killed"])
    assert_same_student(tmp_path / "killed/run", tmp_path / "whole/run")
    made, wanted = (sorted(p.relative_to(tmp_path / n) for p in (tmp_path / n / "cache").rglob("*")) for n in words)
    assert made == wanted, "something was left"


def assert_same_student(run: Path, reference: Path) -> None:
    for name in ("student/model.safetensors", "student/heads.safetensors"):
        assert (run / name).read_bytes() == (reference / name).read_bytes(), f"{name} differs"
    with safe_open(run / "student/heads.safetensors", "pt") as kept:
        assert all(name.startswith(("heads.", "interface_head.", "norms.")) for name in kept.keys()), (
            "of the teacher's there"
        )
