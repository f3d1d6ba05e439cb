"""The fine-tuned student as a folder that a stock transformers pipeline opens."""

import json
from pathlib import Path
from typing import Any

from transformers import Wav2Vec2CTCTokenizer, Wav2Vec2Processor

from distill.files import writing
from distill.finetune import Downstream
from distill.tasks import Task
from students.export import extractor

PAD, UNKNOWN, SPACE = "<pad>", "<unk>", "|"  # CTC's blank; a character that no output has; between words


def save_downstream(downstream: Downstream, task: Task, folder: Path) -> None:
    """Checkpoint, feature extractor and, for recognition, tokenizer. Raises OSError as the disk does."""
    folder.mkdir(parents=True, exist_ok=True)
    prepares = extractor(downstream.encoder)
    with writing(folder):
        downstream.stock.save_pretrained(folder)
    prepares.save_pretrained(folder)
    if task.name == "asr":
        Wav2Vec2Processor(prepares, tokenizer(task, folder)).save_pretrained(folder)


def tokenizer(task: Task, folder: Path) -> Wav2Vec2CTCTokenizer:
    """Output i of the model is character i - 1 of the task, output 0 the blank."""
    if SPACE in task.vocabulary:
        raise ValueError(f"asr: {SPACE!r} stands between words in the tokenizer, so no transcript may hold it")
    characters = [SPACE if character == " " else character for character in task.vocabulary]
    numbers = {symbol: number for number, symbol in enumerate([PAD, *characters, UNKNOWN])}
    path = folder / "vocab.json"
    path.write_text(json.dumps(numbers, ensure_ascii=False), encoding="utf-8")
    names: dict[str, Any] = {"bos_token": None, "eos_token": None, "unk_token": UNKNOWN, "pad_token": PAD}
    return Wav2Vec2CTCTokenizer(str(path), word_delimiter_token=SPACE, **names)
