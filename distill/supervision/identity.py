"""What targets were made from: digests of a corpus's audio and of a teacher, weights and settings alike."""

import hashlib
import json
from importlib.metadata import version

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from distill.data.clips import Clips
from distill.encoders.sharding import Sharded
from distill.features import Grid

CHUNK = 1024  # clips to a digest
UNSAID = ("training", "name_or_path")  # attributes that no feature depends on: a mode, and where a model was read


def corpus_digest(clips: Clips, accelerator: Accelerator) -> str:
    """Of every clip's id, length and stored audio; each process reads its share of the files."""
    mine = []
    for number in range(accelerator.process_index, -(-len(clips) // CHUNK), accelerator.num_processes):
        digest = hashlib.blake2b(digest_size=16)
        for row in range(number * CHUNK, min((number + 1) * CHUNK, len(clips))):
            stored = clips.stored(row)
            digest.update(f"{clips.ids[row]}\0{clips.samples[row]}\0{len(stored)}\0".encode())
            digest.update(stored)
        mine.append((number, digest.hexdigest()))
    return digest_of(sorted(gather_object(mine)))


def module_digest(module: nn.Module) -> str:
    """Of the class and its settings, of weights and buffers by name, and of the digests of the modules within.

    A sharded encoder's is that of the whole one.
    """
    if isinstance(module, Sharded):
        return module.digest
    digest = hashlib.blake2b(digest_size=16)
    said = {key: value for key, value in vars(module).items() if not key.startswith("_") and key not in UNSAID}
    kept = {key: value for key, value in said.items() if isinstance(value, bool | int | float | str | Grid)}
    digest.update(f"{type(module).__qualname__} {sorted(kept.items())}\0".encode())
    for name, value in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\0".encode())
        digest.update(as_bytes(value))
    for name, child in module.named_children():
        digest.update(f"{name} {module_digest(child)}\0".encode())
    return digest.hexdigest()


def as_bytes(value: Tensor) -> memoryview:
    """A tensor's content, whatever its type and device."""
    return value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data


def digest_of(value: object) -> str:
    """Of plain data."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def libraries() -> dict[str, str]:
    """What computes the features: other versions may round otherwise, or mean something else."""
    return {name: version(name) for name in ("torch", "transformers")}
