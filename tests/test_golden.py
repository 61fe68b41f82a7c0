"""Golden runs: every task and every way to train, six updates written down once, so that no change goes unseen.

    python -m tests.test_golden [NAME …]       # from the root, with src on the path: writes the files anew

A file holds loss and gradient norm of each update, the figures of each evaluation, and hashes of the weights that are
kept and of the last checkpoint: all in fp32, on one thread, with dropout. On the type of processor and with the versions
of libraries that the file names, all bits must be equal. Elsewhere figures may differ by rounding (`TOLERANCE`), and the
hashes say nothing.

They are runs as a caller sees them: through `bigbatch.start`, so that whatever lies beneath can be rebuilt. A file that
has to be written anew is a change of results, and the changelog says so. `tests/step/test_golden.py` has a hundred
updates of the step alone.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import nn

from bigbatch.model.letters import made_tokenizer
from tests import folds
from tests.detections import QUERIES, tiny_detector
from tests.drawings import tiny_dit
from tests.exact import exact_documents, exact_preferences, exact_texts, exact_weights, numbers
from tests.jobs import document, lines, start
from tests.models import tiny, tiny_pair, tiny_tokenizer, with_adapters
from tests.pictures import SIZE, tiny_vision
from tests.questions import question_rows

FOLDER = Path(__file__).resolve().parent / "golden"
TOLERANCE = 1e-5
"""Largest relative difference of a figure on another type of processor. Measured: two threads, which change the order of
sums, move a figure by at most 7e-7; a learning rate of a thousandth more moves one of each file by at least 6e-5."""
MASK, END = 4, 2
SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
KEYS = {
    "updates": 6, "batch": 16, "optimizer.lr": 1e-2, "optimizer.weight_decay": 0.01, "schedule": "cosine",
    "schedule.warmup": "10 %", "clip": 0.3, "seed": {"model": 1, "data": 2, "dropout": 3}, "plan.micro_tokens": 96,
    "plan.packing": "packed", "plan.threads": 1, "run.evaluate_every": "3 updates",
}  # fmt: skip


def classes(count: int, seed: int) -> list[dict[str, Any]]:
    """Token ids and a class."""
    return [{"input_ids": ids, "labels": ids[0] % 3} for ids in exact_documents(count, seed)]


def several(count: int, seed: int) -> list[dict[str, Any]]:
    """Token ids, and for each class whether it is one of theirs."""
    return [
        {"input_ids": ids, "labels": [float(ids[0] % 2), float(ids[-1] % 2), float(len(ids) > 8)]}
        for ids in exact_documents(count, seed)
    ]


def numbers_to_learn(count: int, seed: int) -> list[dict[str, Any]]:
    """Token ids and a number."""
    return [{"input_ids": ids, "labels": ids[0] / 64} for ids in exact_documents(count, seed)]


def tags(count: int, seed: int) -> list[dict[str, Any]]:
    """Token ids and tags, two thirds of the tokens with one."""
    return [
        {"input_ids": ids, "labels": [0, *(token % 3 if token % 2 else -100 for token in ids[1:])]}
        for ids in exact_documents(count, seed)
    ]


def plain(count: int, seed: int) -> list[dict[str, Any]]:
    """Token ids."""
    return [{"input_ids": ids} for ids in exact_documents(count, seed)]


def exact_images(count: int, seed: int) -> list[dict[str, Any]]:
    """Pixels, a third of the image brighter, and which third."""
    rows = []
    for number in range(count):
        pixels = np.array(numbers(seed + number, SIZE * SIZE * 3, 160)).reshape(SIZE, SIZE, 3)
        pixels[number % 3 * 5 :][:5] += 90
        rows.append({"image": pixels.astype(np.uint8), "label": "abc"[number % 3]})
    return rows


def exact_scenes(count: int, seed: int) -> list[dict[str, Any]]:
    """Pixels with rectangles, from none to one more than the model gives boxes, and where these are."""
    rows = []
    for number in range(count):
        drawn = iter(numbers(seed + number, SIZE * SIZE * 3 + 100, 2**20))
        pixels = np.array([next(drawn) % 60 for _ in range(SIZE * SIZE * 3)]).reshape(SIZE, SIZE, 3)
        boxes, kinds = [], []
        for _ in range(number % (QUERIES + 2)):
            left, top, wide, high, kind = (
                next(drawn) % most + least for most, least in ((9, 0), (9, 0), (6, 2), (6, 2), (3, 0))
            )
            pixels[top : top + high, left : left + wide] = 100 + 70 * kind
            boxes.append([float(left), float(top), float(wide), float(high)])
            kinds.append("abc"[kind])
        rows.append({"image": pixels.astype(np.uint8), "boxes": boxes, "classes": kinds})
    return rows


def small_images(count: int, seed: int) -> list[dict[str, Any]]:
    """Of 8 x 8 pixels."""
    return [{**row, "image": row["image"][:8, :8]} for row in exact_images(count, seed)]


def exact_folds(count: int, seed: int) -> list[dict[str, Any]]:
    """Chains with places, and folds of RNA."""
    return folds.fold_rows(count, seed)


def translations(count: int, seed: int) -> list[dict[str, Any]]:
    """Token ids to read, and others to write."""
    targets = exact_documents(count, seed + 77, longest=20)
    return [
        {"input_ids": source, "labels": [*target, END]}
        for source, target in zip(exact_documents(count, seed), targets, strict=True)
    ]


def questions(count: int, seed: int) -> list[dict[str, Any]]:
    """Questions about texts of several windows, some of them without an answer."""
    return question_rows(count, seed=seed, without=5)


def talks(count: int, seed: int) -> list[dict[str, Any]]:
    """Token ids of which every third stretch of four is the assistant's."""
    return [
        {
            "input_ids": ids,
            "labels": [token if place // 4 % 3 == 1 else -100 for place, token in enumerate(ids)],
        }
        for ids in exact_documents(count, seed)
    ]


def encoder(head: str) -> Callable[[], nn.Module]:
    """A BERT with this head."""
    return lambda: tiny("bert", head=head, dropout=0.1, **SMALL)


def decoder() -> nn.Module:
    """A GPT-2."""
    return tiny("gpt2", head="causal", dropout=0.1, n_embd=16, n_head=2, eos_token_id=END, bos_token_id=END)


def translator() -> nn.Module:
    """A small BART."""
    sizes = {"d_model": 16, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    return tiny_pair("bart", dropout=0.1, **sizes, encoder_attention_heads=2, decoder_attention_heads=2)


def base() -> nn.Module:
    """A BERT without head and pooler."""
    found = tiny("bert", dropout=0.1, **SMALL).base_model
    found.pooler = None
    return found


class Golden(NamedTuple):
    """What one file's run trains."""

    model: Callable[[], nn.Module]
    rows: Callable[[int, int], list[dict[str, Any]]]
    keys: Mapping[str, Any]


CLASSIFY = {"task": {"name": "classify", "labels": ["a", "b", "c"]}}
TAG = {"task": {"name": "tag", "labels": ["B-X", "I-X", "O"]}}
RUNS = {
    "classify": Golden(
        encoder("sequence"), classes, {**CLASSIFY, "loss": {"class_weights": "balanced", "label_smoothing": 0.05}}
    ),
    "classify-padded": Golden(encoder("sequence"), classes, {**CLASSIFY, "plan.packing": "padded"}),
    "tag": Golden(encoder("tokens"), tags, {**TAG, "loss": {"class_weights": {"B-X": 2.0, "I-X": 0.5}}}),
    "mlm": Golden(encoder("masked"), plain, {"task": {"name": "mlm", "mask_id": MASK}}),
    "clm-documents": Golden(decoder, plain, {"task": "clm", "data.max_length": 24}),
    "clm-fixed": Golden(decoder, plain, {"task": {"name": "clm", "blocks": "fixed"}, "data.max_length": 24}),
    "seq2seq": Golden(
        translator, translations, {"task": "seq2seq", "loss": {"label_smoothing": 0.1}, "plan.packing": "padded"}
    ),
    "match": Golden(base, exact_texts, {"task": "match", "gradient": "cached"}),
    "prefer": Golden(decoder, exact_preferences, {"task": "prefer", "loss": {"label_smoothing": 0.1}}),
    "orpo": Golden(
        decoder, exact_preferences, {"task": "prefer", "loss": {"name": "orpo", "args": {"nll": "tokens"}}}
    ),
    "span": Golden(
        lambda: tiny("bert", head="span", dropout=0.1, num_labels=2, **SMALL), questions,
        {"task": {"name": "span", "stride": 5, "null_threshold": 0.0}, "data.max_length": 24},
    ),
    "chat": Golden(decoder, talks, {"task": "chat"}),
    "image": Golden(
        lambda: tiny_vision("vit", dropout=0.1), exact_images,
        {"task": {"name": "image", "labels": ["a", "b", "c"], "augment": {"flip": 0.5, "crop": 3, "erase": 0.5}}, "plan.packing": "padded"},
    ),
    "detect": Golden(
        lambda: tiny_detector(dropout=0.1), exact_scenes,
        {"task": {"name": "detect", "labels": ["a", "b", "c"], "augment": {"flip": 0.5, "crop": 3, "erase": 0.5}}, "plan.packing": "padded"},
    ),
    "diffuse": Golden(
        tiny_dit, small_images,
        {"task": {"name": "diffuse", "labels": ["a", "b", "c"], "hide_class": 0.2, "steps": 2}, "plan.packing": "padded"},
    ),
    "contact": Golden(
        lambda: folds.folder(dropout=0.1), exact_folds,
        {"task": folds.TASK, "data.max_length": 64},
    ),
    "lora": Golden(
        lambda: with_adapters(encoder("sequence")(), r=2, alpha=4, dropout=0.1), classes, CLASSIFY
    ),
    "apart-average": Golden(encoder("sequence"), classes, {**CLASSIFY, "sync": {"replicas": 3, "period": 2}}),
    "apart-diloco": Golden(
        encoder("sequence"), classes, {**CLASSIFY, "sync": {"replicas": 2, "period": 2, "outer": "diloco"}}
    ),
    "bitwise": Golden(encoder("sequence"), classes, {**CLASSIFY, "plan.reproducible": "bitwise"}),
    "multi": Golden(
        encoder("sequence"), several, {"task": {"name": "classify", "kind": "multi", "labels": ["a", "b", "c"]}}
    ),
    "regression": Golden(
        lambda: tiny("llama", dropout=0.1, hidden_size=16, num_labels=1),
        numbers_to_learn,
        {"task": {"name": "classify", "kind": "regression"}},
    ),
    "ramp": Golden(
        encoder("sequence"), classes,
        {**CLASSIFY, "updates": None, "samples": 160, "batch": {"samples": 32, "ramp": {"from": 8, "by": "table", "table": {"16 samples": 16, "48 samples": 32}}}},
    ),
}  # fmt: skip


def machine() -> dict[str, str]:
    """What the bits of a float may depend on."""
    processor = [platform.machine(), torch.backends.cpu.get_cpu_capability()]
    known = Path("/proc/cpuinfo")
    if known.exists():
        pairs = [
            line.split(":", 1) for line in known.read_text().split("\n\n")[0].splitlines() if ":" in line
        ]
        first = {key.strip(): value.strip() for key, value in pairs}
        processor += [first.get(key, "") for key in ("vendor_id", "cpu family", "model", "stepping")]
    return {
        "processor": " ".join(processor),
        **{name: importlib.metadata.version(name) for name in ("torch", "transformers", "numpy")},
    }


def ended(name: str, folder: Path, **further: Any) -> dict[str, Any]:
    """The run, and what its file holds of it."""
    golden = RUNS[name]
    options: dict[str, Any] = {}
    if golden.rows in (exact_texts, questions):
        options["tokenizer"] = tiny_tokenizer(folder / "tokenizer")
    if golden.rows is exact_folds:
        options["tokenizer"] = made_tokenizer("letters")
    run = start(
        folder / "run",
        exact_weights(golden.model()),
        rows=golden.rows(60, 0),
        validation=golden.rows(20, 5000),
        set={key: value for key, value in {**KEYS, **golden.keys, **further}.items() if value is not None},
        **options,
    )
    with run:
        for _ in run:
            pass
    timed = ("seconds", "samples_per_second", "inference_samples_per_second")
    return {
        "updates": [[line["loss"], line["grad_norm"]] for line in lines(folder / "run", "update")],
        "evaluations": [
            {key: value for key, value in line.items() if isinstance(value, float) and key not in timed}
            for line in lines(folder / "run", "eval")
        ],
        "kept": digest(
            (name, tensor.detach().contiguous().numpy().tobytes())
            for name, tensor in run.model.state_dict().items()
        ),
        "last_checkpoint": digest(
            (name, json.dumps([part["sha256"] for part in entry["slices"]]).encode())
            for name, entry in document(last_checkpoint(folder / "run"), "index.json")["tensors"].items()
        ),
    }


def last_checkpoint(folder: Path) -> Path:
    """Weights and optimiser state behind the last update; those that are kept may be of an earlier one."""
    return sorted((folder / "checkpoints").iterdir())[-1]


def digest(named: Iterable[tuple[str, bytes]]) -> str:
    """SHA-256 of all names and contents, by name."""
    found = hashlib.sha256()
    for name, content in sorted(named):
        found.update(name.encode() + content)
    return found.hexdigest()


def read(name: str) -> dict[str, Any]:
    """The file."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="ascii"))


def write(name: str) -> None:
    """Make the file."""
    with TemporaryDirectory() as folder:
        found = {"made_on": machine(), **ended(name, Path(folder))}
    text = json.dumps(found, indent=1)
    (FOLDER / f"{name}.json").write_text(text + "\n", encoding="ascii")


def figures(found: Mapping[str, Any]) -> list[float]:
    """Those figures that rounding moves little: a rank or an argmax may jump."""
    return [
        *(figure for pair in found["updates"] for figure in pair),
        *(line["loss"] for line in found["evaluations"]),
    ]


def worst(found: Mapping[str, Any], expected: Mapping[str, Any]) -> float:
    """Largest relative difference of two files."""
    left, right = figures(found), figures(expected)
    assert len(left) == len(right)
    return max(abs(a - b) / max(abs(b), 1e-12) for a, b in zip(left, right, strict=True))


pytestmark = pytest.mark.skipif(
    not torch.backends.mkl.is_available(), reason="torch without MKL draws other dropout masks"
)


@pytest.mark.parametrize("name", RUNS)
def test_six_updates_are_what_they_have_always_been(name, tmp_path):
    expected = read(name)
    made_on = expected.pop("made_on")
    found = ended(name, tmp_path)
    assert worst(found, expected) <= TOLERANCE
    if made_on == machine():
        assert found == expected


if __name__ == "__main__":
    torch.set_num_threads(1)
    for each in sys.argv[1:] or RUNS:
        write(each)
        print(FOLDER / f"{each}.json")
