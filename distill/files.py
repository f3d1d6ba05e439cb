"""Files that appear whole or not at all."""

import json
import os
from pathlib import Path


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


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))
