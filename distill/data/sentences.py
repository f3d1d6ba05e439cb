"""What the embedded corpus says: an English grammar of about eighty words, word lists for other languages."""

import hashlib

import numpy as np

ENGLISH = {
    "name": "anna ben carla david emma frank greta henry",
    "number": "two three four five six seven eight nine ten",
    "adjective": "red green blue old new small large heavy bright quiet broken empty",
    "things": "boats books stones letters horses windows flowers trains chairs bottles maps coats",
    "verb": "sees buys sells finds moves paints counts carries",
    "place": "river market garden station harbour kitchen school tower",
    "where": "near behind under beside",
    "when": "today tomorrow tonight",
}
TEMPLATES = (
    "{name} {verb} {number} {adjective} {things} {where} the {place}",
    "{name} and {name} walk to the {place} {when}",
    "the {adjective} {things} are {where} the {place}",
    "please bring {number} {things} to the {place} {when}",
    "{when} the {place} is {adjective} and {adjective}",
    "did {name} leave the {adjective} {things} {where} the {place}",
    "{number} {things} cost {number} more than {number} {things}",
)

# espeak-ng's name of a language -> words that are put in any order. Several are close relatives, on purpose.
WORDS = {
    "de": "ein zwei drei vier fünf sechs haus wasser straße morgen abend kinder bücher schiff garten fenster klein "
    "groß rot grün schnell langsam heute immer und aber nicht gehen sehen kaufen bringen",
    "nl": "een twee drie vier vijf zes huis water straat morgen avond kinderen boeken schip tuin venster klein groot "
    "rood groen snel langzaam vandaag altijd en maar niet gaan zien kopen brengen",
    "sv": "ett två tre fyra fem sex hus vatten gata morgon kväll barn böcker skepp trädgård fönster liten stor röd "
    "grön snabb långsam idag alltid och men inte gå se köpa hämta",
    "es": "uno dos tres cuatro cinco seis casa agua calle mañana noche niños libros barco jardín ventana pequeño "
    "grande rojo verde rápido lento hoy siempre pero nunca caminar mirar comprar traer",
    "pt": "um dois três quatro cinco seis casa água rua manhã noite crianças livros barco jardim janela pequeno grande "
    "vermelho verde rápido devagar hoje sempre mas nunca andar olhar comprar trazer",
    "it": "uno due tre quattro cinque sei casa acqua strada mattina notte bambini libri barca giardino finestra "
    "piccolo grande rosso verde veloce lento oggi sempre ma mai camminare guardare comprare portare",
    "fr": "un deux trois quatre cinq six maison eau rue matin nuit enfants livres bateau jardin fenêtre petit grand "
    "rouge vert rapide lent demain toujours mais jamais marcher regarder acheter porter",
    "pl": "jeden dwa trzy cztery pięć sześć dom woda ulica rano wieczór dzieci książki statek ogród okno mały duży "
    "czerwony zielony szybko wolno dzisiaj zawsze ale nigdy iść widzieć kupić nosić",
    "cs": "jeden dva tři čtyři pět šest dům voda ulice ráno večer děti knihy loď zahrada okno malý velký červený "
    "zelený rychle pomalu dnes vždy ale nikdy jít vidět koupit nosit",
}
LANGUAGES = ("en", *WORDS)


def english(rng: np.random.Generator) -> str:
    """One sentence of the grammar, drawn with `rng`."""
    words = {slot: choices.split() for slot, choices in ENGLISH.items()}
    template = TEMPLATES[rng.integers(len(TEMPLATES))]
    parts = []
    for part in template.split():
        choices = words.get(part.strip("{}")) if part.startswith("{") else None
        parts.append(choices[rng.integers(len(choices))] if choices else part)
    return " ".join(parts)


def sentence(language: str, rng: np.random.Generator) -> str:
    """One sentence of `language`; for all but English, four to six words in any order."""
    if language == "en":
        return english(rng)
    words = WORDS[language].split()
    return " ".join(rng.permutation(words)[: rng.integers(4, 7)])


def split_of(text: str) -> str:
    """The split a sentence belongs to for good, whatever the seed: 7 of 10 train, 1 validation, 2 test."""
    bucket = hashlib.sha256(text.encode()).digest()[0] % 10
    return "train" if bucket < 7 else "validation" if bucket < 8 else "test"


def draw(language: str, split: str, rng: np.random.Generator) -> str:
    """A sentence of `language` that belongs to `split`."""
    while True:
        text = sentence(language, rng)
        if split_of(text) == split:
            return text
