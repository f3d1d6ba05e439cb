"""Probes: features that carry a label score, others do not; equal seeds give equal probes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from spoken import make_clips

from distill import probe
from distill.data.clips import Clips
from distill.encoders.frames import FrameCache
from distill.probe import Budget, Split, batches, schedule, score, train
from distill.tasks import TASKS

CPU = torch.device("cpu")

BUDGET = Budget("hconv", steps=100, batch=16, weight_decay=0.01, clip=1.0, warmup=0.1, decay=True)


def labelled(clips: Clips, label: list[int], seed: int) -> Split:
    """A cache of noise in which the label of a clip is a direction; (clips) of 20 to 70 frames."""
    rng = np.random.default_rng(seed)
    lengths = torch.from_numpy(rng.integers(20, 70, len(clips)))
    directions = np.random.default_rng(99).standard_normal((8, 3, 8))
    hidden = rng.standard_normal((int(lengths.sum()), 3, 8))
    hidden += np.repeat(directions[label], lengths.numpy(), axis=0)
    cache = FrameCache(torch.from_numpy(hidden).half(), lengths.cumsum(0) - lengths, lengths, 50.0)
    return Split(clips, cache, np.arange(len(clips)))


def speakers(count: int, known: int) -> tuple[Clips, list[int]]:
    label = [i % known for i in range(count)]
    names = [str(i) for i in label]
    return make_clips(speaker=names, style=names), label


@pytest.mark.parametrize("interface", ["hconv", "weighted_sum"])
def test_a_label_in_the_features_is_found_and_a_shuffled_one_is_not(interface):
    budget = replace(BUDGET, interface=interface)
    clips, label = speakers(200, 4)
    unheard, its_label = speakers(200, 4)
    task = TASKS["er"].prepare(clips)
    probe = train(task, labelled(clips, label, 0), budget, 1e-2, 0, CPU)
    test = labelled(unheard, its_label, 1)
    assert score(task, probe, test, 16, CPU)["accuracy"] > 99
    shuffle = np.random.default_rng(5).permutation
    lost = train(task, labelled(clips, list(shuffle(label)), 0), budget, 1e-2, 0, CPU)
    unrelated = labelled(unheard, list(shuffle(its_label)), 1)
    assert score(task, lost, unrelated, 16, CPU)["accuracy"] == pytest.approx(25, abs=10)  # 3 deviations


def test_speakers_in_the_features_are_told_apart():
    clips, label = speakers(200, 8)
    unheard, its_label = speakers(80, 8)
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
    clips = make_clips(transcript=["".join("ab c"[i] for i in text) for text in texts])
    cache = FrameCache(torch.from_numpy(hidden).half(), lengths.cumsum(0) - lengths, lengths, 50.0)
    return Split(clips, cache, np.arange(count))


def test_letters_in_the_features_are_spelled():
    heard, unheard = spelled(200, 0), spelled(40, 1)
    task = TASKS["asr"].prepare(heard.clips)
    probe = train(task, heard, replace(BUDGET, steps=150), 1e-2, 0, CPU)
    assert score(task, probe, unheard, 16, CPU)["cer"] < 25  # repeated letters cannot be told from long ones


def test_equal_seeds_give_equal_probes_and_leave_the_random_state_alone():
    clips, label = speakers(40, 4)
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


def test_a_seed_draws_the_order_of_clips(monkeypatch):
    clips, label = speakers(40, 4)
    task, split, orders = TASKS["er"].prepare(clips), labelled(clips, label, 0), []

    def noted(*given):
        orders.append([rows.tolist() for rows in batches(*given)])
        return map(np.array, orders[-1])

    monkeypatch.setattr(probe, "batches", noted)
    for seed in (0, 0, 1):
        train(task, split, replace(BUDGET, steps=5), 1e-2, seed, CPU)
    assert orders[0] == orders[1] != orders[2]


@pytest.mark.parametrize("change", [{"weight_decay": 9.0}, {"warmup": 0.9}, {"clip": 1e-12}, {"decay": False}])
def test_all_of_a_budget_tells_in_the_probe(change):
    clips, label = speakers(40, 4)
    task, split, short = TASKS["er"].prepare(clips), labelled(clips, label, 0), replace(BUDGET, steps=4)
    one, other = (train(task, split, budget, 1e-2, 0, CPU) for budget in (short, replace(short, **change)))
    assert not any(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize(("lower", "kept"), [(True, 2), (False, 1)])
def test_of_the_states_that_validation_has_seen_the_best_stays(monkeypatch, lower, kept):
    """Of two equals the first; looking on changes nothing in how the probe is trained, nor whether it drops out."""
    clips, label = speakers(40, 4)
    task, split, unheard = TASKS["er"].prepare(clips), labelled(clips, label, 0), labelled(clips, label, 1)
    budget, seen, values = replace(BUDGET, steps=8, checks=4), [], iter([40.0, 90.0, 10.0, 10.0])
    monkeypatch.setattr(TASKS["er"].__class__, "lower_is_better", lower)

    def looked(task, probe, validation, batch, device):
        assert validation is unheard
        seen.append([weight.clone() for weight in probe.parameters()])
        probe.eval()
        return {"accuracy": next(values)}

    monkeypatch.setattr(probe, "score", looked)
    monkeypatch.setattr(probe.Probe, "forward", training_only(probe.Probe.forward))
    best = train(task, split, budget, 1e-2, 0, CPU, unheard)
    assert len(seen) == 4 and not torch.equal(seen[0][0], seen[1][0])
    assert all(torch.equal(a, b) for a, b in zip(best.parameters(), seen[kept], strict=True))
    last = train(task, split, replace(budget, checks=1), 1e-2, 0, CPU, unheard)
    assert len(seen) == 4, "the last state alone needs no look"
    assert all(torch.equal(a, b) for a, b in zip(last.parameters(), seen[3], strict=True))


def training_only(forward):
    """The same forward, which refuses a module that does not train."""

    def checked(self, *inputs):
        assert self.training
        return forward(self, *inputs)

    return checked


def test_weights_that_are_no_numbers_after_the_last_step_are_divergence():
    clips, label = speakers(40, 4)
    task, short = TASKS["er"].prepare(clips), replace(BUDGET, steps=1, warmup=0.0, weight_decay=0.0)
    assert train(task, labelled(clips, label, 0), short, 1e39, 0, CPU) is None


def test_a_training_that_diverges_gets_the_worst_value():
    clips, label = speakers(40, 4)
    split = labelled(clips, label, 0)
    split.cache.hidden_FLD[:] = torch.nan
    for name, worst in (("er", 0.0), ("sv", 100.0)):
        task = TASKS[name].prepare(clips)
        probe = train(task, split, BUDGET, 1e-2, 0, CPU)
        assert probe is None
        assert score(task, probe, split, 16, CPU) == {task.metric: worst}


def test_every_clip_comes_once_before_any_comes_again():
    lengths = np.random.default_rng(0).integers(20, 200, 50)
    found = list(batches(lengths, 8, 14, torch.Generator().manual_seed(0)))
    assert sorted(np.concatenate(found[:7])) == sorted(np.concatenate(found[7:])) == list(range(50))
    padded = sum(len(rows) * lengths[rows].max() for rows in found[:7])
    assert padded < 1.2 * lengths.sum(), "clips of similar length are together"


def test_the_rate_rises_and_falls():
    shares = [schedule(step, BUDGET) for step in range(BUDGET.steps)]
    assert shares[:11] == sorted(shares[:11]) and shares[10] == 1.0
    assert shares[10:] == sorted(shares[10:], reverse=True) and 0 < shares[-1] < 1e-3
