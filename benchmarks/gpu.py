"""BERT-large and a Llama-like model of 1B parameters on one GPU, against the Trainer and a plain loop, compiled.

Random weights: speed does not depend on their values. Data are random words, so that lengths are exactly what is
wanted. Four settings:

    bert-512     BERT-large shapes, every sequence 512 tokens
    bert-mix     BERT-large shapes, lengths log-normal (median 160, sigma 0.8), 8 to 512
    clm-2048     Llama-like, 1.1B parameters, documents of 2,048 tokens
    clm-mix      the same, lengths log-normal (median 500, sigma 1), 16 to 2,048

Prints sequences and tokens per second, the share of the device's published peak (model FLOP utilisation: useful FLOPs
as in docs/benchmarks.md) and of the best matrix product measured, and from torch's profiler where the time goes.

    python benchmarks/gpu.py                          # on a GPU, bf16
    python benchmarks/gpu.py --only bert-mix --peak-tflops 312
    python benchmarks/gpu.py --tiny                   # the whole path with tiny shapes, on a CPU too

No GPU figures exist yet: this has been run with --tiny, on a CPU, only. MLPerf's submissions reach about 960
sequences per second and H100 with BERT-large. That is masked-language pretraining with LAMB, unpadded, with fp8 among
the formats and kernels of its own; here it is a classification head, AdamW and bf16. Do not divide one by the other.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bigbatch.recipe.load import load_recipe
from bigbatch.study.bench import bench
from bigbatch.study.results import CEILING, Results, figure
from bigbatch.study.tables import TITLES, shown

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PEAK_TFLOPS = {"H100": 989.0, "H200": 989.0, "A100": 312.0, "L40S": 362.0, "L4": 121.0}
"""Published dense bf16 peak by a word of the device's name (SXM where there are several)."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One model and one distribution of lengths."""

    family: str
    """`bert` or `llama`."""
    config: dict[str, Any]
    batch_samples: int
    longest: int
    """Tokens."""
    lengths: Callable[[np.random.Generator, int], np.ndarray]
    """(generator, count) -> tokens of each sample."""


BERT = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "max_position_embeddings": 512,
}
LLAMA = {
    "hidden_size": 2048,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "intermediate_size": 5632,
    "max_position_embeddings": 2048,
}
TINY: dict[str, dict[str, Any]] = {
    "bert": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    "llama": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "intermediate_size": 64,
    },
}
VOCABULARY = {"bert": 30_522, "llama": 32_000}


def log_normal(median: float, sigma: float, least: int, most: int) -> Callable:
    """Lengths as texts have them: many short ones, few long ones."""

    def draw(generator: np.random.Generator, count: int) -> np.ndarray:
        return np.clip(generator.lognormal(np.log(median), sigma, count), least, most).astype(int)

    return draw


def always(length: int) -> Callable:
    """Every sample as long as the other."""
    return lambda generator, count: np.full(count, length)


SETTINGS = {
    "bert-512": Setting(family="bert", config=BERT, batch_samples=256, longest=512, lengths=always(512)),
    "bert-mix": Setting(
        family="bert", config=BERT, batch_samples=256, longest=512, lengths=log_normal(160, 0.8, 8, 512)
    ),
    "clm-2048": Setting(family="llama", config=LLAMA, batch_samples=64, longest=2048, lengths=always(2048)),
    "clm-mix": Setting(
        family="llama", config=LLAMA, batch_samples=128, longest=2048, lengths=log_normal(500, 1.0, 16, 2048)
    ),
}


def tiny(setting: Setting) -> Setting:
    """The same path, small enough for a test."""
    draw = setting.lengths

    def shorter(generator: np.random.Generator, count: int) -> np.ndarray:
        return np.maximum(draw(generator, count) * 24 // setting.longest, 4)

    return Setting(
        family=setting.family,
        config={**TINY[setting.family], "max_position_embeddings": 32},
        batch_samples=8,
        longest=24,
        lengths=shorter,
    )


def write_setting(folder: Path, setting: Setting, rows: int, keys: dict[str, Any], vocabulary: int) -> Path:
    """Model folder (configuration and tokenizer), data and recipe of a setting; returns the recipe."""
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder / "model", setting, vocabulary)
    generator = np.random.default_rng(0)
    extra = 2 if setting.family == "bert" else 1  # [CLS] and [SEP]; the end-of-text token
    with (folder / "data.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for number, length in enumerate(setting.lengths(generator, rows)):
            words = generator.integers(0, vocabulary - 10, max(int(length) - extra, 1))
            writer.writerow([" ".join(f"w{word}" for word in words), "ab"[number % 2]])
    task = "classify" if setting.family == "bert" else "clm"
    columns = {"text": "text", **({"label": "label"} if task == "classify" else {})}
    values = {
        "model": {"name": "model", "init": "random"},
        "task": task,
        "data": {"train": "data.csv", "columns": columns, "max_length": setting.longest},
        "batch": {"samples": setting.batch_samples},
        "optimizer": {"lr": 1e-4},
        "plan": keys,
    }
    (folder / "recipe.yaml").write_text(json.dumps(values), encoding="utf-8")  # JSON is YAML
    return folder / "recipe.yaml"


def write_model(folder: Path, setting: Setting, vocabulary: int) -> None:
    """Configuration and a tokenizer that makes one token of each word."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, LlamaConfig, PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[END]"]
    words = [*special, *(f"w{number}" for number in range(vocabulary - 10))]
    tokenizer = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    names: dict[str, str] = {"pad_token": "[PAD]", "unk_token": "[UNK]"}
    if setting.family == "bert":
        tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
        names |= {"cls_token": "[CLS]", "sep_token": "[SEP]"}
    else:
        names |= {"eos_token": "[END]"}
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=setting.config["max_position_embeddings"], **names
    )
    fast.save_pretrained(folder)
    kind: Any = BertConfig if setting.family == "bert" else LlamaConfig
    kind(
        vocab_size=vocabulary, pad_token_id=0, eos_token_id=4, bos_token_id=None, **setting.config
    ).save_pretrained(folder)


def peak_flops(device_name: str, asked_tflops: float | None) -> float | None:
    """The device's published peak, FLOP/s; None for a device that is not in the list."""
    known = [tflops for word, tflops in PEAK_TFLOPS.items() if word in device_name]
    tflops = asked_tflops or (known[0] if known else None)
    return None if tflops is None else tflops * 1e12


def utilisation(results: Results, contestant: str, peak: float | None) -> str:
    """Useful FLOP/s over the published peak, in per cent; a dash where either is not known."""
    speed = figure(results, "samples_per_second", contestant)
    if peak is None or speed is None:
        return "–"
    flops_a_sample = results.train_flops / results.setting["counted_samples"]
    return f"{100 * speed.median * flops_a_sample / peak:.1f} %"


def lines_of(name: str, results: Results, peak: float | None, profile: list[dict[str, Any]]) -> list[str]:
    """What is said about a setting."""
    lines = [
        f"## {name}: {results.setting['model']}, {results.setting['mean_tokens']:.0f} tokens on average",
        "",
        "| | sequences/s | tokens/s | of the published peak | of the best matrix product | peak memory, GiB |",
        "|---|---|---|---|---|---|",
    ]
    for contestant in results.contestants:
        cells = [
            TITLES.get(contestant, contestant),
            shown(figure(results, "samples_per_second", contestant), 1, 1),
            shown(figure(results, "tokens_per_second", contestant), 1, 0),
            utilisation(results, contestant, peak),
            shown(figure(results, CEILING, contestant), 100, 0, " %"),
            shown(figure(results, "peak_memory_bytes", contestant), 2**-30, 2),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", "Where bigbatch's time goes (torch.profiler, self time):", ""]
    lines += [f"- {row['share']:6.1%}  {row['operation']} ({row['calls']} calls)" for row in profile[:12]]
    return lines


def main(words: list[str] | None = None) -> int:
    """Measure; 1 when a contestant failed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", choices=list(SETTINGS), action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=10, help="counted updates of a round")
    parser.add_argument(
        "--warmup", type=int, default=5, help="updates before them; compilation happens there"
    )
    parser.add_argument("--precision", help="bf16 on a GPU, fp32 on a CPU, unless given")
    parser.add_argument(
        "--peak-tflops", type=float, help="published peak of the device, dense, in this precision"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--contestants", nargs="+", default=["hf-best", "torch-loop", "bigbatch"])
    parser.add_argument("--tiny", action="store_true", help="tiny shapes: only to see that everything runs")
    arguments = parser.parse_args(words)
    import torch

    on_gpu = torch.cuda.is_available()
    if not on_gpu and not arguments.tiny:
        parser.error("there is no CUDA device here; --tiny runs the whole path on the CPU")
    keys: dict[str, Any] = {} if on_gpu else {"device": "cpu"}
    precision = arguments.precision or ("bf16" if on_gpu else "fp32")
    keys |= {} if precision == "fp32" else {"precision": precision}
    peak = peak_flops(torch.cuda.get_device_name() if on_gpu else "", arguments.peak_tflops)
    failed = False
    for name in arguments.only or list(SETTINGS):
        setting = tiny(SETTINGS[name]) if arguments.tiny else SETTINGS[name]
        vocabulary = 200 if arguments.tiny else VOCABULARY[setting.family]
        folder = arguments.out / f"gpu-{name}"
        rows = (arguments.updates + arguments.warmup) * setting.batch_samples
        recipe = write_setting(folder / "input", setting, rows, keys, vocabulary)
        results = bench(
            load_recipe(recipe),
            out=folder,
            updates=arguments.updates,
            rounds=arguments.rounds,
            warmup_updates=arguments.warmup,
            contestants=arguments.contestants,
            command=f"python benchmarks/gpu.py {' '.join(sys.argv[1:])}".strip(),
            profiled=True,
            say=lambda text: print(text, flush=True),
        )
        shutil.rmtree(folder / "input")
        profile = json.loads((folder / "profile.json").read_text(encoding="utf-8"))
        print("\n".join(["", *lines_of(name, results, peak, profile["rows"]), ""]), flush=True)
        failed |= profile["failed"] is not None
        failed |= any(one.failed for turn in results.rounds for one in turn.outcomes.values())
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
