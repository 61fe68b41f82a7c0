"""Pairs in English and French, made by a grammar: what was bought, by whom, when, with every number in words.

Small enough that a model learns it from nothing in minutes, and yet a translation: adjectives change places, they and
numbers follow the gender and number of a noun, the date goes first, and French counts by sixty and by twenty. Lengths
run from two words to about thirty. The same seed makes the same rows anywhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

UNITS = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["-", "-", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
UNITES = [
    "zéro",
    "un",
    "deux",
    "trois",
    "quatre",
    "cinq",
    "six",
    "sept",
    "huit",
    "neuf",
    "dix",
    "onze",
    "douze",
    "treize",
    "quatorze",
    "quinze",
    "seize",
    "dix-sept",
    "dix-huit",
    "dix-neuf",
]
DIZAINES = [
    "-",
    "-",
    "vingt",
    "trente",
    "quarante",
    "cinquante",
    "soixante",
    "soixante",
    "quatre-vingt",
    "quatre-vingt",
]
NOUNS = {
    "apple": ("pomme", "f"), "chair": ("chaise", "f"), "letter": ("lettre", "f"), "key": ("clé", "f"),
    "shirt": ("chemise", "f"), "table": ("table", "f"), "book": ("livre", "m"), "pencil": ("crayon", "m"),
    "car": ("véhicule", "m"), "melon": ("melon", "m"), "chest": ("coffre", "m"), "carpet": ("tapis", "m"),
}  # fmt: skip
"""English -> French, and its gender."""
ADJECTIVES = {
    "red": ("rouge", "rouge"), "green": ("vert", "verte"), "black": ("noir", "noire"), "heavy": ("lourd", "lourde"),
    "round": ("rond", "ronde"), "yellow": ("jaune", "jaune"), "cold": ("froid", "froide"), "blue": ("bleu", "bleue"),
}  # fmt: skip
"""English -> French of either gender, behind the noun."""
VERBS = {"bought": "acheté", "sold": "vendu", "lost": "perdu", "found": "trouvé", "hidden": "caché"}
PEOPLE = ["Anna", "Marc", "Julie", "Paul", "Nadia", "Hugo", "Chloé", "Louis"]
DAYS = dict(
    zip(
        ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"],
        ["lundi", "mardi", "mercredi", "jeudi", "vendredi", "samedi", "dimanche"],
        strict=True,
    )
)
MONTHS = dict(
    zip(
        [
            "January",
            "February",
            "March",
            "April",
            "May",
            "June",
            "July",
            "August",
            "September",
            "October",
            "November",
            "December",
        ],
        [
            "janvier",
            "février",
            "mars",
            "avril",
            "mai",
            "juin",
            "juillet",
            "août",
            "septembre",
            "octobre",
            "novembre",
            "décembre",
        ],
        strict=True,
    )
)
Pair = tuple[str, str]
WIDTH = 64
"""Of the model."""


def english(number: int) -> str:
    """A number from 0 to 999,999,999 in words.

    >>> english(4217)
    'four thousand two hundred and seventeen'
    """
    for size, name in ((1_000_000, "million"), (1_000, "thousand")):
        if number >= size:
            rest = number % size
            link = " and " if 0 < rest < 100 else " "
            return f"{english(number // size)} {name}" + (link + english(rest) if rest else "")
    if number >= 100:
        rest = number % 100
        return f"{UNITS[number // 100]} hundred" + (f" and {english(rest)}" if rest else "")
    if number < 20:
        return UNITS[number]
    return TENS[number // 10] + (f"-{UNITS[number % 10]}" if number % 10 else "")


def french(number: int, gender: str = "m", *, last: bool = True) -> str:
    """The same in French.

    >>> french(80), french(81, "f"), french(71), french(300), french(80_000), french(2_000_001)
    ('quatre-vingts', 'quatre-vingt-une', 'soixante et onze', 'trois cents', 'quatre-vingt mille', 'deux millions un')

    Args:
        number: from 0 to 999,999,999.
        gender: of what is counted.
        last: whether nothing but the noun follows: *deux cents*, but *deux cent mille*.
    """
    one = "une" if gender == "f" else "un"
    if number >= 1_000_000:
        many, rest = divmod(number, 1_000_000)
        head = f"{french(many)} million{'s' if many > 1 else ''}"
        return head + (f" {french(rest, gender, last=last)}" if rest else "")
    if number >= 1_000:
        many, rest = divmod(number, 1_000)
        head = "mille" if many == 1 else f"{french(many, last=False)} mille"
        return head + (f" {french(rest, gender, last=last)}" if rest else "")
    if number >= 100:
        many, rest = divmod(number, 100)
        head = "cent" if many == 1 else f"{UNITES[many]} cent"
        return f"{head} {french(rest, gender, last=last)}" if rest else head + "s" * (many > 1 and last)
    if number < 20:
        return one if number == 1 else UNITES[number]
    ten, unit = divmod(number, 10)
    if ten in (7, 9):
        unit += 10
    if not unit:
        return DIZAINES[ten] + "s" * (ten == 8 and last)
    small = one if unit == 1 else UNITES[unit]
    return f"{DIZAINES[ten]} et {small}" if unit in (1, 11) and ten < 8 else f"{DIZAINES[ten]}-{small}"


def counted(draw: random.Random) -> tuple[str, str]:
    """Some number of things."""
    number = int(10 ** draw.uniform(0, 4))
    noun, (nom, gender) = draw.choice(list(NOUNS.items()))
    plural = number > 1
    adjective, forms = draw.choice(list(ADJECTIVES.items()))
    described = draw.random() < 0.6
    nom = nom if not plural or nom.endswith("s") else f"{nom}s"
    adjectif = forms[gender == "f"] + "s" * plural
    source = f"{english(number)} {f'{adjective} ' * described}{noun}{'s' * plural}"
    return source, f"{french(number, gender)} {nom}{f' {adjectif}' * described}"


def date(draw: random.Random) -> Pair:
    """A day."""
    day, jour = draw.choice(list(DAYS.items()))
    month, mois = draw.choice(list(MONTHS.items()))
    number = draw.randint(1, 31)
    first = "premier" if number == 1 else french(number)
    return f"{day} {month} the {english(number)}", f"{jour} {first} {mois}"


def sentence(draw: random.Random) -> Pair:
    """Who bought how much of what, and when."""
    who, (verb, verbe) = draw.choice(PEOPLE), draw.choice(list(VERBS.items()))
    things = [counted(draw) for _ in range(draw.choice((1, 1, 1, 2)))]
    source, target = (" and ".join(each[0] for each in things), " et ".join(each[1] for each in things))
    if draw.random() < 0.5:
        return f"{who} has {verb} {source}", f"{who} a {verbe} {target}"
    on, le = date(draw)
    return f"{who} has {verb} {source} on {on}", f"le {le} {who} a {verbe} {target}"


KINDS: tuple[Callable[[random.Random], Pair], ...] = (counted, sentence)


def pairs(count: int, seed: int, unlike: frozenset[str] = frozenset()) -> list[Pair]:
    """English and French, each English text once.

    Args:
        count: of pairs.
        seed: of the draw.
        unlike: English texts that must not be among them.
    """
    draw, found = random.Random(seed), dict[str, str]()
    while len(found) < count:
        source, target = draw.choice(KINDS)(draw)
        if source not in unlike:
            found[source] = target
    return list(found.items())


def write_model(folder: Path, rows: list[Pair], seed: int) -> None:
    """A small Marian with weights drawn from the seed, and a tokenizer whose tokens are the words of the rows."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import MarianConfig, MarianMTModel, PreTrainedTokenizerFast

    words = dict.fromkeys(["<pad>", "</s>", "<unk>"])
    words |= dict.fromkeys(sorted({word for pair in rows for text in pair for word in text.split()}))
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=64
    )
    tokenizer.save_pretrained(folder)
    torch.manual_seed(seed)
    config = MarianConfig(
        vocab_size=len(words), d_model=WIDTH, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=2 * WIDTH, decoder_ffn_dim=2 * WIDTH, max_position_embeddings=64,
        scale_embedding=True, init_std=WIDTH**-0.5, dropout=0.0, attention_dropout=0.0, activation_dropout=0.0,
        pad_token_id=0, eos_token_id=1, forced_eos_token_id=None, decoder_start_token_id=0,
    )  # fmt: skip
    MarianMTModel(config).save_pretrained(folder)
