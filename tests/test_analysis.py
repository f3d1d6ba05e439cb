"""Analyses against constructed answers and the definitions they follow."""

from itertools import permutations

import numpy as np
import pytest
import torch
from spoken import Levels, speak

from distill.evidence.comparison import write_predictions
from distill.evidence.errors import errors, groups, signal_to_noise, thirds
from distill.evidence.similarity import Kernel, similarity
from distill.evidence.training import POINTS, training

CPU = torch.device("cpu")


def test_dependence_is_the_u_statistic_of_its_definition():
    generator = torch.Generator().manual_seed(0)
    left, right = (torch.randn(7, 3, generator=generator) for _ in range(2))
    k, m = ((x - x.mean(0)).double() @ (x - x.mean(0)).double().T for x in (left, right))
    terms = [k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q]) for i, j, q, r in permutations(range(7), 4)]
    assert Kernel(left).dependence(Kernel(right)) == pytest.approx(float(sum(terms)) / len(terms))


def test_alignment_sees_through_rotation_and_scale_and_not_through_chance():
    generator = torch.Generator().manual_seed(0)
    here, elsewhere = (torch.randn(300, 200, generator=generator) for _ in range(2))
    turn = torch.linalg.qr(torch.randn(200, 200, generator=generator)).Q
    assert Kernel(here).alignment(Kernel(3 * here @ turn + 5)) == pytest.approx(1.0)
    assert Kernel(here).alignment(Kernel(elsewhere)) == pytest.approx(0.0, abs=0.03)  # plain CKA would say 0.4
    assert Kernel(here).alignment(Kernel(torch.ones(300, 4))) == 0.0


def test_a_student_is_most_like_itself():
    student = Levels()
    found = similarity(student, {"itself": student, "other": Levels(0.1)}, speak(30, 0), 5.0, CPU)
    values = np.array(found["layers"]["itself"])
    assert values.shape == (3, 3) and np.allclose(np.diag(values), 1.0) and np.allclose(values, values.T)
    assert found["clips"] == 30 and found["frames"] == 1000
    assert set(found["layers"]) == {"itself", "other"}


def test_curves_are_averaged_to_a_few_points_and_time_is_added_up():
    lines = [{"stage": "distill", "step": n + 1, "loss": float(n), "seconds": 0.5} for n in range(3 * POINTS)]
    found = training([{"stage": "fit", "step": 1, "loss": 7.0}, *lines])
    assert found["fit"] == {"seconds": None, "curves": {"step": [1], "loss": [7.0]}}
    assert found["distill"]["seconds"] == 1.5 * POINTS
    curves = found["distill"]["curves"]
    assert curves["step"][:2] == [3, 6] and curves["loss"][:2] == [1.0, 4.0] and len(curves["loss"]) == POINTS


def test_errors_are_told_apart_by_group(tmp_path):
    clips = speak(36, 2)
    languages = clips.column("language")
    said = ["de" if language == "de" else "en" for language in languages]  # right for de and en, never for sv
    backwards = clips.select(range(len(clips))[::-1])
    write_predictions(tmp_path / "student.lid.npz", backwards, languages[::-1], [said[::-1]])
    rows = {"student": {"tasks": {"lid": {"metric": "accuracy"}}}, "lost": {"tasks": {"lid": {"metric": "accuracy"}}}}
    found = errors(rows, ["lid"], clips, tmp_path)["lid"]
    by_language = {name: group["rows"] for name, group in found["language"].items()}
    assert by_language == {"de": {"student": 100.0}, "en": {"student": 100.0}, "sv": {"student": 0.0}}
    assert {kind: sum(group["clips"] for group in named.values()) for kind, named in found.items()} == {
        kind: 36 for kind in ("speaker", "language", "length", "signal to noise")
    }
    shortest, _, longest = found["length"]
    assert shortest.startswith("up to") and longest.startswith("above")


def test_thirds_hold_as_many_each():
    found = thirds(np.arange(30.0), "s", 1)
    assert found.names == ["up to 9.7 s", "9.7 to 19.3 s", "above 19.3 s"]
    assert found.numbers_C.tolist() == [0] * 10 + [1] * 10 + [2] * 10


def test_noise_is_heard_where_speech_pauses():
    rng = np.random.default_rng(0)
    bursts = np.repeat(rng.random(80) > 0.4, 400) * rng.standard_normal(32_000)
    found = [signal_to_noise(bursts + level * rng.standard_normal(32_000)) for level in (0.03, 0.1, 0.3)]
    assert found == sorted(found, reverse=True)
    assert found == pytest.approx([30, 20, 10], abs=4)
    assert signal_to_noise(np.zeros(32_000)) == 0.0 and signal_to_noise(np.zeros(3)) == 0.0


def test_groups_need_no_label_that_the_corpus_lacks():
    clips = speak(12, 0)
    bare = type(clips)(clips.dataset.remove_columns(["language"]))
    assert set(groups(bare)) == {"speaker", "length", "signal to noise"}
