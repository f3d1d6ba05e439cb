"""How espeak-ng pronounces the words of a corpus, for `data.lexicon`: phones where there is no other lexicon.

python -m benchmarks.lexicon recipe=<any> data.corpus=folder data.folder.path=<corpus> ... > lexicon.txt

The words are those of all its transcripts, the phones espeak-ng's names for them, without stress and variants.
"""

import re
import sys
from collections.abc import Iterable, Iterator

from distill.data.corpora import load_splits
from distill.data.espeak import Espeak
from distill.data.lists import MARKS
from distill.loading import load
from teachers import FAMILIES

VOICE = "en-us"
STRESS = "',%="
VARIANT = re.compile(r"(?<=.)[#\-\d]+$")  # t#, I2, r-: of t, I, r
VOWELS = "@0358"  # names of vowels that are no letters
PAUSE = "_"  # begins the names of silences


def lines(texts: Iterable[str], espeak: Espeak, voice: str = VOICE) -> Iterator[str]:
    """`word phone phone ...` for each word of the texts that has a sound, in alphabetical order."""
    for word in sorted({part.strip(MARKS) for text in texts for part in text.lower().split()} - {""}):
        said = espeak.say(word, voice, rate=175, pitch=50, pitch_range=50).phones
        bare = [VARIANT.sub("", phone.strip(STRESS)) for phone in said if not phone.startswith(PAUSE)]
        if phones := [phone for phone in bare if phone[:1].isalpha() or phone[:1] in VOWELS]:
            yield " ".join([word, *phones])


def main(argv: list[str]) -> None:
    """Write the lexicon of a recipe's `data` to standard output."""
    if not argv or {"--help", "-h"} & set(argv):
        raise SystemExit(__doc__)
    splits = load_splits(load(argv, FAMILIES).data, lambda words: print(words, file=sys.stderr))
    texts = [text for clips in splits.values() for text in clips.column("transcript")]
    print("\n".join(lines(texts, Espeak())))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (ValueError, OSError) as error:
        sys.exit(f"lexicon: {error}")
