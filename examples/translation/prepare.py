"""Writes the pairs, the tokenizer and the untrained model of recipe.yaml; fetches two Debian packages, and runs none.

LibreOffice's help is there in English and Chinese, paragraph by paragraph under the same names. A paragraph and its
translation are a pair. Pages are dealt to train, validation and test whole; no English text is in two of them.
"""

from __future__ import annotations

import csv
import hashlib
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
LANGUAGES = {"en-US": "libreoffice-help-en-us", "zh-CN": "libreoffice-help-zh-cn"}
PAGES = "usr/share/libreoffice/help/{}/text"
TEXTS = ("p", "h1", "h2", "h3", "h4", "h5", "h6")
SPLITS = {"test": 8, "validation": 4}
"""Percent of the pages."""
VOCABULARY = 3000
LONGEST_LETTERS = 60


class Page(HTMLParser):
    """Name of each paragraph -> its text; what is shown on a Mac alone is left out."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, str] = {}
        self._name: str | None = None
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag in TEXTS:
            self._name = found.get("id")
        elif tag == "span" and (self._hidden or (found.get("class") or "") == "MAC"):
            self._hidden += 1

    def handle_endtag(self, tag: str) -> None:
        if tag in TEXTS:
            self._name = None
        elif tag == "span" and self._hidden:
            self._hidden -= 1

    def handle_data(self, data: str) -> None:
        if self._name is not None and not self._hidden:
            self.texts[self._name] = self.texts.get(self._name, "") + data


def texts_of(page: Path) -> dict[str, str]:
    """The paragraphs of a page, with single blanks."""
    parser = Page()
    parser.feed(page.read_text(encoding="utf-8"))
    return {name: " ".join(text.split()) for name, text in parser.texts.items()}


def is_translated(source: str, target: str) -> bool:
    """Whether these are English and Chinese, neither a name alone nor a page."""
    han = sum("\u4e00" <= sign <= "\u9fff" for sign in target)
    letters = sum(sign.isalpha() for sign in source)
    return letters >= 4 and 2 * han >= sum(map(str.isalpha, target)) > 0 and len(source) <= LONGEST_LETTERS


def split_of(page: str) -> str:
    """By a hash of the page's path."""
    place = int.from_bytes(hashlib.sha256(page.encode()).digest()[:4], "big") % 100
    for split, percent in SPLITS.items():
        if place < percent:
            return split
        place -= percent
    return "train"


def fetched() -> Path:
    """The packages' files, fetched and unpacked unless they are there."""
    folder = DATA / "download"
    for language, package in LANGUAGES.items():
        if (folder / PAGES.format(language)).is_dir():
            continue
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            sys.exit(f"this takes the Debian package {package}: run it where apt-get and dpkg-deb are")
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["apt-get", "download", "-qq", package], cwd=folder, check=True)
        archive = next(folder.glob(f"{package}_*.deb"))
        subprocess.run(["dpkg-deb", "-x", str(archive), str(folder)], check=True)
    return folder


def pairs() -> dict[str, list[tuple[str, str]]]:
    """Split -> (English, Chinese), each English text once."""
    english, chinese = (fetched() / PAGES.format(language) for language in LANGUAGES)
    rows: dict[str, list[tuple[str, str]]] = {"test": [], "validation": [], "train": []}
    pages = [page.relative_to(english).as_posix() for page in sorted(english.rglob("*.html"))]
    seen: set[str] = set()
    # Test pages first: what they say is taken out of the others.
    for split in rows:
        for page in pages:
            if split_of(page) != split or not (chinese / page).is_file():
                continue
            translated = texts_of(chinese / page)
            for name, source in texts_of(english / page).items():
                target = translated.get(name, "")
                if source.lower() not in seen and is_translated(source, target):
                    seen.add(source.lower())
                    rows[split].append((source, target))
    return rows


def write_csv(path: Path, rows: list[tuple[str, str]]) -> None:
    """Write the rows, all or nothing, and say how many."""
    unfinished = path.with_suffix(".unfinished")
    with unfinished.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["en", "zh"])
        writer.writerows(rows)
    unfinished.replace(path)
    print(f"{path.name}: {len(rows):,} pairs")


def write_model(folder: Path, rows: list[tuple[str, str]]) -> None:
    """A tokenizer of both languages, and the configuration of a small T5 without weights."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast, T5Config

    core = Tokenizer(models.Unigram())
    core.normalizer = normalizers.NFKC()
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    special = ["<pad>", "</s>", "<unk>"]
    core.train_from_iterator(
        (text for pair in rows for text in pair),
        trainers.UnigramTrainer(vocab_size=VOCABULARY, special_tokens=special, unk_token="<unk>"),
    )
    core.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=256
    )
    tokenizer.save_pretrained(folder)
    T5Config(
        vocab_size=len(tokenizer), d_model=128, d_kv=32, num_heads=4, d_ff=384, num_layers=2, num_decoder_layers=2,
        dropout_rate=0.1, feed_forward_proj="gated-gelu", decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
        architectures=["T5ForConditionalGeneration"],
    ).save_pretrained(folder)  # fmt: skip


def main() -> None:
    """Write everything into data/ beside this file."""
    DATA.mkdir(exist_ok=True)
    rows = pairs()
    for split, found in rows.items():
        write_csv(DATA / f"{split}.csv", found)
    write_model(DATA / "model", rows["train"])


if __name__ == "__main__":
    main()
