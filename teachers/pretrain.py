"""Make the small upstreams again: `python -m teachers.pretrain wavlm|hubert|whisper [key=value ...]`.

Stock transformers models learn from the embedded corpus, with voices and sentences that no test split holds:
WavLM and HuBERT by masked prediction of clusters, Whisper by transcription. One core, about twenty minutes each.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import HubertConfig, HubertModel, PreTrainedModel, Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

from distill.data.clips import Clips, pad
from distill.data.embedded import EmbeddedCorpus, build
from distill.features import SAMPLE_RATE
from teachers.clusters import CODEBOOKS, clusters


@dataclass(frozen=True)
class Pretrain:
    """How a small upstream is made; steps are optimizer steps."""

    model: str
    out: str = ""  # folder; by default teachers/mini/<model>
    start: str = ""  # folder of a checkpoint to go on from; empty: from nothing
    seed: int = 1
    steps: int = 1400
    batch_seconds: float = 32.0  # of audio in a step
    learning_rate: float = 2e-3
    english: int = 5000  # clips
    other: int = 450  # clips of each other language
    width: int = 160
    layers: int = 4
    spectrum: float = 2.0  # weight of the clean spectrum at the start
    threads: int = 1


@dataclass(frozen=True)
class Material:
    """The pretraining corpus in memory: the same clips as recorded and as spoken."""

    noisy: list[np.ndarray]
    clean: list[np.ndarray]
    clips: Clips


def material(settings: Pretrain) -> Material:
    """Training voices and training sentences only; clean and recorded versions of the same clips."""
    corpus = EmbeddedCorpus(
        seed=settings.seed + 1000,
        train_english=settings.english,
        train_other=settings.other,
        validation_english=24,
        validation_other=4,
        test_english=0,
        test_other=0,
    )
    recorded = Clips(build(corpus))
    spoken = Clips(build(replace(corpus, effects=False)))
    assert recorded.ids == spoken.ids
    noisy = [recorded.audio(i) for i in range(len(recorded))]
    clean = [spoken.audio(i) for i in range(len(spoken))]
    return Material(noisy, [np.resize(one, len(other)) for one, other in zip(clean, noisy, strict=True)], recorded)


def batches(lengths: np.ndarray, settings: Pretrain) -> Iterator[np.ndarray]:
    """Clips of like length, about `batch_seconds` of them, for ever."""
    rng = np.random.default_rng(settings.seed)
    while True:
        order = np.argsort(lengths + rng.uniform(0, 0.4 * SAMPLE_RATE, len(lengths)))
        ends = np.cumsum(lengths[order]) / SAMPLE_RATE // settings.batch_seconds
        groups = np.split(order, np.flatnonzero(np.diff(ends)) + 1)
        for group in rng.permutation(len(groups)):
            yield groups[group]


def train(settings: Pretrain, modules: nn.Module, lengths: np.ndarray, loss: Callable) -> None:
    """AdamW, linear warm-up over 8 % of the steps, then linear decay; prints what `loss(clips)` reports."""
    optimizer = torch.optim.AdamW(modules.parameters(), settings.learning_rate, weight_decay=0.01, betas=(0.9, 0.98))
    start, heard = time.time(), 0.0
    for step, chosen in zip(range(settings.steps), batches(lengths, settings), strict=False):
        done = step / settings.steps
        rate = min((done + 1e-3) / 0.08, (1 - done) / 0.92)
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * rate
        value, report = loss(chosen, done)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()
        heard += lengths[chosen].sum() / SAMPLE_RATE
        if step % 50 == 0 or step == settings.steps - 1:
            values = " ".join(f"{name} {number.item():.3f}" for name, number in report.items())
            print(
                f"{step:5d} {time.time() - start:6.0f} s {heard / (time.time() - start):5.0f} x  {values}",
                flush=True,
            )


# --- masked prediction of clusters -------------------------------------------------------------------------------


def waveform_config(settings: Pretrain):
    """The stock configuration; its front end puts frame centres 195 samples in, close to Whisper's grid."""
    config = {"wavlm": WavLMConfig, "hubert": HubertConfig}[settings.model]
    return config(
        hidden_size=settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=4,
        intermediate_size=4 * settings.width,
        conv_dim=(64,) * 5,
        conv_kernel=(20, 6, 3, 2, 2),
        conv_stride=(10, 4, 2, 2, 2),
        num_feat_extract_layers=5,
        feat_extract_norm="group",  # layer norm hides loudness from so small a front end: it learned nothing
        do_stable_layer_norm=True,  # norms before the blocks; with norms after them it learned half as fast
        num_conv_pos_embeddings=32,
        num_conv_pos_embedding_groups=16,
        initializer_range=0.05,
        hidden_dropout=0.05,
        attention_dropout=0.05,
        activation_dropout=0.0,
        feat_proj_dropout=0.0,
        layerdrop=0.0,
        mask_time_prob=0.05,  # makes the mask embedding; the masks themselves are ours
    )


def mask_spans(frames_B: Tensor, rng: np.random.Generator, share: float = 0.4, span: int = 6) -> Tensor:
    """Frames hidden from the model, in spans: (B, T) bool."""
    frames = int(frames_B.max())
    starts = torch.from_numpy(rng.random((len(frames_B), frames)) < share / span)
    hidden = starts.clone()
    for shift in range(1, span):
        hidden[:, shift:] |= starts[:, :-shift]
    return hidden & (torch.arange(frames) < frames_B[:, None])


def mix(audio_BN: Tensor, lengths_B: Tensor, rng: np.random.Generator, share: float = 0.2) -> Tensor:
    """WavLM's utterance mixing: some clips get a quieter piece of another one, at most half their length."""
    mixed = audio_BN.clone()
    for clip in np.flatnonzero(rng.random(len(audio_BN)) < share):
        other = rng.integers(len(audio_BN))
        count = int(min(lengths_B[clip], lengths_B[other]) * rng.uniform(0.1, 0.5))
        at, start = (
            rng.integers(int(lengths_B[clip]) - count + 1),
            rng.integers(int(lengths_B[other]) - count + 1),
        )
        mixed[clip, at : at + count] += 10 ** (-rng.uniform(0, 10) / 20) * audio_BN[other, start : start + count]
    return mixed


def normalise(audio_BN: Tensor, lengths_B: Tensor) -> Tensor:
    """Zero mean and unit variance over each clip, as Wav2Vec2FeatureExtractor does."""
    mask = torch.arange(audio_BN.shape[1]) < lengths_B[:, None]
    mean = (audio_BN * mask).sum(1, keepdim=True) / lengths_B[:, None]
    centred = (audio_BN - mean) * mask
    return centred / ((centred**2).sum(1, keepdim=True) / lengths_B[:, None] + 1e-7).sqrt()


def pretrain_waveform(settings: Pretrain) -> None:
    """WavLM or HuBERT; targets are clusters of the clean speech, the input is noisy and, for WavLM, mixed."""
    data = material(settings)
    model = {"wavlm": WavLMModel, "hubert": HubertModel}[settings.model](waveform_config(settings))
    if settings.start:
        model = type(model).from_pretrained(settings.start, dtype=torch.float32)
    lengths = data.clips.samples
    frames = model._get_feat_extract_output_lengths(torch.from_numpy(lengths)).numpy()
    start = time.time()
    labels = clusters(data.clean, list(frames), settings.seed)
    print(f"clusters in {time.time() - start:.0f} s", flush=True)
    books = list(CODEBOOKS) if settings.model == "wavlm" else ["phonetic", "voice"]
    heads = nn.ModuleDict({name: nn.Linear(settings.width, CODEBOOKS[name]) for name in books})
    spectrum = nn.Linear(settings.width, 80)
    rng = np.random.default_rng(settings.seed)

    def loss(chosen: np.ndarray, done: float) -> tuple[Tensor, dict]:
        audio_BN, lengths_B = pad([data.noisy[i] if rng.random() < 0.7 else data.clean[i] for i in chosen])
        if settings.model == "wavlm":
            audio_BN = mix(audio_BN, lengths_B, rng)
        frames_B = torch.from_numpy(frames[chosen])
        hidden_BT = mask_spans(frames_B, rng)
        valid_BT = torch.arange(hidden_BT.shape[1]) < frames_B[:, None]
        mask_BN = torch.arange(audio_BN.shape[1]) < lengths_B[:, None]
        out = model(normalise(audio_BN, lengths_B), attention_mask=mask_BN.long(), mask_time_indices=hidden_BT)
        masked, seen, report = 0.0, 0.0, {}
        for name, head in heads.items():
            truth = np.concatenate([labels[name][i] for i in chosen])
            truth = torch.from_numpy(truth).long()
            logits = head(out.last_hidden_state[valid_BT])
            each = cross_entropy(logits, truth, reduction="none")
            inside = hidden_BT[valid_BT]
            masked, seen = masked + each[inside].mean(), seen + each[~inside].mean()
            report[name] = (logits.argmax(1) == truth)[inside].float().mean()
        # From nothing, clusters alone take long to shape the front end; the clean spectrum of each frame does not.
        mel = torch.from_numpy(np.concatenate([labels["mel"][i] for i in chosen]))
        report["mel"] = 4 * (spectrum(out.last_hidden_state[valid_BT]) - mel).abs().mean()
        return 0.5 * masked + 0.5 * seen + max(1.2 - done, 0.0) * settings.spectrum * report["mel"], report

    model.train()
    train(settings, nn.ModuleList([model, heads, spectrum]), lengths, loss)
    save(settings, model, Wav2Vec2FeatureExtractor(return_attention_mask=True, do_normalize=True))


def save(settings: Pretrain, model: PreTrainedModel, extractor) -> None:
    """float16 safetensors and the feature extractor, as `from_pretrained` wants them."""
    folder = Path(settings.out or Path(__file__).parent / "mini" / settings.model)
    model.half().save_pretrained(folder)
    extractor.save_pretrained(folder)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 2**20
    print(f"{folder}: {sum(p.numel() for p in model.parameters()) / 1e6:.2f} M parameters, {size:.2f} MiB")


def main(argv: list[str]) -> None:
    """Command line: the model's name, then key=value of `Pretrain`."""
    if not argv or argv[0] not in ("wavlm", "hubert", "whisper"):
        raise SystemExit(__doc__)
    options = OmegaConf.merge(OmegaConf.structured(Pretrain), {"model": argv[0]}, OmegaConf.from_dotlist(argv[1:]))
    settings: Pretrain = OmegaConf.to_object(options)  # pyright: ignore[reportAssignmentType]
    torch.manual_seed(settings.seed)
    torch.set_num_threads(settings.threads)
    start = time.time()
    if settings.model == "whisper":
        from teachers.pretrain_whisper import pretrain_whisper

        pretrain_whisper(settings)
    else:
        pretrain_waveform(settings)
    print(f"made in {time.time() - start:.0f} s: python -m teachers.pretrain {' '.join(argv)}")


if __name__ == "__main__":
    main(sys.argv[1:])
