"""From a run to the Hub and back: a stranger with transformers alone downloads and uses what was published."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hub_server import WRITER, Hub, complaints, serving
from miniature import ROOT, Miniature

from distill.finetune import Downstream, start
from distill.tasks import TASKS, Task
from students.downstream import save_downstream
from students.export import export

STRANGER = """
import json, sys
import numpy as np, torch
from transformers import AutoFeatureExtractor, AutoModel, pipeline
repo, audio = sys.argv[1], np.load(sys.argv[2])
extractor, model = AutoFeatureExtractor.from_pretrained(repo), AutoModel.from_pretrained(repo).eval()
with torch.no_grad():
    inputs = extractor(audio, sampling_rate=16000, return_tensors="pt")
    np.save("hidden.npy", torch.stack(model(**inputs, output_hidden_states=True).hidden_states, 1)[0].numpy())
text = pipeline("automatic-speech-recognition", model=repo + "-asr")({"raw": audio, "sampling_rate": 16000})["text"]
styles = {guess["label"]: guess["score"] for guess in pipeline("audio-classification", model=repo + "-er")(audio)}
assert not {name.split(".")[0] for name in sys.modules} & {"distill", "teachers", "students"}
json.dump({"text": text, "styles": styles}, open("said.json", "w"))
"""
PUBLISH = """
import json, sys
from pathlib import Path
from distill.publish import upload
from distill.recipe import Publish
folders = {repo: Path(folder) for repo, folder in json.loads(sys.argv[1]).items()}
upload(folders, Publish(repo="me/student"), print)
"""


@pytest.fixture
def hub() -> Iterator[Hub]:
    with serving() as hub:
        yield hub


def environment(hub: Hub, home: Path) -> dict[str, str]:
    """What makes the real client talk to our Hub, and nothing of the user's own account."""
    foreign = ("HF_", "HUGGING", "ACCELERATE", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    ours = {"HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": WRITER}
    return kept | ours | {"HF_HUB_DISABLE_PROGRESS_BARS": "1"}


def play(hub: Hub, home: Path, folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A fresh Python process that knows our Hub."""
    return subprocess.run(
        [sys.executable, *words], cwd=folder, env=environment(hub, home), capture_output=True, text=True, timeout=600
    )


def heard_by_a_stranger(hub: Hub, repo: str, folder: Path, audio: np.ndarray) -> tuple[np.ndarray, dict]:
    """Layers, text and styles of a clip, from the repositories of a run."""
    np.save(folder / "audio.npy", audio)
    done = play(hub, folder / "home", folder, "-c", STRANGER, repo, "audio.npy")
    assert done.returncode == 0, done.stderr
    return np.load(folder / "hidden.npy"), json.loads((folder / "said.json").read_text())


def tuned(student, name: str, vocabulary: tuple[str, ...]) -> tuple[Downstream, Task]:
    task = replace(TASKS[name], vocabulary=vocabulary)  # pyright: ignore[reportArgumentType]
    downstream = start(student, task, 0).eval()
    with torch.no_grad():
        downstream.stock.get_submodule("lm_head" if name == "asr" else "classifier").weight.mul_(10)
    return downstream, task


def test_what_was_uploaded_is_what_a_stranger_hears(hub, build_tiny_student, noise, tmp_path):
    student, models = build_tiny_student().eval(), {}
    export(student, {}, tmp_path / "student", "---\nlicense: apache-2.0\n---\n# A card\n")
    for name, vocabulary in (("asr", tuple(" abcdef")), ("er", ("calm", "flat"))):
        downstream, task = models[name] = tuned(student, name, vocabulary)
        save_downstream(downstream, task, tmp_path / name)
    folders = {"me/student": str(tmp_path / "student")} | {
        f"me/student-{name}": str(tmp_path / name) for name in models
    }
    for folder in folders.values():
        (Path(folder) / "recipe.yaml").write_text("recipe: test\n")
    done = play(hub, tmp_path / "home", ROOT, "-c", PUBLISH, json.dumps(folders))
    assert done.returncode == 0, done.stderr
    assert WRITER not in done.stdout + done.stderr and f"published: {hub.address}/me/student-asr" in done.stdout

    for folder in folders.values():
        shutil.rmtree(folder)
    clip = noise(16_000)
    hidden, said = heard_by_a_stranger(hub, "me/student", tmp_path, clip.numpy())
    with torch.no_grad():
        ours = {name: model(clip[None], torch.tensor([16_000])) for name, (model, _) in models.items()}
        expected = student(clip[None], torch.tensor([16_000])).hidden[0]
    np.testing.assert_allclose(hidden, expected.numpy(), rtol=0, atol=1e-5)
    assert said["text"] == " ".join(models["asr"][1].predictions(*ours["asr"])[0].split()) != ""
    assert said["styles"] == pytest.approx(
        dict(zip(("calm", "flat"), ours["er"][0][0].softmax(-1).tolist(), strict=True)), abs=1e-5
    )


def bits(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


QUICK = ["finetune.steps=2", "finetune.batch_seconds=6", "finetune.forward_seconds=6", "finetune.log_every=1"]


@pytest.mark.slow
def test_the_command_publishes_a_run_and_goes_on_where_it_broke(miniature: Miniature, launched, hub, tmp_path):
    """With ONNX and fine-tuned models; the second try after a lost connection makes nothing again."""
    run = tmp_path / "runs" / "run"
    shutil.copytree(launched[0], run)
    words = ["distill.py", *miniature.words(tmp_path / "runs", "stages=[publish]", *QUICK)]
    cache = ["XDG_CACHE_HOME", miniature.environment()["XDG_CACHE_HOME"]]

    def publish(*given: str) -> subprocess.CompletedProcess[str]:
        changed = environment(hub, tmp_path / "home") | {cache[0]: cache[1]}
        command = [sys.executable, *words, *given]
        return subprocess.run(command, cwd=ROOT, env=changed, capture_output=True, text=True, timeout=900)

    dry = publish("publish.dry_run=true", "publish.repo=me/run")
    assert dry.returncode == 0, dry.stderr
    assert "me/run-asr: " in dry.stdout and "onnx/model_int8.onnx" in dry.stdout and not hub.repositories
    made = bits(run)
    hub.broken_puts = 10**6
    broken = publish("publish.repo=me/run")
    assert broken.returncode == 1 and "broke off" in broken.stderr and "Traceback" not in broken.stderr
    assert bits(run) == made
    hub.broken_puts = 0
    done = publish("publish.repo=me/run")
    assert done.returncode == 0, done.stderr
    assert WRITER not in "".join(done.stdout + done.stderr + broken.stdout + broken.stderr)
    assert set(hub.repositories) == {"me/run", "me/run-asr", "me/run-er"}  # no x-vectors on HuBERT
    assert "finetune sv: " in done.stdout
    assert not [name for name, content in bits(run).items() if WRITER.encode() in content]

    names = hub.repositories["me/run"].files.keys()
    assert {"README.md", "config.json", "model.safetensors", "heads.safetensors", "preprocessor_config.json"} <= names
    assert {"recipe.yaml", "environment.json", "evaluation.json", "onnx/model.onnx", "onnx/model_int8.onnx"} <= names
    for repository in hub.repositories.values():
        assert complaints(repository.files["README.md"].decode()) == []
    result = json.loads(hub.repositories["me/run"].files["evaluation.json"])
    assert {"onnx", "onnx-int8"} <= result["rows"].keys() and result["finetuned"].keys() == {"asr", "er"}
    assert result["rows"]["onnx-int8"]["bytes"] < result["rows"]["onnx"]["bytes"]
    card = hub.repositories["me/run-asr"].files["README.md"].decode()
    assert f"WER {result['finetuned']['asr']['value']:.1f} %" in card

    audio = 0.1 * np.random.default_rng(0).standard_normal(16_000).astype(np.float32)
    hidden, said = heard_by_a_stranger(hub, "me/run", tmp_path, audio)
    assert hidden.shape == (3, 49, 32) and set(said["styles"]) == {"calm", "excited", "flat", "neutral"}
