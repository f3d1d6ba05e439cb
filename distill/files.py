"""Files that appear whole or not at all, and the digest of what files hold."""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What torch and safetensors say when the disk takes no more, as an OSError that names the place."""
    try:
        yield
    except (RuntimeError, SafetensorError) as error:
        words = str(error)
        if isinstance(error, RuntimeError) and "PytorchStream" not in words and "inline_container" not in words:
            raise
        raise OSError(f"cannot write {path}: {words.splitlines()[0]}; is the disk full?") from error


def write_text(path: Path, text: str) -> None:
    """Write beside the place and rename; what was there before stays until then."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.unfinished")
    try:
        unfinished.write_text(text, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    write_text(path, json.dumps(value, indent=1) + "\n")


def digest(folder: Path, names: Sequence[str]) -> str:
    """Of the content of some files of a folder; those that are not there count as empty."""
    found = hashlib.blake2b(digest_size=16)
    for path in (folder / name for name in names):
        content = path.read_bytes() if path.exists() else b""
        found.update(f"{path.name} {len(content)}\0".encode())
        found.update(content)
    return found.hexdigest()


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))
