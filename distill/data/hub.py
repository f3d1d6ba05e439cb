"""A dataset of the Hugging Face Hub, or a local folder that `datasets` reads: what it is called is plain data."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import datasets
from datasets import config
from datasets.exceptions import DatasetNotFoundError

from distill.data.splits import NAMES


@dataclass(frozen=True)
class Hub:
    """Which dataset."""

    name: str = ""  # as on the Hub, or a folder on this disk
    config: str = ""  # empty: the only one
    revision: str = ""  # a branch, tag or commit; empty: the newest


def open_hub(hub: Hub, splits: Mapping[str, str], say: Callable[[str], None]) -> list[tuple[str, datasets.Dataset]]:
    """The splits of a dataset, each with our name; says what it is and how large before it is fetched.

    splits: ours -> theirs, several joined by +; empty: the usual names.
    Raises ValueError or OSError with the name, the reason and the way out.
    """
    if not hub.name:
        raise ValueError("data.corpus=hub wants data.hub.name=<owner/name on the Hub, or a folder>")
    part, revision = hub.config or None, hub.revision or None
    try:
        builder = datasets.load_dataset_builder(hub.name, part, revision=revision)
        say(f"{hub.name}{f' ({part})' if part else ''}: {_size(builder.info)}; kept in {config.HF_DATASETS_CACHE}")
        if unused := _unused(map(str, builder.config.data_files or ()), splits):
            say(f"all of its splits are fetched, {unused} too, which are not used (distill.stream fetches none)")
        found = datasets.load_dataset(hub.name, part, revision=revision)
    except Exception as error:  # three libraries meet here, and what they raise is no closed list
        raise explained(hub, error) from error
    assert isinstance(found, datasets.DatasetDict)  # no split was named
    return _parts(found, splits or _usual(found), hub.name)


def explained(hub: Hub, error: Exception, key: str = "data.hub") -> Exception:
    """The same error with the dataset's name, what is wrong, and the way out by keys below this one."""
    words = str(error).splitlines()[0] if str(error) else type(error).__name__
    if "gated" in words:
        way = "accept its terms on https://huggingface.co/datasets/" + hub.name + " and run `hf auth login`"
    elif isinstance(error, ConnectionError) or "offline" in words.lower():
        way = f"with no network, give a folder that holds it: {key}.name=<folder>, or unset HF_HUB_OFFLINE"
    elif isinstance(error, DatasetNotFoundError):
        way = f"correct {key}.name; a private one needs `hf auth login`"
    elif "config" in words.lower():
        way = f"say which one: {key}.config=<config>"
    else:
        way = f"try datasets.load_dataset by itself, then correct {key}"
    text = f"the dataset {hub.name!r} cannot be opened: {words}\n{way}"
    return OSError(text) if isinstance(error, OSError) else ValueError(text)


def _size(info: datasets.DatasetInfo) -> str:
    """What is to be fetched and what it takes on the disk, as far as the dataset says."""
    sizes = [(info.download_size, "to download"), (info.dataset_size, "on the disk")]
    known = [f"{size / 1e9:.2f} GB {what}" for size, what in sizes if size]
    return ", ".join(known) or "of a size it does not say"


def _unused(there: Iterable[str], splits: Mapping[str, str]) -> str:
    """Splits that come along: `datasets` fetches a configuration whole (huggingface/datasets#6832)."""
    wanted = {theirs for joined in splits.values() for theirs in joined.split("+")}
    return ", ".join(split for split in there if split not in wanted) if splits else ""


def _usual(found: datasets.DatasetDict) -> dict[str, str]:
    named = {NAMES[name.lower()]: name for name in map(str, found) if name.lower() in NAMES}
    if not named:
        raise ValueError(
            f"none of the splits {', '.join(map(str, found))} has a usual name; say data.splits.train=<split>"
        )
    return named


def _parts(found: datasets.DatasetDict, splits: Mapping[str, str], name: str) -> list[tuple[str, datasets.Dataset]]:
    pairs = [(ours, theirs) for ours, joined in splits.items() for theirs in joined.split("+")]
    for ours, theirs in pairs:
        if theirs not in found:
            there = ", ".join(map(str, found))
            raise ValueError(f"{name} has no split {theirs!r}; it has {there}\nsay data.splits.{ours}=<split>")
    return [(ours, found[theirs]) for ours, theirs in pairs]
