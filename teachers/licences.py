"""Under which licences the upstreams are published, as their cards on the Hub say; and which of several binds most."""

from collections.abc import Iterable
from pathlib import Path

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
STRICTER = ("mit", "apache-2.0", "cc-by-sa-3.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", UNKNOWN)  # each than those before


def licence(checkpoint: str) -> str:
    """The licence of a published name or of a shipped folder; UNKNOWN for any other."""
    if Path(checkpoint).is_dir():
        return "apache-2.0" if Path(checkpoint).resolve().parent == MINI.resolve() else UNKNOWN
    return LICENCES.get(checkpoint, UNKNOWN)


def strictest(licences: Iterable[str]) -> str:
    """The one that binds most."""
    return max(licences, key=STRICTER.index)
