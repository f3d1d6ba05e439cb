"""How the small WavLM and HuBERT learn: masked prediction of classes of frames, and of the spectrum as a start."""

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

from distill.data.clips import pad
from distill.encoders.waveform import front_end_frames
from distill.features import frame_mask
from teachers.checkpoint import open_checkpoint
from teachers.pretrain.answers import Answers
from teachers.pretrain.clusters import CODEBOOKS
from teachers.pretrain.lessons import Lessons, found, known, said_in
from teachers.pretrain.material import Material, material
from teachers.pretrain.settings import Pretrain
from teachers.pretrain.training import save, train


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


def begin(settings: Pretrain) -> tuple[WavLMModel | HubertModel, Wav2Vec2FeatureExtractor]:
    """The checkpoint to go on from, in float32, or a random model; and its feature extractor."""
    kind = {"wavlm": WavLMModel, "hubert": HubertModel}[settings.model]
    if not settings.start:
        return kind(waveform_config(settings)), Wav2Vec2FeatureExtractor(return_attention_mask=True, do_normalize=True)
    model, extractor = open_checkpoint(settings.start, kind, Wav2Vec2FeatureExtractor, torch.float32)
    if not extractor.do_normalize:
        raise ValueError(f"{settings.start} hears clips that are not normalised; go on from one with do_normalize=true")
    return model, extractor


def pretrain_waveform(settings: Pretrain) -> None:
    """WavLM or HuBERT; targets are of the clean speech, the input is noisy and, for WavLM, mixed."""
    data = material(settings)
    model, extractor = begin(settings)
    said = said_in(data.clips) if settings.lessons == "known" else []
    if said:
        data = data.varied(settings.seed)
    lengths = data.samples
    frames = front_end_frames(torch.from_numpy(lengths), model.config.conv_kernel, model.config.conv_stride).numpy()
    start = time.time()
    lessons = known(data, said, frames.tolist()) if said else clustered(settings, data, frames.tolist())
    print(f"{', '.join([*lessons.frames, *lessons.clips])} in {time.time() - start:.0f} s", flush=True)
    answers = Answers(model.config.hidden_size, lessons)
    rng = np.random.default_rng(settings.seed)

    def loss(chosen: np.ndarray, done: float) -> tuple[Tensor, dict]:
        audio_BN, lengths_B = pad(data.heard(chosen, settings.noisy, rng))
        if settings.model == "wavlm":
            audio_BN = mix(audio_BN, lengths_B, rng)
        frames_B = torch.from_numpy(frames[chosen])
        hidden_BT = mask_spans(frames_B, rng, settings.masked)
        heard = hear(model, normalise(audio_BN, lengths_B), lengths_B, hidden_BT)
        # From nothing, clusters alone take long to shape the front end; the clean spectrum of each frame does not.
        total, report = ask(answers, lessons, chosen, heard, frames_B, hidden_BT)
        return total + max(1.2 - done, 0.0) * settings.spectrum * report["mel"], report

    model.train()
    train(settings, nn.ModuleList([model, answers]), lengths, loss)
    save(settings, model, extractor)


def clustered(settings: Pretrain, data: Material, frames: Sequence[int]) -> Lessons:
    """Clusters of sounds and voices, for WavLM of prosody too."""
    books = list(CODEBOOKS) if settings.model == "wavlm" else ["phonetic", "voice"]
    return found(data, frames, books, settings.seed)


def hear(
    model: WavLMModel | HubertModel, audio_BN: Tensor, lengths_B: Tensor, hidden_BT: Tensor
) -> tuple[Tensor, Tensor]:
    """The middle layer, and the last one with the norm that comes after it: (B, T, D) each."""
    mask_BN = frame_mask(lengths_B, audio_BN.shape[1])
    out = model(audio_BN, attention_mask=mask_BN.long(), mask_time_indices=hidden_BT, output_hidden_states=True)
    return out.hidden_states[len(out.hidden_states) // 2], out.last_hidden_state


def ask(
    answers: Answers,
    lessons: Lessons,
    chosen: np.ndarray,
    heard: tuple[Tensor, Tensor],
    frames_B: Tensor,
    hidden_BT: Tensor,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of all lessons but the spectrum, and what of each was told right; `mel` is the spectrum's loss."""
    valid_BT = frame_mask(frames_B, hidden_BT.shape[1])
    middle_BTD, last_FD, hidden_F = heard[0], heard[1][valid_BT], hidden_BT[valid_BT]
    total, report = torch.zeros(()), {}
    for name, labels in lessons.frames.items():
        wanted_F = torch.from_numpy(np.concatenate([labels[clip] for clip in chosen])).long()
        part, report[name] = answers.of_frames(name, last_FD, wanted_F, hidden_F)
        total = total + part
    for name, labels in lessons.clips.items():
        part, report[name] = answers.of_clips(name, middle_BTD, frames_B, torch.from_numpy(labels[chosen]))
        total = total + 0.5 * part
    mel_FM = torch.from_numpy(np.concatenate([lessons.mel[clip] for clip in chosen]))
    report["mel"] = 4 * (answers.spectrum(last_FD) - mel_FM).abs().mean()
    return total, report
