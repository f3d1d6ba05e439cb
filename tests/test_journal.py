"""The journal of a stage: lines are of what happened since the last one, and of no step twice."""

import json
import math
from dataclasses import replace

import numpy as np
import torch
from toy import PLAN, lines

from distill.data.batches import Batch
from distill.loop import Journal


def test_the_journal_forgets_steps_that_are_taken_again(accelerator, tmp_path):
    path = tmp_path / "metrics.jsonl"
    old = [("fit", 5), ("fit", 6), ("toy", 1), ("toy", 2), ("toy", 3)]
    text = "".join(json.dumps({"stage": stage, "step": step, "loss": math.nan}) + "\n" for stage, step in old)
    path.write_text(text + '{"stage": "toy", "st')
    journal = Journal(accelerator(), PLAN, lambda tally: {"loss": float(tally[0])}, path, 2)
    assert lines(tmp_path) == old[:-1]
    journal.add(torch.ones(1), Batch(np.zeros(1), [], torch.zeros(1, 1), torch.tensor([8000]), torch.ones(1)))
    journal.step(3, 0.1)
    journal.close()
    assert lines(tmp_path) == old
    assert json.loads(path.read_text().splitlines()[-1])["loss"] == 1


def test_the_journal_sums_what_happened_since_its_last_line(accelerator, tmp_path):
    journal = Journal(
        accelerator(),
        replace(PLAN, steps=5, log_every=2),
        lambda tally: {"mean": float(tally[0] / tally[1])},
        tmp_path / "metrics.jsonl",
        0,
    )
    empty = Batch(np.zeros(1), [], torch.zeros(1, 1), torch.tensor([8000]), torch.ones(1))
    for step, value in enumerate((1.0, 3.0, 10.0, 20.0, 7.0), 1):
        journal.add(torch.tensor([value, 1.0], dtype=torch.float64), empty)
        journal.step(step, 0.1)
    journal.close()
    written = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["mean"]) for line in written] == [(2, 2.0), (4, 15.0), (5, 7.0)]
