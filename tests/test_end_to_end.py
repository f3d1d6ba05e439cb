"""The README's command from nothing to a student."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from miniature import FORKS, Miniature, files, journal, play
from safetensors import safe_open

from distill.data.clips import pad
from students.export import open_student

ROWS = ["log-mel", "wavlm", "whisper", "teacher", "student", "untrained"]

METRICS = {"asr": "wer", "sv": "eer", "er": "accuracy", "lid": "accuracy"}

RELOAD = """
import sys
import numpy as np, torch
from transformers import AutoFeatureExtractor, AutoModel
folder, audio, out = sys.argv[1:]
model, extractor = AutoModel.from_pretrained(folder).eval(), AutoFeatureExtractor.from_pretrained(folder)
heard = []
for clip in np.load(audio).values():
    inputs = extractor(clip, sampling_rate=16000, return_tensors="pt")
    with torch.no_grad():
        layers = model(**inputs, output_hidden_states=True).hidden_states
    heard.append(torch.stack(layers, 1)[0].numpy())
ours = [name for name in sys.modules if name.split(".")[0] in ("distill", "teachers", "students")]
assert not ours, ours
np.savez(out, *heard)
"""


def test_the_command_makes_what_it_promises(launched):
    run, said = launched
    assert {path.name for path in run.iterdir()} == {
        *("recipe.yaml", "environment.json", "metrics.jsonl", "tensorboard", "checkpoints"),
        *("teacher", "student", "evaluation", "evaluation.json"),
        *("listening.json", "analysis.json", "report", "report.html", "report.md"),
    }
    assert list((run / "checkpoints").iterdir()) == []
    assert {path.name for path in (run / "teacher").iterdir()} == {"fused.safetensors", "teacher.json"}
    assert {path.name for path in (run / "student").iterdir()} == {
        *("config.json", "model.safetensors", "preprocessor_config.json", "heads.safetensors", "README.md"),
    }
    assert not [name for name in files(run) if "unfinished" in name or "partial" in name]
    assert any((run / "tensorboard").rglob("events.out.*"))
    first = said.splitlines()[0]
    assert first.startswith("wavlm+whisper at scale mini, corpus embedded, on ") and "1 process, " in first
    assert "DeepSpeed ZeRO stage 2" in first and str(run) in first
    assert f'student: AutoModel.from_pretrained("{run / "student"}")' in said
    assert "Warning" not in said and "WARNING" not in said


def test_evaluation_json_is_as_promised(launched):
    rows = json.loads((launched[0] / "evaluation.json").read_text())["rows"]
    assert list(rows) == ROWS
    for row in rows.values():
        assert type(row["parameters"]) is int
        assert list(row["tasks"]) == list(METRICS)
        for task, cell in row["tasks"].items():
            assert cell["metric"] == METRICS[task]
            assert type(cell["value"]) is float and cell["value"] >= 0
            assert cell["seeds"] == [cell["value"]] and type(cell["seeds"][0]) is float
            assert cell["learning_rate"] == 1e-3
    assert rows["student"]["parameters"] == rows["untrained"]["parameters"] < rows["teacher"]["parameters"]
    assert rows["log-mel"]["parameters"] == 0
    for name in ROWS:
        assert any(line.startswith(name) for line in launched[1].splitlines()), "not in the table"


def test_the_report_tells_of_this_run(launched):
    run, said = launched
    assert f"report: {run / 'report.html'}" in said
    page = (run / "report.html").read_text()
    assert all(f"<td>{name}</td>" in page for name in ROWS)
    drawn = {path.stem for path in (run / "report").iterdir()}
    assert {"scores", "pareto-parameters", "pareto-time", "training-fit", "training-distill"} <= drawn
    assert {"explained-variance", "listening", *(f"similarity-{name}" for name in ROWS[1:4])} <= drawn
    found = json.loads((run / "analysis.json").read_text())
    assert found["training"]["distill"]["seconds"] > 0
    assert set(found["errors"]["asr"]["length"].popitem()[1]["rows"]) == set(ROWS)


def test_the_journal_tells_of_every_step(launched):
    lines = journal(launched[0])
    assert [(line["stage"], line["step"]) for line in lines] == [
        *(("fit", step) for step in range(1, 5)),
        *(("distill", step) for step in range(1, 7)),
    ]
    fit, distilled = lines[0], lines[-1]
    assert {f"loss_{task}" for task in METRICS} < fit.keys()
    assert {"loss", "learning_rate", "explained_variance"} < distilled.keys()
    assert {f"{what}_{pair}" for what in ("explained_variance", "cosine") for pair in (1, 2)} < distilled.keys()


def test_plain_transformers_hears_what_the_student_hears(miniature: Miniature, launched, tmp_path):
    clips = [0.1 * np.random.default_rng(i).standard_normal(16000 + 4000 * i).astype(np.float32) for i in range(2)]
    np.savez(tmp_path / "audio.npz", *clips)
    words = ["-c", RELOAD, str(launched[0] / "student"), str(tmp_path / "audio.npz"), str(tmp_path / "out.npz")]
    environment = {name: value for name, value in miniature.environment().items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    student = open_student(launched[0] / "student")
    with torch.no_grad():
        features = student(*pad(clips))
    stock = np.load(tmp_path / "out.npz").values()
    for ours_LTD, length, stock_LTD in zip(features.hidden, features.lengths, stock, strict=True):
        torch.testing.assert_close(ours_LTD[:, :length], torch.from_numpy(stock_LTD), atol=1e-5, rtol=1e-5)


def watched(words: list[str], log: str, environment: dict[str, str], out: str) -> None:
    """In a fork: the command, noting what becomes of its teacher and of what every optimizer holds."""
    import teachers
    from distill import stages

    kept: dict = {"optimized": set()}
    make, distill, adamw = teachers.build_teacher, stages.distill_student, torch.optim.AdamW.__init__

    def bits(module: torch.nn.Module) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in module.state_dict().items()}

    def build_teacher(*given):
        kept["teacher"] = teacher = make(*given)
        kept["built"] = bits(teacher.upstreams)
        return teacher

    def distill_student(*given):
        kept["fitted"] = bits(kept["teacher"])
        kept["said"] = listen(kept["teacher"])
        distill(*given)

    def optimize(self, parameters, *args, **settings):
        groups = list(parameters)
        kept["optimized"] |= {id(weight) for group in groups for weight in group["params"]}
        adamw(self, groups, *args, **settings)

    teachers.build_teacher, stages.distill_student, torch.optim.AdamW.__init__ = (
        build_teacher,
        distill_student,
        optimize,
    )
    play(words, log, environment, None, -1)
    teacher = kept["teacher"]
    own = [*teacher.upstreams.parameters()]
    report = {
        "upstreams": same(kept["built"], teacher.upstreams.state_dict()),
        "teacher": same(kept["fitted"], teacher.state_dict()),
        "passes": torch.equal(kept["said"], listen(teacher)),
        "optimizers": bool(kept["optimized"]),
        "optimized": sum(id(weight) in kept["optimized"] for weight in own),
        "trainable": sum(weight.requires_grad for weight in own),
        "gradients": sum(weight.grad is not None for weight in own),
        "training": sum(module.training for encoder in teacher.encoders() for module in encoder.modules()),
    }
    Path(out).write_text(json.dumps(report))


def listen(teacher) -> torch.Tensor:
    """What it says of a fixed noise, after someone has asked it to train."""
    teacher.upstreams.train()
    audio_BN = 0.1 * torch.randn(2, 24000, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return teacher(audio_BN, torch.tensor([24000, 20000])).hidden.clone()


def same(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> bool:
    return before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def test_a_run_leaves_its_teacher_as_it_was(miniature: Miniature, launched, tmp_path):
    """Upstreams from start to end, the whole teacher from the end of fit; in eval mode, and in no optimizer."""
    words = miniature.words(tmp_path, "distill.targets=online", "student.dropout=0", "stages=[fit,distill]")
    log, out = tmp_path / "log", tmp_path / "report.json"
    log.touch()
    process = FORKS.Process(target=watched, args=(words, str(log), miniature.environment(), str(out)))
    process.start()
    process.join(600)
    assert process.exitcode == 0, log.read_text()
    assert json.loads(out.read_text()) == {
        "upstreams": True,
        "teacher": True,
        "passes": True,
        "optimizers": True,
        "optimized": 0,
        "trainable": 0,
        "gradients": 0,
        "training": 0,
    }


def test_upstreams_are_in_no_file_of_the_run(launched):
    names = set()
    for path in launched[0].rglob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names |= set(file.keys())
    assert names and not [name for name in names if "upstreams" in name]


def test_a_run_goes_on_by_its_own_recipe(miniature: Miniature, launched):
    run = launched[0]
    said = miniature.run([f"recipe={run / 'recipe.yaml'}"])
    assert "to do:" not in said and "log-mel" in said


def test_other_students_are_rows_and_runs_are_compared(miniature: Miniature, launched, tmp_path):
    for name in ("run", "other"):
        shutil.copytree(launched[0], tmp_path / name)
    cells = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run" / "evaluation").iterdir()}
    words = [f"recipe={tmp_path / 'run' / 'recipe.yaml'}", f"runs={tmp_path}"]
    said = miniature.run([*words, f"evaluate.students=[{tmp_path / 'other'}]"])
    assert "to do: evaluate, report" in said and "evaluate other: heard" in said and "evaluate student:" not in said
    rows = json.loads((tmp_path / "run" / "evaluation.json").read_text())["rows"]
    assert list(rows) == [*ROWS, "other"]
    for task, cell in rows["other"]["tasks"].items():
        assert cell["value"] == rows["student"]["tasks"][task]["value"]
        assert cell["student_minus_row"] == {"value": 0.0, "interval": [0.0, 0.0], "p_value": 1.0}
    assert rows["other"]["retention"] == rows["student"]["retention"]
    now = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "run" / "evaluation").iterdir()}
    assert cells.items() <= now.items(), "what was measured before was measured again"
    assert "<td>other</td>" in (tmp_path / "run" / "report.html").read_text()
    said = miniature.run([*words, "stages=[report]", f"report.runs=[{tmp_path / 'run'},{tmp_path / 'other'}]"])
    assert f"comparison: {tmp_path / 'run' / 'comparison.html'}" in said and "to do:" not in said
    assert "<td>other, teacher</td>" in (tmp_path / "run" / "comparison.html").read_text()
