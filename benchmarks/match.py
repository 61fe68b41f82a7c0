"""Embeddings by pairs: bigbatch, and sentence-transformers' CachedMultipleNegativesRankingLoss, on the same batches.

Both begin with the same weights (a BERT of two layers that has learnt nothing), see the same pairs in the same batches
in the same order, with AdamW at the same constant rate, without dropout; sentence-transformers takes `--micro` texts at
a time, bigbatch plans for itself. Each is a fresh process, one thread; they take turns. Their losses are held against
each other, update by update: what is faster has to learn the same. Counted are the seconds of the updates
(sentence-transformers': tokenising, loss, backward and step; bigbatch's: as its records have them, its rows are
tokenised before), and the largest resident memory of the process.

    python benchmarks/match.py --save            # needs sentence-transformers
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

RESULTS = Path(__file__).resolve().parent / "results"
CONTESTANTS = ("bigbatch", "sentence-transformers")
LR, TEMPERATURE = 1e-3, 0.05
EPS = 1e-5
"""Of AdamW: with 1e-8 gradients that are nothing but rounding move weights as far as any."""


def pairs(count: int) -> list[dict[str, str]]:
    """Queries of 3 to 8 words, documents of a skewed 4 to 120; all texts are different."""
    random = np.random.default_rng(0)
    words = [f"w{number}" for number in range(2000)]

    def text(length: int) -> str:
        return " ".join(random.choice(words, length))

    lengths = np.clip(random.lognormal(3.0, 0.8, count), 4, 120).astype(int)
    return [{"query": text(int(random.integers(3, 9))), "document": text(int(n))} for n in lengths]


def model_folder(folder: Path) -> None:
    """A BERT of two layers, a tokenizer of whole words, and the files of sentence-transformers."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(2000))]
    inner = Tokenizer(models.WordLevel({word: at for at, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        model_max_length=128,
        **{f"{name}_token": token for name, token in names.items()},
    )
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(vocabulary), hidden_size=128, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=512, max_position_embeddings=128, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [
        {
            "idx": at,
            "name": str(at),
            "path": f"{at}_{kind}" if at else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for at, kind in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "sentence_bert_config.json").write_text('{"max_seq_length": 128, "do_lower_case": false}')
    for name, content in (
        ("1_Pooling", {"word_embedding_dimension": 128, "pooling_mode_mean_tokens": True}),
        ("2_Normalize", {}),
    ):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps(content))


def by_bigbatch(place: Path, batch: int, micro: int, updates: int) -> dict[str, Any]:
    """Losses and seconds of each update, by a run."""
    import bigbatch

    del micro
    keys = {
        "task": {"name": "match", "temperature": TEMPERATURE}, "batch": batch, "updates": updates, "clip": None,
        "optimizer": {"lr": LR, "weight_decay": 0.0, "eps": EPS}, "schedule": {"name": "constant", "warmup": 0},
        "data.max_length": 128, "plan": {"precision": "fp32", "compile": "off", "threads": 1}, "baseline": "off",
    }  # fmt: skip
    rows = json.loads((place / "pairs.json").read_text())
    records = []
    with bigbatch.start(
        str(place / "model"), rows, None, set=keys, run_dir=place / f"run-{os.getpid()}"
    ) as run:
        records = [(record["loss"], record["seconds"]) for record in run if record.kind == "update"]
    return {"losses": [loss for loss, _ in records], "seconds": [seconds for _, seconds in records]}


def by_sentence_transformers(place: Path, batch: int, micro: int, updates: int) -> dict[str, Any]:
    """The same by the other library's loss, in bigbatch's order."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.losses import CachedMultipleNegativesRankingLoss

    from bigbatch.data.order import epoch_order

    torch.set_num_threads(1)
    rows = json.loads((place / "pairs.json").read_text())
    model = SentenceTransformer(str(place / "model"), device="cpu")
    model.train()
    loss_of = CachedMultipleNegativesRankingLoss(model, scale=1 / TEMPERATURE, mini_batch_size=micro)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0, eps=EPS, fused=True)
    order = np.concatenate(
        [epoch_order(0, epoch, len(rows)) for epoch in range(updates * batch // len(rows) + 1)]
    )
    losses, seconds = [], []
    for update in range(updates):
        began = time.perf_counter()
        own = [rows[int(row)] for row in order[update * batch : (update + 1) * batch]]
        features = [model.preprocess([row[role] for row in own]) for role in ("query", "document")]
        optimizer.zero_grad()
        loss: Any = loss_of(features, torch.zeros(0))
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        seconds.append(time.perf_counter() - began)
    return {"losses": losses, "seconds": seconds}


def measured(contestant: str, place: Path, asked: argparse.Namespace) -> dict[str, Any]:
    """One round in a process of its own."""
    words = [sys.executable, __file__, "--as", contestant, "--place", place, "--batch", asked.batch]
    words += ["--micro", asked.micro, "--updates", asked.updates]
    done = subprocess.run(
        list(map(str, words)),
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def table(found: dict[str, list[dict[str, Any]]], asked: argparse.Namespace) -> list[str]:
    """What was measured, as Markdown."""
    seconds = {name: median(median(one["seconds"][1:]) for one in rounds) for name, rounds in found.items()}
    memory = {name: median(one["peak_bytes"] for one in rounds) for name, rounds in found.items()}
    ours, theirs = (np.array(found[name][0]["losses"]) for name in CONTESTANTS)
    python = platform.python_version()
    size = f"{asked.updates} updates of {asked.batch:,} pairs"
    lines = [
        "# Embeddings by pairs, against sentence-transformers",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, one thread, Python {python}; "
        f"{asked.rounds} rounds each in turn, {size}, {asked.micro} texts at a time there; the first update is not "
        "counted. `python benchmarks/match.py`.",
        "",
        "| | seconds an update | ratio | peak memory, MiB | ratio | loss, first and last update |",
        "|---|---|---|---|---|---|",
    ]
    for name, losses in zip(CONTESTANTS, (ours, theirs), strict=True):
        slower, larger = (each[name] / each[CONTESTANTS[0]] for each in (seconds, memory))
        lines.append(
            f"| {name} | {seconds[name]:.2f} | {slower:.2f} | {memory[name] / 2**20:,.0f} | {larger:.2f} | "
            f"{losses[0]:.6f}, {losses[-1]:.6f} |"
        )
    apart = float(np.max(np.abs(ours - theirs) / theirs))
    rounds = zip(*(found[name] for name in CONTESTANTS), strict=True)
    ratios = [median(b["seconds"][1:]) / median(a["seconds"][1:]) for a, b in rounds]
    told = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    return [
        *lines,
        "",
        f"Losses differ by at most {apart:.1e}, relative. Ratios of seconds, round by round: {told}.",
    ]


def main() -> None:
    """Measure, print, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=1024)
    parser.add_argument("--micro", type=int, default=32)
    parser.add_argument("--updates", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--as", dest="contestant", choices=CONTESTANTS)
    parser.add_argument("--place", type=Path)
    asked = parser.parse_args()
    if asked.contestant:
        run = by_bigbatch if asked.contestant == CONTESTANTS[0] else by_sentence_transformers
        said = run(asked.place, asked.batch, asked.micro, asked.updates)
        print(json.dumps({**said, "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "pairs.json").write_text(json.dumps(pairs(asked.rows)))
        model_folder(place / "model")
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in CONTESTANTS}
        for _ in range(asked.rounds):
            for name in CONTESTANTS:
                found[name].append(measured(name, place, asked))
    text = "\n".join(table(found, asked)) + "\n"
    print(text)
    if asked.save:
        (RESULTS / f"{datetime.now(UTC):%Y-%m-%d}-match.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
