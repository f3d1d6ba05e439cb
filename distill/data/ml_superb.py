"""ML-SUPERB (arXiv 2305.10615): 143 languages of many corpora, 10 minutes or 1 hour of each to train on."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import mean

from distill.data.columns import Row

HOURS = ("10min", "1h")
MONOLINGUAL = {  # set -> the corpus it comes from; the language is its first three letters
    **{"eng1": "mls", "eng2": "nchlt", "eng3": "voxpopuli", "fra1": "voxforge", "fra2": "voxpopuli"},
    **{"deu1": "swc", "deu2": "voxpopuli", "rus": "M-AILABS", "swa": "ALFFA", "swe": "NST"},
    **{"jpn": "commonvoice", "cmn": "fleurs", "xty": "mexico-el"},
}
FEW_SHOT = {  # of these languages, the multilingual sets train on five clips alone
    "lit": "cv_lit_000026 cv_lit_000105 fleurs_lit_000097 mls_lit_000040 voxpopuli_lit_001707",
    "dan": "NST_dan_000007 NST_dan_000072 cv_dan_000158 fleurs_dan_000058 fleurs_dan_000071",
    "tur": "cv_tur_000095 cv_tur_000101 fleurs_tur_000060 fleurs_tur_000069 fleurs_tur_000095",
    "srp": "cv_srp_000078 cv_srp_000145 fleurs_srp_000068 fleurs_srp_000093 fleurs_srp_000105",
    "vie": "cv_vie_000105 cv_vie_000128 fleurs_vie_000067 fleurs_vie_000068 fleurs_vie_000077",
    "kaz": "cv_kaz_000080 cv_kaz_000097 cv_kaz_000111 fleurs_kaz_000036 fleurs_kaz_000066",
    "zul": "fleurs_zul_000049 fleurs_zul_000057 nchlt_zul_000027 nchlt_zul_000090 nchlt_zul_000104",
    "tsn": "googlei18n-tts_tsn_000026 googlei18n-tts_tsn_000044 googlei18n-tts_tsn_000108 nchlt_tsn_000001 "
    "nchlt_tsn_000032",
    "epo": "cv_epo_000006 cv_epo_000039 cv_epo_000063 cv_epo_000066 cv_epo_000076",
    "frr": "cv_frr_000023 cv_frr_000086 cv_frr_000095 cv_frr_000102 cv_frr_000104",
    "tok": "cv_tok_000004 cv_tok_000011 cv_tok_000030 cv_tok_000084 cv_tok_000101",
    "umb": "fleurs_umb_000028 fleurs_umb_000029 fleurs_umb_000033 fleurs_umb_000040 fleurs_umb_000047",
    "bos": "fleurs_bos_000067 fleurs_bos_000078 fleurs_bos_000080 fleurs_bos_000088 fleurs_bos_000090",
    "ful": "fleurs_ful_000055 fleurs_ful_000059 fleurs_ful_000067 fleurs_ful_000076 fleurs_ful_000081",
    "ceb": "fleurs_ceb_000054 fleurs_ceb_000064 fleurs_ceb_000069 fleurs_ceb_000071 fleurs_ceb_000080",
    "luo": "fleurs_luo_000056 fleurs_luo_000062 fleurs_luo_000067 fleurs_luo_000073 fleurs_luo_000077",
    "kea": "fleurs_kea_000052 fleurs_kea_000070 fleurs_kea_000078 fleurs_kea_000083 fleurs_kea_000085",
    "sun": "googlei18n-asr_sun_000001 googlei18n-asr_sun_000007 googlei18n-asr_sun_000041 "
    "googlei18n-asr_sun_000099 googlei18n-asr_sun_000106",
    "tso": "nchlt_tso_000035 nchlt_tso_000040 nchlt_tso_000089 nchlt_tso_000104 nchlt_tso_000125",
    "tos": "mexico-el_tos_000006 mexico-el_tos_000122 mexico-el_tos_000152 mexico-el_tos_000496 mexico-el_tos_000563",
}


def read_ml_superb(folder: Path, hours: str, chosen: str) -> list[Row]:
    """All languages with the few-shot ones, or one monolingual set: `<corpus>/<language>/transcript_*.txt` and `wav/`.

    hours: one of HOURS, of the training split alone. chosen: a set of MONOLINGUAL, "" for all languages.
    Raises ValueError when there is nothing of the kind.
    """
    pattern = f"{MONOLINGUAL[chosen]}/{chosen[:3]}" if chosen else "*/*"
    lists = {"train": f"transcript_{hours}_train.txt", "validation": "transcript_10min_dev.txt"}
    lists["test"] = "transcript_10min_test.txt"
    places = sorted(path.parent for path in folder.glob(f"{pattern}/{lists['train']}"))
    if not places:
        raise ValueError(
            f"{folder} has no {pattern}/{lists['train']}; data.folder.path is the folder of ML-SUPERB's corpora, "
            "such as .../eighth_version, in which mls, fleurs, voxpopuli lie"
        )
    rows = [row for place in places for split, name in lists.items() for row in _clips(place, split, place / name)]
    few = {} if chosen else FEW_SHOT
    kept = [row for row in rows if row["split"] != "train" or row["id"] in few.get(row["language"], row["id"]).split()]
    return kept


def _clips(place: Path, split: str, transcripts: Path) -> Iterator[Row]:
    """Lines of a clip's name, a second name, and what is said."""
    for number, line in enumerate(transcripts.read_text(encoding="utf-8").splitlines(), 1):
        fields = line.split(maxsplit=2)
        if len(fields) < 2:
            raise ValueError(
                f"{transcripts}:{number}: wants a clip's name, a second name and its text, got {line[:80]!r}"
            )
        yield {
            "audio": str((place / "wav" / f"{fields[0]}.wav").resolve()),
            "id": fields[0],
            "split": split,
            "language": place.name,
            "transcript": fields[2] if len(fields) > 2 else "",
        }


def nine_languages(error_rates: Mapping[str, float]) -> float:
    """The average of the monolingual sets: first within a language, then over the nine. ValueError if one lacks."""
    missing = [name for name in MONOLINGUAL if name not in error_rates]
    if missing:
        raise ValueError(f"no error rate for {', '.join(missing)}; the average is over {', '.join(MONOLINGUAL)}")
    languages = dict.fromkeys(name[:3] for name in MONOLINGUAL)
    return mean(mean(error_rates[name] for name in MONOLINGUAL if name[:3] == language) for language in languages)
