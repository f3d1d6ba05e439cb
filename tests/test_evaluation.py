"""Evaluation: features that carry a label score, others do not; cells are fair, repeatable and kept."""

import io
import json
from dataclasses import replace

import datasets
import numpy as np
import pytest
import soundfile
import torch
from spoken import Levels, speak

from distill import evaluation
from distill.comparison import retention
from distill.cost import cost, peak_memory
from distill.data.clips import Clips, pad
from distill.evaluation import deal, evaluate_rows, evaluate_task, table
from distill.frames import FrameCache, by_length, in_file, standardiser
from distill.live import Live
from distill.probe import Budget, Split, batches, schedule, score, train
from distill.protocol import Evaluate
from distill.tasks import PROTOCOLS, TASKS

CPU = torch.device("cpu")
BUDGET = Budget("hconv", steps=100, batch=16, weight_decay=0.01, clip=1.0, warmup=0.1, decay=True)
QUICK = Evaluate(
    tasks=["sv", "er", "lid"],
    learning_rates=[1e-3, 1e-2],
    steps={"sv": 10, "er": 8, "lid": 6},
    train_clips=40,
    score_clips=30,
)


@pytest.fixture(scope="module")
def splits() -> dict[str, Clips]:
    return {"train": speak(60, 0), "validation": speak(30, 1), "test": speak(36, 2)}


def labelled(clips: Clips, label: list[int], seed: int) -> Split:
    """A cache of noise in which the label of a clip is a direction; (clips) of 20 to 70 frames."""
    rng = np.random.default_rng(seed)
    lengths = torch.from_numpy(rng.integers(20, 70, len(clips)))
    directions = np.random.default_rng(99).standard_normal((8, 3, 8))
    hidden = rng.standard_normal((int(lengths.sum()), 3, 8))
    hidden += np.repeat(directions[label], lengths.numpy(), axis=0)
    cache = FrameCache(torch.from_numpy(hidden).half(), lengths.cumsum(0) - lengths, lengths, 50.0)
    return Split(clips, cache, np.arange(len(clips)))


def speakers(count: int, known: int, seed: int) -> tuple[Clips, list[int]]:
    label = [i % known for i in range(count)]
    rows = {"id": [f"{seed}-{i}" for i in range(count)], "samples": [1] * count, "audio": [None] * count}
    rows |= {"speaker": [str(i) for i in label], "style": [str(i) for i in label]}
    return Clips(datasets.Dataset.from_dict(rows)), label


@pytest.mark.parametrize("interface", ["hconv", "weighted_sum"])
def test_a_label_in_the_features_is_found_and_a_shuffled_one_is_not(interface):
    budget = replace(BUDGET, interface=interface)
    clips, label = speakers(200, 4, 0)
    unheard, its_label = speakers(200, 4, 1)
    task = TASKS["er"].prepare(clips)
    probe = train(task, labelled(clips, label, 0), budget, 1e-2, 0, CPU)
    test = labelled(unheard, its_label, 1)
    assert score(task, probe, test, 16, CPU)["accuracy"] > 99
    shuffle = np.random.default_rng(5).permutation
    lost = train(task, labelled(clips, list(shuffle(label)), 0), budget, 1e-2, 0, CPU)
    unrelated = labelled(unheard, list(shuffle(its_label)), 1)
    assert score(task, lost, unrelated, 16, CPU)["accuracy"] == pytest.approx(25, abs=10)  # 3 deviations


def test_speakers_in_the_features_are_told_apart():
    clips, label = speakers(200, 8, 0)
    unheard, its_label = speakers(80, 8, 1)
    task = TASKS["sv"].prepare(clips)
    probe = train(task, labelled(clips, label, 0), BUDGET, 3e-3, 0, CPU)
    assert score(task, probe, labelled(unheard, its_label, 1), 16, CPU)["eer"] < 2


def spelled(count: int, seed: int) -> Split:
    """Texts of four letters, each a direction that lasts four to six frames."""
    rng = np.random.default_rng(seed)
    directions = np.random.default_rng(99).standard_normal((4, 3, 8))
    texts = [rng.integers(0, 4, rng.integers(3, 8)) for _ in range(count)]
    said = [np.repeat(text, rng.integers(4, 7, len(text))) for text in texts]
    lengths = torch.tensor([len(one) for one in said])
    hidden = directions[np.concatenate(said)] + 0.3 * rng.standard_normal((int(lengths.sum()), 3, 8))
    rows = {"id": [str(i) for i in range(count)], "samples": [1] * count, "audio": [None] * count}
    rows["transcript"] = ["".join("ab c"[i] for i in text) for text in texts]
    cache = FrameCache(torch.from_numpy(hidden).half(), lengths.cumsum(0) - lengths, lengths, 50.0)
    return Split(Clips(datasets.Dataset.from_dict(rows)), cache, np.arange(count))


def test_letters_in_the_features_are_spelled():
    heard, unheard = spelled(200, 0), spelled(40, 1)
    task = TASKS["asr"].prepare(heard.clips)
    probe = train(task, heard, replace(BUDGET, steps=150), 1e-2, 0, CPU)
    assert score(task, probe, unheard, 16, CPU)["cer"] < 25  # repeated letters cannot be told from long ones


def test_equal_seeds_give_equal_probes_and_leave_the_random_state_alone():
    clips, label = speakers(40, 4, 0)
    task = TASKS["er"].prepare(clips)
    split, short = labelled(clips, label, 0), replace(BUDGET, steps=5)
    probes = []
    for global_seed, seed in ((7, 0), (8, 0), (8, 1)):
        torch.manual_seed(global_seed)
        before = torch.get_rng_state()
        probes.append(train(task, split, short, 1e-2, seed, CPU))
        assert torch.equal(before, torch.get_rng_state())
    first, again, other = probes
    pairs = list(zip(first.parameters(), again.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(a, b) for a, b, _ in pairs)
    assert not any(torch.equal(a, c) for a, _, c in pairs)


def test_a_training_that_diverges_gets_the_worst_value():
    clips, label = speakers(40, 4, 0)
    split = labelled(clips, label, 0)
    split.cache.hidden_FLD[:] = torch.nan
    for name, worst in (("er", 0.0), ("sv", 100.0)):
        task = TASKS[name].prepare(clips)
        probe = train(task, split, BUDGET, 1e-2, 0, CPU)
        assert probe is None
        assert score(task, probe, split, 16, CPU) == {task.metric: worst}


def test_the_rate_is_chosen_on_validation_with_the_first_seed(monkeypatch, splits, tmp_path):
    trained = []

    def fake_train(task, split, budget, rate, seed, device):
        trained.append((rate, seed))
        return rate, seed

    def fake_score(task, probe, split, batch, device):
        assert split.clips is splits["validation"]
        rate, seed = probe
        return {"accuracy": 90.0 + seed if rate == 3e-3 else 10.0 + seed}

    def fake_predict(task, probe, split, batch, device):
        assert split.clips is splits["test"]  # which prefers another rate
        rate, seed = probe
        return [90 + seed if rate == 1e-2 else 10 + seed] * len(split.clips)

    monkeypatch.setattr(evaluation, "train", fake_train)
    monkeypatch.setattr(evaluation, "score", fake_score)
    monkeypatch.setattr(evaluation, "predict", fake_predict)
    monkeypatch.setitem(PROTOCOLS, "light", {"er": Prepared()})
    parts = {part: Split(clips, None, np.arange(len(clips))) for part, clips in splits.items()}
    cell = evaluate_task("er", parts, Evaluate(tasks=["er"], seeds=[0, 4]), CPU, tmp_path / "cell.npz")
    assert cell["learning_rate"] == 3e-3
    assert cell["seeds"] == [10.0, 14.0] and cell["value"] == 12.0
    assert cell["validation"] == {"0.001": 10.0, "0.003": 90.0, "0.01": 10.0}
    assert trained == [(1e-3, 0), (3e-3, 0), (1e-2, 0), (3e-3, 4)]
    assert cell["clips"] == {"train": 60, "validation": 30, "test": 36} and cell["budget"]["steps"] == 400
    with np.load(tmp_path / "cell.npz") as file:
        assert file["ids"].tolist() == splits["test"].ids
        assert file["predictions"].tolist() == [[10] * 36, [14] * 36]


class Prepared:
    metric, lower_is_better = "accuracy", False

    def prepare(self, clips):
        return self

    def references(self, clips):
        return clips.column("style")

    def comparable(self, predictions):
        return predictions

    def score(self, predictions, clips):
        return {"accuracy": float(predictions[0])}


def test_the_cache_gives_the_standardised_features_of_each_clip(splits):
    encoder, clips = Levels(), splits["train"]
    standardise = standardiser(encoder, clips, 5.0, CPU)
    cache = FrameCache.extract(encoder, clips, standardise, 5.0, CPU)
    rows = [7, 3, 11]
    hidden_BLTD, lengths_B = cache.batch(rows, None, None)
    with torch.no_grad():
        expected = standardise(encoder(*pad([clips.audio(row) for row in rows])))
    assert torch.equal(lengths_B, expected.lengths)
    torch.testing.assert_close(hidden_BLTD, expected.hidden[:, :, : lengths_B.max()], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(cache.hidden_FLD.float().mean(0), torch.zeros(3, 4), rtol=0, atol=1e-3)
    torch.testing.assert_close(cache.hidden_FLD.float().std(0), torch.ones(3, 4), rtol=0, atol=1e-2)


def test_crops_lie_inside_their_clips_and_reach_both_ends():
    lengths = torch.tensor([5, 8, 2])
    frames = torch.arange(15.0).half()[:, None, None]
    cache = FrameCache(frames, lengths.cumsum(0) - lengths, lengths, 50.0)
    generator, starts = torch.Generator().manual_seed(0), set()
    for _ in range(60):
        hidden_BLTD, lengths_B = cache.batch([1, 2], 3, generator)
        assert lengths_B.tolist() == [3, 2]
        start = hidden_BLTD[0, 0, 0, 0].item()
        assert hidden_BLTD[:, 0, :, 0].tolist() == [[start, start + 1, start + 2], [13, 14, 0]]
        starts.add(start)
    assert starts == {5, 6, 7, 8, 9, 10}


def test_features_beyond_float16_are_refused(splits):
    encoder = Levels()
    with torch.no_grad():
        encoder.mix.bias.fill_(1e6)
    standardise = standardiser(Levels(), splits["train"], 5.0, CPU)
    with pytest.raises(ValueError, match="Levels gives features that are not finite"):
        FrameCache.extract(encoder, splits["test"], standardise, 5.0, CPU)


def test_clips_are_heard_in_batches_of_bounded_padded_length():
    samples = np.random.default_rng(0).integers(8000, 64_000, 50)
    found = list(by_length(samples, 8.0))
    assert sorted(np.concatenate(found)) == list(range(50))
    assert all(len(rows) * samples[rows].max() <= 8 * 16_000 for rows in found)


def test_every_clip_comes_once_before_any_comes_again():
    lengths = np.random.default_rng(0).integers(20, 200, 50)
    found = list(batches(lengths, 8, 14, torch.Generator().manual_seed(0)))
    assert sorted(np.concatenate(found[:7])) == sorted(np.concatenate(found[7:])) == list(range(50))


def test_the_rate_rises_and_falls():
    shares = [schedule(step, BUDGET) for step in range(BUDGET.steps)]
    assert shares[:11] == sorted(shares[:11]) and shares[10] == 1.0
    assert shares[10:] == sorted(shares[10:], reverse=True) and 0 < shares[-1] < 1e-3


def test_each_task_gets_the_features_of_its_own_clips(splits, tmp_path):
    clips = splits["test"]
    languages = ["" if i % 5 < 2 else language for i, language in enumerate(clips.column("language"))]
    partly = Clips(clips.dataset.remove_columns("language").add_column("language", languages))
    heard = evaluation.hear_splits(
        Levels(), splits | {"test": partly}, ["sv", "lid"], replace(QUICK, score_clips=20), CPU, tmp_path
    )
    for parts in heard.values():
        split = parts["test"]
        assert split.cache.lengths[split.rows].tolist() == (split.clips.samples // 320).tolist()
    ids = [set(parts["test"].clips.ids) for parts in heard.values()]
    assert ids[0] - ids[1] and ids[1] - ids[0]


def without_costs(result: dict) -> dict:
    return {name: row["tasks"] for name, row in result["rows"].items()}


def test_features_on_the_disk_give_the_same_result_and_are_gone_at_the_end(tmp_path, splits):
    results = []
    for cache in ("memory", "disk"):
        (tmp_path / cache / ".frames-of-a-killed-one").mkdir(parents=True)
        settings = replace(QUICK, cache=cache)
        found = evaluate_rows({"one": Levels()}, {"data": splits}, settings, tmp_path / cache, CPU, say=lambda _: None)
        results.append(found["rows"]["one"]["tasks"])
        assert not list((tmp_path / cache).glob(".frames-*"))
    assert results[0] == results[1]


def test_a_disk_without_room_for_features_is_refused(tmp_path):
    with pytest.raises(OSError, match=r"GB free, the features need 2000000\.0 GB"):
        in_file(tmp_path / "train", (10**12, 10, 100))
    assert not list(tmp_path.iterdir())


def test_a_killed_evaluation_goes_on_where_it_stopped(tmp_path, splits):
    rows = {"one": Levels(), "other": Levels(0.1)}
    whole = evaluate_rows(rows, {"data": splits}, QUICK, tmp_path, CPU, say=lambda _: None)
    heard = [row.heard for row in rows.values()]
    assert evaluate_rows(rows, {"data": splits}, QUICK, tmp_path, CPU, say=lambda _: None) == whole
    assert [row.heard for row in rows.values()] == heard
    (tmp_path / "other.er.json").unlink()
    said = []
    again = evaluate_rows(rows, {"data": splits}, QUICK, tmp_path, CPU, say=said.append)
    assert without_costs(again) == without_costs(whole)
    assert rows["one"].heard == heard[0] and len(said) == 2 and "other er: validation accuracy" in said[1]
    fewer = replace(QUICK, seeds=[3])
    again = evaluate_rows(rows, {"data": splits}, fewer, tmp_path, CPU, say=lambda _: None)
    assert all(len(cell["seeds"]) == 1 for cell in again["rows"]["one"]["tasks"].values())


def test_the_result_has_its_published_form(tmp_path, splits):
    result = evaluate_rows({"log-mel": Levels()}, {"data": splits}, QUICK, tmp_path, CPU, say=lambda _: None)
    assert json.loads(json.dumps(result)) == result
    row = result["rows"]["log-mel"]
    assert row["parameters"] == 36 and set(row["tasks"]) == {"sv", "er", "lid"}
    for cell in row["tasks"].values():
        assert cell["metric"] in ("eer", "accuracy") and len(cell["seeds"]) == 2
        assert cell["value"] == pytest.approx(sum(cell["seeds"]) / 2)
        assert cell["learning_rate"] in QUICK.learning_rates
        low, high = cell["interval"]
        assert low <= cell["value"] <= high
        assert cell["clips"]["test"] <= QUICK.score_clips
    assert row["score"]["interval"][0] <= row["score"]["value"] <= row["score"]["interval"][1]
    assert result["machine"] == {"device": "CPU", "threads": 1}


def test_rows_are_compared_on_the_same_clips(tmp_path, splits):
    rows = {"teacher": Levels(), "student": Levels(), "untrained": Levels(0.0), "other": Levels(0.3)}
    asked = replace(QUICK, students=["runs/other"])
    found = evaluate_rows(rows, {"data": splits}, asked, tmp_path, CPU, say=lambda _: None)["rows"]
    assert "student_minus_row" not in found["student"]["tasks"]["lid"]
    equal = found["teacher"]["tasks"]["lid"]["student_minus_row"]
    assert equal == {"value": 0.0, "interval": [0.0, 0.0], "p_value": 1.0}
    worse = found["untrained"]["tasks"]["lid"]["student_minus_row"]
    assert worse["value"] > 0 and worse["interval"][0] <= worse["value"] <= worse["interval"][1]
    assert found["student"]["retention"]["lid"] == 1.0 and found["student"]["retention_interval"]["lid"] == [1, 1]
    assert found["other"]["retention"].keys() == {"sv", "er", "lid", "mean"}
    assert "retention" not in found["teacher"]


def test_other_clips_are_not_compared(tmp_path, splits):
    rows = {"one": Levels(), "other": Levels(0.3)}
    evaluate_rows(rows, {"data": splits}, QUICK, tmp_path, CPU, say=lambda _: None)
    with np.load(tmp_path / "other.er.npz") as file:
        kept = dict(file)
    np.savez(tmp_path / "other.er.npz", **kept | {"ids": kept["ids"][::-1]})
    with pytest.raises(ValueError, match="other has heard other clips for er"):
        evaluation.gather(["one", "other"], QUICK, tmp_path)


def test_a_probe_that_diverged_leaves_no_interval(tmp_path, splits, monkeypatch):
    monkeypatch.setattr(evaluation, "train", lambda *given: None)
    (tmp_path / "row.er.npz").write_text("of earlier settings")
    asked = replace(QUICK, tasks=["er"])
    row = evaluate_rows({"row": Levels()}, {"data": splits}, asked, tmp_path, CPU, say=lambda _: None)["rows"]["row"]
    assert row["tasks"]["er"]["value"] == 0.0 and row["tasks"]["er"]["interval"] is None
    assert row["score"] == {"value": 0.0, "interval": None}


def test_two_processes_find_what_one_finds(tmp_path, splits):
    alone = evaluate_rows({"row": Levels()}, {"data": splits}, QUICK, tmp_path / "one", CPU, say=lambda _: None)
    folder = tmp_path / "two"
    folder.mkdir()
    for rank in (1, 0):
        evaluation.evaluate_row(
            "row", Levels(), {"data": splits}, QUICK, folder, CPU, rank=rank, world=2, say=lambda _: None
        )
    assert without_costs(evaluation.gather(["row"], QUICK, folder)) == without_costs(alone)


def test_work_is_dealt_evenly_and_whole():
    assert deal(Evaluate(), 2) == [["asr"], ["sv", "er", "lid"]]
    assert sorted(task for hand in deal(Evaluate(), 3) for task in hand) == sorted(TASKS)
    assert deal(Evaluate(), 1) == [list(TASKS)] and deal(Evaluate(tasks=["er"]), 2) == [["er"], []]


def test_a_missing_cell_is_named(tmp_path):
    with pytest.raises(ValueError, match="teacher has no result for asr, sv, er, lid"):
        evaluation.gather(["teacher"], Evaluate(), tmp_path)


def test_multiply_adds_and_parameters_are_those_worked_out_by_hand():
    measured = cost(Levels(), seconds_of(1, count=4), 3.0, CPU)
    assert measured["parameters"] == 2 * 12 + 12
    assert measured["macs"] == 50 * 2 * 12  # frames, inputs, outputs
    assert measured["real_time_factor"] > 0 and measured["real_time_factor_batch"] > 0
    assert measured["batch_clips"] == 3


def seconds_of(seconds: int, count: int) -> Clips:
    file = io.BytesIO()
    soundfile.write(file, np.zeros(16_000 * seconds), 16_000, format="WAV", subtype="FLOAT")
    row = {"id": "a", "audio": {"bytes": file.getvalue(), "path": None}, "samples": 16_000 * seconds}
    return Clips(datasets.Dataset.from_list([row] * count).cast_column("audio", datasets.Audio(decode=False)))


def test_memory_is_counted_while_it_is_held():
    with Live() as live:
        first = torch.zeros(1000)  # 4 kB
        second = first + 1
        view = second.view(10, 100)
        view.add_(1)  # nothing new
        del first
        third = view * 2
        del second
        assert live.now == 8000  # the view holds the second
        del view, third
    assert (live.now, live.peak) == (0, 8000)


def test_peak_memory_is_weights_audio_and_what_a_pass_holds_at_once():
    class Chain(Levels):
        """Two maps of a 4 kB clip to 40 kB, the first gone when the third is made."""

        def forward(self, audio_BN, lengths_B):
            once = audio_BN.repeat(1, 10)
            twice = once + 1
            del once
            return (twice * 2).sum()

    weights = 4 * (2 * 12 + 12)
    assert peak_memory(Chain(), torch.zeros(1, 1000), torch.tensor([1000]), CPU) == weights + 4000 + 80_000 + 4


def cell(value: float, lower: bool) -> dict:
    metric = "wer" if lower else "accuracy"
    return {"metric": metric, "lower_is_better": lower, "value": value, "seeds": [value - 1, value + 1]}


def test_retention_is_the_share_of_the_teachers_gain():
    costs = {"parameters": 1_500_000, "macs": 2e9, "real_time_factor": 0.01}
    values = {"teacher": (20, 90, 50, 30), "student": (40, 95, 60, 40), "untrained": (100, 10, 50, 20)}
    rows = {
        name: costs | {"tasks": {t: cell(v, t == "a") for t, v in zip("abcd", found, strict=True)}}
        for name, found in values.items()
    }
    kept = retention(rows)
    assert kept == {"a": 0.75, "b": 1.0, "c": None, "d": 1.0, "mean": pytest.approx(2.75 / 3)}
    rows["student"]["retention"] = kept
    lines = table({"rows": rows}).splitlines()
    assert lines[0].split()[:4] == ["a", "wer-", "b", "accuracy+"]
    assert lines[2].split() == "student 40.0 (1.0) 95.0 (1.0) 60.0 (1.0) 40.0 (1.0) 0.92 1.50 M 2000 M 0.0100".split()
    assert len({len(line) for line in lines[:4]}) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tasks": ["st"]}, "no task 'st' with light heads; there are asr, sv, er, lid"),
        ({"interface": "mean"}, "no 'mean'; there are hconv, weighted_sum, gumbel"),
        ({"steps": {"asr": 5}}, "evaluate.steps: sv needs 1 step"),
        ({"learning_rates": []}, "learning_rates must be above 0"),
        ({"seeds": []}, "one seed or more"),
        ({"batch": 0}, "evaluate.batch must be above 0, got 0"),
        ({"students": ["a/run", "b/run"]}, "two runs of one name"),
    ],
)
def test_settings_that_cannot_work_are_refused(change, message):
    with pytest.raises(ValueError, match=message):
        Evaluate(**change)
