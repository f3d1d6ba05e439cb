"""How the small Whisper learns: to name the language and to transcribe; then, from recordings, to recognise."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import WhisperConfig, WhisperFeatureExtractor, WhisperForConditionalGeneration

from distill.data.clips import Clips, pad
from distill.data.sentences import LANGUAGES
from distill.encoders.logmel import log_mel
from distill.features import SAMPLE_RATE
from distill.tasks.asr import Asr
from teachers.checkpoint import open_checkpoint
from teachers.pretrain.alignment import phones_of
from teachers.pretrain.clusters import HOP
from teachers.pretrain.lessons import PHONES, ranked, spoken
from teachers.pretrain.material import Material, material
from teachers.pretrain.settings import Pretrain
from teachers.pretrain.training import save, train
from teachers.whisper import WhisperEncoder

WINDOW = 4  # seconds the encoder takes
FRAMES = 50 * WINDOW
PAD, START, END = 0, 1, 2  # then the languages, then the characters


def vocabulary(texts: list[str]) -> dict[str, int]:
    """Every language and every character of the texts, numbered after the special tokens."""
    symbols = [f"<|{language}|>" for language in LANGUAGES] + sorted(set("".join(texts)))
    return {symbol: number + 3 for number, symbol in enumerate(symbols)}


def tokens(clips: Clips, symbols: dict[str, int]) -> list[list[int]]:
    """Start, language, characters, end, for every clip."""
    pairs = zip(clips.column("language"), clips.column("transcript"), strict=True)
    return [[START, symbols[f"<|{language}|>"], *(symbols[letter] for letter in text), END] for language, text in pairs]


def known_phones(clips: Clips) -> list[list[str]]:
    """The phone spoken at every encoder frame of the embedded corpus."""
    rows = zip(spoken(clips), clips.samples, strict=True)
    return [said.at(np.arange(-(-samples // HOP)) / 50) for said, samples in rows]


def numbered(phones: Sequence[Sequence[str]]) -> list[Tensor]:
    """Phones by how common they are, -100 for rare ones: one (T,) tensor per clip."""
    return [torch.from_numpy(clip) for clip in ranked(phones, PHONES)]


def phone_loss(scores_BTC: Tensor, phones: Sequence[Tensor]) -> Tensor:
    """Cross-entropy of every frame's phone."""
    heard_BT = nn.utils.rnn.pad_sequence(list(phones), batch_first=True, padding_value=-100)
    return cross_entropy(scores_BTC[:, : heard_BT.shape[1]].flatten(0, 1), heard_BT.flatten())


def whisper_config(settings: Pretrain, symbols: int) -> WhisperConfig:
    """The stock configuration with a window of `WINDOW` seconds."""
    return WhisperConfig(
        vocab_size=symbols + 3,
        d_model=settings.width,
        encoder_layers=settings.layers,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=4 * settings.width,
        decoder_ffn_dim=4 * settings.width,
        max_source_positions=FRAMES,
        max_target_positions=128,
        pad_token_id=PAD,
        bos_token_id=START,
        eos_token_id=END,
        decoder_start_token_id=START,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        init_std=0.06,
        dropout=0.05,
        apply_spec_augment=True,
        mask_time_prob=0.05,
        mask_feature_prob=0.05,
    )


def encoder_input(data: Material, chosen: np.ndarray) -> Tensor:
    """Log-mel of whole windows: (B, 80, 100 * WINDOW)."""
    audio_BN, _ = pad([data.noisy[i] for i in chosen])
    return log_mel(nn.functional.pad(audio_BN, (0, WINDOW * SAMPLE_RATE - audio_BN.shape[1])), 80)


def pretrain_whisper(settings: Pretrain) -> None:
    """By transcription of the embedded corpus, whose phones are known, or by recognition of recordings."""
    if settings.data.corpus == "embedded":
        transcribe(settings)
    else:
        recognise(settings)


def transcribe(settings: Pretrain) -> None:
    """Transcription through the decoder, with frame-wise phones as a start that fades out.

    From nothing, the decoder alone does not take hold within minutes; phones of each frame do at once.
    """
    if settings.start:
        raise ValueError("whisper goes on from a checkpoint with recordings only; leave start= out, or name a corpus")
    data = material(settings)
    symbols = vocabulary(data.clips.column("transcript"))
    texts, phones = tokens(data.clips, symbols), numbered(known_phones(data.clips))
    model = WhisperForConditionalGeneration(whisper_config(settings, len(symbols)))
    head = nn.Linear(settings.width, PHONES)

    def loss(chosen: np.ndarray, done: float) -> tuple[Tensor, dict]:
        text = [torch.tensor(texts[i]) for i in chosen]
        text_BU = nn.utils.rnn.pad_sequence(text, batch_first=True, padding_value=PAD)
        labels_BU = text_BU[:, 1:].masked_fill(text_BU[:, 1:] == PAD, -100)
        out = model(encoder_input(data, chosen), decoder_input_ids=text_BU[:, :-1])
        written = cross_entropy(out.logits.flatten(0, 1), labels_BU.flatten())
        spoken = phone_loss(head(out.encoder_last_hidden_state), [phones[i] for i in chosen])
        right = (out.logits.argmax(2) == labels_BU)[labels_BU >= 0].float().mean()
        languages = (out.logits[:, 0].argmax(1) == labels_BU[:, 0]).float().mean()
        report = {"phone-loss": spoken, "text-loss": written, "text": right, "language": languages}
        return written + max(1 - done, 0.3) * spoken, report

    model.train()
    train(settings, nn.ModuleList([model, head]), data.clips.samples, loss)
    save(settings, model, WhisperFeatureExtractor(feature_size=80, chunk_length=WINDOW))


def recognise(settings: Pretrain) -> None:
    """Characters by CTC on the encoder of a checkpoint, which hears long clips in several windows; phones as a start.

    CTC alone stays on its plateau. The decoder is left as it was, and no longer fits: it takes one window, and much
    of a recorded corpus is in clips longer than that of a small Whisper.
    """
    if not settings.start:
        raise ValueError("whisper needs a checkpoint to go on from: start=teachers/mini/whisper")
    data = material(settings)
    data = data.select(Asr().select(data.clips))
    kinds = (WhisperForConditionalGeneration, WhisperFeatureExtractor)
    model, extractor = open_checkpoint(settings.start, *kinds, torch.float32)
    encoder, task = WhisperEncoder(model.model), Asr(flat=0.0).prepare(data.clips)
    texts, phones = task.targets(data.clips), numbered(phones_of(data.clips, data.clean))
    letters, head = nn.Linear(encoder.width, len(task.vocabulary) + 1), nn.Linear(encoder.width, PHONES)
    rng = np.random.default_rng(settings.seed)

    def loss(chosen: np.ndarray, done: float) -> tuple[Tensor, dict]:
        features = encoder(*pad(data.heard(chosen, settings.noisy, rng)))
        last_BTD = features.hidden[:, -1]
        total, characters = task.loss(letters(last_BTD), features.lengths, [texts[i] for i in chosen], done)
        spoken = phone_loss(head(last_BTD), [phones[i] for i in chosen])
        report = {"phone-loss": spoken, "text-loss": total / characters}
        return report["text-loss"] + max(1 - done, 0.3) * spoken, report

    encoder.train()
    train(settings, nn.ModuleList([encoder, letters, head]), data.clips.samples, loss)
    save(settings, model, extractor)
