"""Upstreams whose weights two processes share say what whole ones say, however unequally often they are called."""

import json
import os
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from miniature import CONFIG, FORKS
from small_checkpoints import KINDS
from torch import nn

from distill import runtime
from distill.encoders.family import Options
from distill.encoders.frozen import Frozen
from distill.encoders.sharding import Sharded, held, in_step, whole
from distill.features import parameters
from distill.limits import RecipeError
from distill.loading import changed, load
from distill.supervision.identity import module_digest
from teachers import FAMILIES, build_upstream

PASSES = (4, 2)  # of each process
SAMPLES = ([16000, 9000, 12345], [20000])  # of the clips of each process
ORDERS = ([0, 1, 0, 1], [1, 1, 0])  # in which each process calls two encoders


def work(folder: Path, checkpoints: dict[str, str], rank: int, port: int) -> None:
    """What one of two processes finds out about every checkpoint, into a file."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_DEEPSPEED": "false"}
    runtime.quiet()
    device = runtime.start(CONFIG).device
    torch.set_num_threads(1)
    found = {}
    for kind, name in checkpoints.items():
        runtime.BUCKET = 2**14  # so that small models have several parts too
        found[kind] = compare(KINDS[kind][0], name, rank, device)
    found["orders"] = call_in_order(
        [build_upstream(KINDS[kind][0], "", checkpoints[kind]) for kind in checkpoints], rank
    )
    (folder / f"{rank}.json").write_text(json.dumps(found))
    runtime.leave()


def call_in_order(entire: list[Frozen], rank: int) -> list[bool]:
    """Whether shared encoders say, bit for bit, what these do, called in this process's order."""
    shared = [Sharded(deepcopy(one.encoder), module_digest(one), runtime.deal_out) for one in entire]
    device, same = torch.device("cpu"), []
    with in_step(device, *shared):
        for number, called in enumerate(ORDERS[rank]):
            audio_BN = torch.randn(1, 12000, generator=torch.Generator().manual_seed(10 * rank + number))
            ours, theirs = (one[called](audio_BN, torch.tensor([12000])) for one in (shared, entire))
            same.append(torch.equal(ours.hidden, theirs.hidden))
    return same


def compare(family: str, checkpoint: str, rank: int, device: torch.device) -> dict:
    """One checkpoint held whole and shared out."""
    entire, inside = (build_upstream(family, "", checkpoint, Options()) for _ in range(2))
    first = {name: weight.clone() for name, weight in inside.encoder.state_dict().items()}
    shared = Frozen(Sharded(inside.encoder, module_digest(inside.encoder), runtime.deal_out)).train()
    share, errors = held(shared) / held(entire), []
    with in_step(device, nn.ModuleList([shared])):
        for number in range(PASSES[rank]):
            audio_BN = torch.randn(len(SAMPLES[rank]), 20000, generator=torch.Generator().manual_seed(number))
            ours, theirs = (one(audio_BN, torch.tensor(SAMPLES[rank])) for one in (shared, entire))
            assert torch.equal(ours.lengths, theirs.lengths) and ours.grid == theirs.grid
            errors.append(float((ours.hidden - theirs.hidden).abs().max() / theirs.hidden.abs().max()))
    between = sum(weight.untyped_storage().nbytes() for weight in shared.parameters()) / held(entire)
    with whole(shared):
        kept = all(torch.equal(weight, first[name]) for name, weight in inside.encoder.state_dict().items())
    return {
        "share": share,
        "errors": errors,
        "between passes": between,
        "weights kept": kept,
        "same digest": module_digest(shared) == module_digest(entire),
        "parameters": parameters(shared) - parameters(entire),
        "learning": any(one.training for one in shared.modules()) or any(w.requires_grad for w in shared.parameters()),
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory, checkpoint) -> list[dict]:
    """What each of two processes found out."""
    folder, port = tmp_path_factory.mktemp("sharded"), runtime.free_port()
    names = {kind: checkpoint(kind) for kind in ("wavlm base", "whisper")}
    both = [FORKS.Process(target=work, args=(folder, names, rank, port)) for rank in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join(300)
    assert [process.exitcode for process in both] == [0, 0]
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize("kind", ["wavlm base", "whisper"])
def test_a_shared_encoder_says_what_the_whole_one_says(found, kind):
    """One process hears four times, the other twice and then silence."""
    for passes, one in zip(PASSES, found, strict=True):
        assert len(one[kind]["errors"]) == passes
        assert max(one[kind]["errors"]) < 1e-6


def test_processes_may_call_several_encoders_in_different_orders(found):
    """A process whose rows need other upstreams than another one's waits for its turn, and hears silence meanwhile."""
    for order, one in zip(ORDERS, found, strict=True):
        assert one["orders"] == [True] * len(order)


@pytest.mark.parametrize("kind", ["wavlm base", "whisper"])
def test_each_process_holds_half_of_it(found, kind):
    for one in found:
        assert one[kind]["share"] == pytest.approx(0.5, abs=0.01)
        assert one[kind]["between passes"] < 0.05, "what a pass gathered is held on to"


@pytest.mark.parametrize("kind", ["wavlm base", "whisper"])
def test_it_is_the_same_encoder_and_frozen(found, kind):
    for one in found:
        assert one[kind]["weights kept"] and one[kind]["same digest"]
        assert one[kind]["parameters"] == 0 and not one[kind]["learning"]


def test_whole_encoders_are_in_step_by_themselves(open_small):
    """No process group is asked, there is none."""
    encoder = open_small("whisper")
    with in_step(torch.device("cpu"), encoder), whole(encoder):
        assert encoder.frames(torch.tensor([16000])) == 50


@pytest.mark.parametrize("kind", ["wavlm large", "whisper", "w2v-bert"])
def test_what_is_gathered_at_once_is_small_and_no_weight_is_gathered_twice(open_small, monkeypatch, kind):
    monkeypatch.setattr(runtime, "BUCKET", 2**13)
    encoder = open_small(kind)
    parts = runtime.gathered_at_once(encoder)
    assert len(parts) > 3 and not any(isinstance(part, nn.ModuleList) for part in parts)
    numbers = [parameters(part) for part in parts]
    assert all(number <= 2**13 for number, part in zip(numbers, parts, strict=True) if list(part.children()))
    seen = [id(weight) for part in parts for weight in part.parameters()]
    assert len(seen) == len(set(seen))


def test_sharing_changes_no_result_so_a_run_may_go_on_with_it():
    before, after = load(["recipe=wavlm"], FAMILIES), load(["recipe=wavlm", "teacher.shard=true"], FAMILIES)
    assert after.teacher.shard and not before.teacher.shard and changed(before, after) == []


def test_an_encoder_called_unequally_often_within_a_pass_is_refused():
    words = ["recipe=seamless", "scale=base", "teacher.shard=true"]
    with pytest.raises(RecipeError, match=r"leave out teacher.shard, or take teacher.seamless_states=conformer"):
        load([*words, "teacher.seamless_states=adaptor"], FAMILIES)
