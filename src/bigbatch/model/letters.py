"""Tokenizers of nucleotides and amino acids, made here: `model.tokenizer: letters`, `kmers:6` or `codons`.

    letters   a token a letter, of any alphabet of A to Z (ESM: Rives et al. 2021)
    kmers:K   a token for K nucleotides side by side, none twice; what is left, and K letters with an unknown one among
              them, letter by letter (Nucleotide Transformer: Dalla-Torre et al. 2023)
    codons    three nucleotides a token, in frame from the first on; one with an unknown letter is `<unk>`

Letters are read as capitals, U as T by `kmers` and `codons`. What is written into a model's folder is an ordinary
`tokenizer.json`, which transformers opens.
"""

from __future__ import annotations

import itertools
import re
import string

import numpy as np
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from bigbatch.errors import ModelError

SPECIAL = ("<cls>", "<pad>", "<eos>", "<unk>", "<mask>")
"""In ESM's order: ids 0 to 3, and the mask behind them."""
NUCLEOTIDES = "ACGT"
COMPLEMENTS = dict(zip("ACGTURYSWKMBDHVN-.", "TGCAAYRSWMKVHDBN-.", strict=True))
"""Of letters, IUPAC's for several nucleotides and gaps included (Cornish-Bowden 1985)."""
MOST_K = 8
"""4^8 = 65,536 tokens."""
_NAME = re.compile(r"letters|codons|kmers:(\d+)")


def is_made_here(name: str | None) -> bool:
    """Whether `model.tokenizer` means one of these."""
    return name is not None and _NAME.fullmatch(name) is not None


def made_tokenizer(name: str) -> PreTrainedTokenizerFast:
    """The tokenizer of this name.

    Args:
        name: `letters`, `kmers:1` to `kmers:8`, or `codons`.

    Raises:
        ModelError: another K.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise ModelError(f"model.tokenizer: found {name!r}; expected letters, codons or kmers:6")
    size = 3 if name == "codons" else int(found[1] or 1)
    if not 1 <= size <= MOST_K:
        raise ModelError(f"model.tokenizer: found {name}; expected kmers:1 to kmers:{MOST_K}")
    words = [*string.ascii_uppercase, "*", "-", "."]
    if size > 1:
        words += map("".join, itertools.product(NUCLEOTIDES, repeat=size))
    ids = {word: number for number, word in enumerate([*SPECIAL, *words])}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    steps = [normalizers.Replace(Regex(r"\s"), "")]
    steps += [normalizers.Replace(letter.lower(), letter) for letter in string.ascii_uppercase]
    if size > 1:
        steps.append(normalizers.Replace("U", "T"))
    tokenizer.normalizer = normalizers.Sequence(steps)
    whole = f"[{NUCLEOTIDES}]{{{size}}}"
    pieces = {"letters": ".", "codons": ".{3}|."}.get(name, f"{whole}|.")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(pieces), "isolated")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<cls> $A <eos>",
        pair="<cls> $A <eos> $B:1 <eos>:1",
        special_tokens=[("<cls>", ids["<cls>"]), ("<eos>", ids["<eos>"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        cls_token="<cls>",
        pad_token="<pad>",
        eos_token="<eos>",
        sep_token="<eos>",
        unk_token="<unk>",
        mask_token="<mask>",
        clean_up_tokenization_spaces=False,
    )


def complement_ids(vocabulary: dict[str, int]) -> np.ndarray:
    """(V,) int64: id of the token on the other strand, read the other way; -1 for tokens that are no nucleotides.

    Args:
        vocabulary: token -> id; tokens of letters, case by case.

    Raises:
        ModelError: a token's complement is not in the vocabulary: this is no tokenizer of nucleotides.
    """
    found = np.full(max(vocabulary.values(), default=-1) + 1, -1, np.int64)
    for token, number in vocabulary.items():
        if token and set(token.upper()) <= COMPLEMENTS.keys():
            other = "".join(COMPLEMENTS[letter] for letter in reversed(token.upper()))
            other = other if token.isupper() else other.lower()
            if "U" in vocabulary and "T" not in vocabulary:
                other = other.replace("T", "U")
            if other not in vocabulary:
                raise ModelError(f"{token!r} is a token, and its reverse complement {other!r} is none")
            found[number] = vocabulary[other]
    return found
