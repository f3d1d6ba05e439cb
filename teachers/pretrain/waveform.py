"""How the small WavLM and HuBERT learn: masked prediction of clusters, and of the spectrum as a start."""

import time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor, WavLMConfig, WavLMModel

from distill.data.clips import pad
from distill.waveform import front_end_frames
from teachers.checkpoint import open_checkpoint
from teachers.pretrain.clusters import CODEBOOKS, clusters
from teachers.pretrain.material import material
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
    """WavLM or HuBERT; targets are clusters of the clean speech, the input is noisy and, for WavLM, mixed."""
    data = material(settings)
    model, extractor = begin(settings)
    lengths = data.clips.samples
    frames = front_end_frames(torch.from_numpy(lengths), model.config.conv_kernel, model.config.conv_stride).numpy()
    start = time.time()
    labels = clusters(data.clean, list(frames), settings.seed)
    print(f"clusters in {time.time() - start:.0f} s", flush=True)
    books = list(CODEBOOKS) if settings.model == "wavlm" else ["phonetic", "voice"]
    heads = nn.ModuleDict({name: nn.Linear(model.config.hidden_size, CODEBOOKS[name]) for name in books})
    spectrum = nn.Linear(model.config.hidden_size, 80)
    rng = np.random.default_rng(settings.seed)

    def loss(chosen: np.ndarray, done: float) -> tuple[Tensor, dict]:
        audio_BN, lengths_B = pad(data.heard(chosen, settings.noisy, rng))
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
    save(settings, model, extractor)
