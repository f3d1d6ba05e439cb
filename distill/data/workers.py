"""Batches in order, decoded ahead by worker processes where these are wanted."""

from collections.abc import Iterator

from torch.utils.data import DataLoader, Dataset

from distill.data.batches import Batch, Batches


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


def in_order(batches: Batches, workers: int) -> Iterator[Batch]:
    """All batches; what is in them does not depend on how many processes decode them. Raises as Batches does.

    Workers are forks, which share the corpus and touch no accelerator.
    """
    context = "fork" if workers else None
    for attempt in DataLoader(Attempts(batches), batch_size=None, num_workers=workers, multiprocessing_context=context):
        if isinstance(attempt, ValueError):
            raise attempt
        yield attempt
