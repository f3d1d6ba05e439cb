"""Under which licences the upstreams are published, as their cards on the Hub say; and which of several bind."""

from collections.abc import Iterable
from pathlib import Path

from teachers.checkpoint import shipped

UNKNOWN = "unknown"
MINI = Path(__file__).parent / "mini"  # ours, Apache-2.0

LICENCES = {
    "facebook/data2vec-audio-base": "apache-2.0",
    "facebook/data2vec-audio-large": "apache-2.0",
    "facebook/hubert-base-ls960": "apache-2.0",
    "facebook/hubert-large-ll60k": "apache-2.0",
    "facebook/hubert-xlarge-ll60k": "apache-2.0",
    "facebook/mms-1b": "cc-by-nc-4.0",
    "facebook/mms-300m": "cc-by-nc-4.0",
    "facebook/w2v-bert-2.0": "mit",
    "facebook/wav2vec2-base": "apache-2.0",
    "facebook/wav2vec2-large-lv60": "apache-2.0",
    "facebook/wav2vec2-xls-r-300m": "apache-2.0",
    # The cards of these three link to a CC BY-SA 3.0 text, the authors' code is MIT: the stricter one is listed.
    "microsoft/wavlm-base": "cc-by-sa-3.0",
    "microsoft/wavlm-base-plus": "cc-by-sa-3.0",
    "microsoft/wavlm-large": "cc-by-sa-3.0",
    "openai/whisper-tiny": "apache-2.0",
    "openai/whisper-base": "apache-2.0",
    "openai/whisper-small": "apache-2.0",
    "openai/whisper-medium": "apache-2.0",
    "openai/whisper-large-v2": "apache-2.0",
    "openai/whisper-large-v3": "apache-2.0",
    "utter-project/mHuBERT-147": "cc-by-nc-sa-4.0",
}
COVERS = {  # licence -> those that ask for nothing which it does not ask for too
    "mit": (),
    "apache-2.0": ("mit",),
    "cc-by-sa-3.0": ("mit", "apache-2.0"),
    "cc-by-nc-4.0": ("mit", "apache-2.0"),
    "cc-by-nc-sa-4.0": ("mit", "apache-2.0", "cc-by-nc-4.0"),  # not cc-by-sa-3.0, which wants itself kept
    UNKNOWN: ("mit", "apache-2.0"),
}


def licence(checkpoint: str) -> str:
    """The licence of a published name or of a shipped folder; UNKNOWN for any other."""
    folder = Path(shipped(checkpoint))
    if folder.is_dir():
        return "apache-2.0" if folder.resolve().parent == MINI.resolve() else UNKNOWN
    return LICENCES.get(checkpoint, UNKNOWN)


def binding(licences: Iterable[str]) -> list[str]:
    """Those that no other covers, sorted; several where none says all that is to be kept."""
    given = set(licences)
    covered = {weaker for one in given for weaker in COVERS[one]}
    return sorted(given - covered)
