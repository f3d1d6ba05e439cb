"""Audio decoded ahead: by processes for training, by threads where clips are heard once."""

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from distill.data.batches import Batch, Batches
from distill.data.clips import Clips, pad

THREADS = 4  # libsndfile and soxr let other threads run


class Attempts(Dataset):
    """The items of Batches, or what went wrong with them: a worker would wrap its error in a traceback."""

    def __init__(self, batches: Batches):
        self.batches = batches

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, item: int) -> Batch | ValueError:
        try:
            return self.batches[item]
        except ValueError as error:
            return error


def in_order(batches: Batches, workers: int) -> Generator[Batch]:
    """All batches; what is in them does not depend on how many processes decode them. Raises as Batches does.

    Workers are forks, which share the corpus and touch no accelerator.
    """
    context = "fork" if workers else None
    for attempt in DataLoader(Attempts(batches), batch_size=None, num_workers=workers, multiprocessing_context=context):
        if isinstance(attempt, ValueError):
            raise attempt
        yield attempt


def ahead(clips: Clips, batches: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """Rows, audio (B, N) and lengths (B,) of each batch; the next one is decoded while this one is at work."""
    coming: tuple[np.ndarray, list[Future]] | None = None
    with ThreadPoolExecutor(THREADS) as pool:
        for rows in batches:
            ready, coming = coming, (rows, [pool.submit(clips.audio, row) for row in rows])
            if ready:
                yield ready[0], *pad([clip.result() for clip in ready[1]])
        if coming:
            yield coming[0], *pad([clip.result() for clip in coming[1]])
