"""Writes data/ for the recipes: the chapters of Jane Austen's six novels, a tokenizer for them, the shape of a model.

The novels are those of the Debian package r-cran-janeaustenr, which is fetched once and unpacked; nothing of it is
run. It holds them as R writes values: a vector of texts a novel, a text a line. Of ten chapters eight are trained on.
"""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
PACKAGE = "r-cran-janeaustenr"
STORED = "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
VOCABULARY = 1024
POSITIONS = 4096
CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": VOCABULARY, "hidden_size": 128,
    "intermediate_size": 352, "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 4,
    "max_position_embeddings": POSITIONS, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": True, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 1, "initializer_range": 0.05,
}  # fmt: skip
_VECTOR, _TEXT, _MISSING = 16, 9, -1
_CHAPTER = re.compile(r"(?i)\s*(?:chapter|volume)\s+(?:[ivxl]+|\d+|[a-z-]+)\.?\s*")
_LEAST_LETTERS = 1000
"""Titles and tables of contents are shorter than a chapter."""


def main() -> None:
    """Write everything into data/ beside this file."""
    DATA.mkdir(exist_ok=True)
    novels = list(vectors_of(stored().read_bytes()))
    chapters = [chapter for lines in novels for chapter in chapters_of(lines)]
    splits: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for number, chapter in enumerate(chapters):
        splits[{4: "validation", 9: "test"}.get(number % 10, "train")].append(chapter)
    for name, found in splits.items():
        text = "".join(json.dumps({"text": chapter}, ensure_ascii=False) + "\n" for chapter in found)
        (DATA / f"{name}.jsonl").write_text(text, encoding="utf-8")
        print(f"{name}.jsonl: {len(found)} chapters, {sum(map(len, found)):,} letters")
    write_model(splits["train"])


def stored() -> Path:
    """The package's file of novels, fetched unless it is there."""
    folder = DATA / "download"
    if not (folder / STORED).is_file():
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            sys.exit(f"this takes the Debian package {PACKAGE}: run it where apt-get and dpkg-deb are")
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-qq", PACKAGE], cwd=folder, check=True)
        package = next(folder.glob(f"{PACKAGE}_*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)
    return folder / STORED


def vectors_of(content: bytes) -> Iterator[list[str]]:
    """The vectors of texts in a file of R values: each has its length, is compressed, and begins with a header."""
    at = 0
    while at < len(content):
        # R notes how many bytes come out; where the next value begins is known from the compressed stream.
        stream = zlib.decompressobj()
        value = stream.decompress(content[at + 4 :])
        at = len(content) - len(stream.unused_data)
        found = texts_of(value)
        if found is not None:
            yield found


def texts_of(value: bytes) -> list[str] | None:
    """A vector of texts as R serialises it (big-endian), None: it is something else."""
    version = struct.unpack_from(">i", value, 2)[0]
    at = 14 if version < 3 else 18 + struct.unpack_from(">i", value, 14)[0]
    kind, count = struct.unpack_from(">ii", value, at)
    if value[:2] != b"X\n" or kind & 255 != _VECTOR:
        return None
    at, found = at + 8, []
    for _ in range(count):
        kind, size = struct.unpack_from(">ii", value, at)
        if kind & 255 != _TEXT:
            raise ValueError(f"{STORED}: expected a text at byte {at}, found kind {kind & 255}")
        found.append("" if size == _MISSING else value[at + 8 : at + 8 + size].decode("utf-8"))
        at += 8 + max(size, 0)
    return found


def chapters_of(lines: list[str]) -> list[str]:
    """The text between headings; lines of a paragraph joined, a blank line between paragraphs."""
    found: list[list[str]] = [[]]
    for line in lines:
        if _CHAPTER.fullmatch(line):
            found.append([])
        else:
            found[-1].append(line.strip())
    texts = ("\n".join(part).strip() for part in found)
    joined = (re.sub(r"(?<!\n)\n(?!\n)", " ", re.sub(r"\n{2,}", "\n\n", text)) for text in texts)
    return [text for text in joined if len(text) >= _LEAST_LETTERS]


def write_model(texts: list[str]) -> None:
    """A byte-level tokenizer that has seen the training chapters, and the shape of a model without weights."""
    from tokenizers import ByteLevelBPETokenizer
    from transformers import PreTrainedTokenizerFast

    tokenizer = ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        texts, vocab_size=VOCABULARY, special_tokens=["<|end|>", "<|pad|>"], show_progress=False
    )
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._tokenizer,
        bos_token="<|end|>",
        eos_token="<|end|>",
        pad_token="<|pad|>",
        model_max_length=POSITIONS,
    )
    folder = DATA / "shape"
    fast.save_pretrained(folder)
    (folder / "config.json").write_text(json.dumps(CONFIG, indent=1) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
