"""What a family of upstreams is: how its checkpoints are opened, and which are published."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from distill.features import Encoder


@dataclass(frozen=True)
class Options:
    """What may be asked of one upstream beside its checkpoint."""

    depth: int = 0  # transformer layers it keeps, the first ones; 0: all
    dtype: torch.dtype = torch.float32  # of its weights; its features are float32 whatever they are
    whisper_window: str = "full"
    seamless_states: str = "conformer"


@dataclass(frozen=True)
class Family:
    """Checkpoints that share a forward."""

    load: Callable[[str, Options], Encoder]  # of a folder or a repository on the Hub
    sizes: Mapping[str, str]  # a scale, or a size published beside those -> checkpoint
