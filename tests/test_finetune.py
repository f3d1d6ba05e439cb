"""Fine-tuning: our pass and the stock model's own say the same; the folder opens in stock pipelines."""

import io
from dataclasses import replace

import datasets
import numpy as np
import pytest
import soundfile
import torch
from spoken import make_clips
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForAudioXVector,
    AutoModelForCTC,
    Wav2Vec2FeatureExtractor,
    pipeline,
)

from distill.data.batches import Batch
from distill.data.clips import Clips, pad
from distill.encoders.waveform import Waveform
from distill.finetune import STOCK, Downstream, Finetuning, labelled, score, start
from distill.fit import Labels
from distill.tasks import TASKS, Task
from students.downstream import save_downstream

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")  # WavLM, in transformers
KINDS = [(task, architecture) for task, stock in STOCK.items() for architecture in stock]
CPU = torch.device("cpu")


def prepared(name: str) -> Task:
    words = {"asr": tuple(" abcdef"), "sv": ("anna", "ben", "carla")}.get(name, ("calm", "flat", "loud"))
    return replace(TASKS[name], vocabulary=words)  # pyright: ignore[reportArgumentType]


def moved(downstream: Downstream) -> Downstream:
    """Every weight away from where it starts: layer weights unequal, norms no identity."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in downstream.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return downstream.eval()


def parts(outputs) -> list[torch.Tensor]:
    return list(outputs) if isinstance(outputs, tuple) else [outputs]


@pytest.mark.parametrize("stable", [False, True])
@pytest.mark.parametrize(("name", "architecture"), KINDS)
def test_one_clip_is_to_us_what_it_is_to_the_stock_model(name, architecture, stable, build_model, noise):
    student = Waveform(build_model(architecture, norm="group", stable=stable), normalize=True)
    downstream = moved(start(student, prepared(name), 0))
    clip = noise(16_000)
    values_BN = Wav2Vec2FeatureExtractor(do_normalize=True)(clip.numpy(), sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        ours, frames_B = downstream(clip[None], torch.tensor([len(clip)]))
        stock = downstream.stock(values_BN["input_values"])
    if name == "sv":
        expected = torch.nn.functional.normalize(stock.embeddings, dim=1)
        torch.testing.assert_close(ours.embedding_BE, expected, rtol=1e-4, atol=1e-5)
    else:
        torch.testing.assert_close(ours, stock.logits, rtol=1e-4, atol=1e-5)
    assert frames_B.tolist() == [49]


@pytest.mark.parametrize(("name", "architecture"), KINDS)
def test_a_clip_is_the_same_alone_and_in_a_batch(name, architecture, build_model, noise):
    student = Waveform(build_model(architecture, norm="group", stable=True), normalize=True)
    downstream = moved(start(student, prepared(name), 0))
    clips = [noise(16_000), noise(9_000), noise(12_345)]
    lengths_B = torch.tensor([len(clip) for clip in clips])
    with torch.no_grad():
        batch, frames_B = downstream(pad_sequence(clips, batch_first=True, padding_value=9.0), lengths_B)
        for row, clip in enumerate(clips):
            alone, _ = downstream(clip[None], lengths_B[row : row + 1])
            for together, single in zip(parts(batch), parts(alone), strict=True):
                own = together[row, : frames_B[row]] if name == "asr" else together[row]
                torch.testing.assert_close(own, single[0], rtol=1e-4, atol=1e-5)


def test_it_starts_from_the_student_and_its_front_end_stays(build_tiny_student):
    student = build_tiny_student("hubert")
    downstream = start(student, prepared("asr"), 0)
    ours, theirs = student.model.state_dict(), downstream.stock.base_model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours) and len(ours) == len(theirs)
    frozen = {name for name, weight in downstream.stock.named_parameters() if not weight.requires_grad}
    assert frozen and all(".feature_extractor." in name for name in frozen)
    again, other = start(student, prepared("asr"), 0), start(student, prepared("asr"), 1)
    assert torch.equal(downstream.stock.lm_head.weight, again.stock.lm_head.weight)
    assert not torch.equal(downstream.stock.lm_head.weight, other.stock.lm_head.weight)


def spoken(count: int) -> Clips:
    """Clips of noise whose loudness changes with the style."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(count):
        rate = (2, 40)[i % 2]  # hertz of a tremolo
        seconds = np.arange(int(rng.integers(9_000, 16_000))) / 16_000
        audio = 0.1 * rng.standard_normal(len(seconds)) * (1 + np.sin(2 * np.pi * rate * seconds))
        file = io.BytesIO()
        soundfile.write(file, audio, 16_000, format="WAV", subtype="FLOAT")
        row = {"id": str(i), "audio": {"bytes": file.getvalue(), "path": None}, "samples": len(seconds)}
        rows.append(row | {"style": ("slow", "fast")[i % 2]})
    return Clips(datasets.Dataset.from_list(rows).cast_column("audio", datasets.Audio(decode=False)))


def test_what_can_be_heard_is_learned(build_tiny_student):
    """The objective itself, on a plain optimizer: the command runs it on the project's one loop."""
    clips = spoken(32)
    labels = Labels.of(TASKS["er"], clips)
    downstream, objective = start(build_tiny_student("hubert"), labels.task, 0).train(), Finetuning(clips, labels)
    before = score(downstream, labels.task, clips, 30.0, CPU)["accuracy"]
    downstream.train()
    adam = torch.optim.Adam([weight for weight in downstream.parameters() if weight.requires_grad], lr=3e-3)
    rows = np.arange(len(clips))
    audio_BN, lengths_B = pad([clips.audio(row) for row in rows])
    batch = Batch(rows, clips.ids, audio_BN, lengths_B, objective.counts(rows))
    losses = []
    for _ in range(30):
        loss, tally = objective.outcome(downstream, batch, 0.0)
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(objective.read(tally)["loss"])
    assert losses[0] == pytest.approx(np.log(2), abs=0.1) and losses[-1] < 0.2 * losses[0]
    assert before < 75 < score(downstream, labels.task, clips, 30.0, CPU)["accuracy"]


@pytest.mark.parametrize("architecture", ["hubert", "wavlm"])
def test_the_recognition_pipeline_reads_what_we_read(architecture, build_tiny_student, noise, tmp_path):
    task = prepared("asr")
    downstream = moved(start(build_tiny_student(architecture), task, 0))
    save_downstream(downstream, task, tmp_path)
    recognise = pipeline("automatic-speech-recognition", model=str(tmp_path))
    said = []
    for samples in (16_000, 9_000, 30_000):
        with torch.no_grad():
            (ours,) = task.predictions(*downstream(noise(samples)[None], torch.tensor([samples])))
        heard = recognise({"raw": noise(samples).numpy(), "sampling_rate": 16_000})
        said.append(ours)
        assert heard["text"] == " ".join(ours.split())  # transformers drops doubled and outer spaces
    assert len(set("".join(said))) > 3, "a test of nothing"
    assert type(AutoModelForCTC.from_pretrained(tmp_path)).__name__ == type(downstream.stock).__name__


def test_the_classification_pipeline_says_what_we_say(build_tiny_student, noise, tmp_path):
    task = prepared("er")
    downstream = moved(start(build_tiny_student("hubert"), task, 0))
    save_downstream(downstream, task, tmp_path)
    with torch.no_grad():
        outputs, _ = downstream(noise(12_000)[None], torch.tensor([12_000]))
    expected = dict(zip(task.vocabulary, outputs[0].softmax(-1).tolist(), strict=True))
    guesses = pipeline("audio-classification", model=str(tmp_path))(noise(12_000).numpy())
    assert {guess["label"]: guess["score"] for guess in guesses} == pytest.approx(expected, abs=1e-5)


def test_the_speaker_model_opens_as_stock_x_vectors(build_tiny_student, noise, tmp_path):
    task = prepared("sv")
    downstream = moved(start(build_tiny_student("wavlm"), task, 0))
    save_downstream(downstream, task, tmp_path)
    model = AutoModelForAudioXVector.from_pretrained(tmp_path).eval()
    extractor = Wav2Vec2FeatureExtractor.from_pretrained(tmp_path)
    with torch.no_grad():
        ours, _ = downstream(noise(12_000)[None], torch.tensor([12_000]))
        stock = model(**extractor(noise(12_000).numpy(), sampling_rate=16_000, return_tensors="pt")).embeddings
    assert torch.cosine_similarity(ours.embedding_BE, stock).item() == pytest.approx(1, abs=1e-5)


def test_a_transcript_with_the_tokenizers_own_sign_is_refused(build_tiny_student, tmp_path):
    task = replace(TASKS["asr"], vocabulary=("a", "|"))  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match=r"'\|' stands between words"):
        save_downstream(start(build_tiny_student(), task, 0), task, tmp_path)


def test_every_clip_that_is_learned_from_has_a_label_however_unequal_the_classes():
    """Balancing balanced classes once more would leave some out."""
    styles = ["calm"] * 2 + ["flat"] * 3 + ["loud"] * 9 + ["soft"] * 9 + [""]  # the median is 6, and then 4
    clips, labels = labelled(TASKS["er"], make_clips(style=styles))
    assert len(clips) == len(labels.targets) == 2 + 3 + 6 + 6
    assert [labels.task.vocabulary[int(target)] for target in labels.targets] == clips.column("style")
