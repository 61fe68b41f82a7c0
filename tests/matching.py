"""Matching jobs for the exactness tests: texts of pairs, and the oracle's loss of a whole batch of them.

The oracle imports nothing from bigbatch beyond the order of the rows: one padded forward of all texts, and the loss of
each query written out pair by pair.
"""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bigbatch.build.parts import Parts
from bigbatch.model.sentence_files import folder_files
from bigbatch.protocols import World
from tests.models import WORDS, tiny, tiny_tokenizer
from tests.reference import decay_groups, padded
from tests.split import CLIP, Trajectory, parts_of

Rows = list[dict[str, Any]]
SMALL = {"initializer_range": 0.05}


def pairs(count: int, *, seed: int = 0, negatives: bool = True) -> Rows:
    """Queries of 3 to 6 words, documents of 6 to 30; some documents answer two queries, some queries have two; some
    negatives are known to answer a query of another row, or are its own text."""
    random = np.random.default_rng(seed)

    def text(shortest: int, longest: int) -> str:
        return " ".join(random.choice(WORDS, random.integers(shortest, longest + 1)))

    rows = [{"query": text(3, 6), "document": text(6, 30), "negative": text(6, 20)} for _ in range(count)]
    for first in range(0, count - 2, 9):
        rows[first + 1]["document"] = rows[first]["document"]
        rows[first + 2]["query"] = rows[first]["query"]
        if first + 6 < count:
            rows[first + 3]["negative"] = rows[first + 2]["document"]
            rows[first + 5]["negative"] = rows[first + 6]["query"]
    for row in rows[::4]:
        del row["negative"]
    return rows if negatives else [{key: row[key] for key in ("query", "document")} for row in rows]


def scored_pairs(count: int, *, seed: int = 0) -> Rows:
    """Pairs with up to three further negatives each, and a teacher's score of every candidate."""
    random, rows = np.random.default_rng(seed + 1), pairs(count, seed=seed)
    for row in rows:
        row["negatives"] = [" ".join(random.choice(WORDS, 4)) for _ in range(random.integers(0, 4))]
        row["score"], row["negative_score"], *more = [
            float(np.float32(score)) for score in random.normal(size=5)
        ]
        row["negative_scores"] = more[: len(row["negatives"])]
    return rows


def oracle_by_teacher(model: Any, tokenizer: Any, batch: Rows, name: str, **options: Any) -> Tensor:
    """Hofstätter et al. 2020: mean over negatives; or the mean over rows of the divergence of both softmaxes."""
    total: Any = 0.0
    for dimension in options.get("dimensions") or [None]:
        losses = []
        for row in batch:
            own = [row["negative"]] if "negative" in row else []
            texts = [row["query"], row["document"], *own, *row["negatives"]]
            vectors = oracle_embeddings(model, tokenizer, texts, "mean")[:, :dimension]
            vectors = vectors if options.get("similarity") == "dot" else F.normalize(vectors, dim=-1)
            known = [row["score"], *([row["negative_score"]] if own else []), *row["negative_scores"]]
            scores, teacher = vectors[1:] @ vectors[0], torch.tensor(known).to(vectors)
            if name == "margin_mse":
                losses += [
                    (scores[0] - scores[at] - teacher[0] + teacher[at]) ** 2 for at in range(1, len(scores))
                ]
            else:
                told = (teacher / 2.0).softmax(0)
                losses.append((told * (told.log() - (scores / options["temperature"]).log_softmax(0))).sum())
        total = total + torch.stack(losses).mean()
    return total


def base_of(family: str = "bert", **config: Any) -> Any:
    """A tiny model without head and pooler."""
    base = tiny(family, **{**SMALL, **config}).base_model
    if getattr(base, "pooler", None) is not None:
        base.pooler = None
    return base


def match_parts(
    module: nn.Module,
    rows: Rows,
    folder: Path,
    *,
    micro_tokens: int,
    packing: str,
    world: World | None = None,
    task: dict[str, Any] | None = None,
    **keys: Any,
) -> Parts:
    """A copy of the module with the rows, ready to be trained."""
    own = {"task": {"name": "match", **(task or {})}, "batch": 40, "updates": 4, **keys}
    return parts_of(
        module,
        rows,
        "match",
        micro_tokens=micro_tokens,
        packing=packing,
        world=world,
        tokenizer=tiny_tokenizer(folder),
        **own,
    )


def oracle_embeddings(model: Any, tokenizer: Any, texts: list[str], pooling: str) -> Tensor:
    """(K, D): one padded forward, pooled."""
    rows = [{"ids": tokenizer(text)["input_ids"]} for text in texts]
    inputs = padded(rows, 0)
    states_BLD = model(**inputs).last_hidden_state
    lengths = [len(row["ids"]) for row in rows]
    if pooling == "mean":
        return torch.stack([states_BLD[row, :length].mean(0) for row, length in enumerate(lengths)])
    return torch.stack(
        [states_BLD[row, 0 if pooling == "first" else length - 1] for row, length in enumerate(lengths)]
    )


def oracle_loss(
    model: Any,
    tokenizer: Any,
    batch: Rows,
    *,
    pooling: str = "mean",
    temperature: float = 0.05,
    similarity: str = "cosine",
    symmetric: bool = False,
    dimensions: list[int] | None = None,
    dimension_weights: list[float] | None = None,
    margin: float | None = None,
    judged: Any = None,
) -> Tensor:
    """Mean over queries; what is known to be right as well is no negative. Weighted sum over dimensions.

    `judged`: text -> the guide's vector; None: the model's own.
    """
    texts = [row[role] for row in batch for role in ("query", "document", "negative") if role in row]
    states = oracle_embeddings(model, tokenizer, texts, pooling)
    judge = F.normalize(states.detach(), dim=-1)
    if judged is not None:
        judge = F.normalize(torch.stack([judged[text] for text in texts]).to(states), dim=-1)
    total = torch.zeros((), dtype=states.dtype)
    for number, dimension in enumerate(dimensions or [states.shape[1]]):
        vectors = states[:, :dimension]
        vectors = F.normalize(vectors, dim=-1) if similarity == "cosine" else vectors
        weight = dimension_weights[number] if dimension_weights else 1.0
        total = total + weight * _oracle_loss(vectors, judge, batch, temperature, symmetric, margin)
    return total


def _oracle_loss(
    vectors: Tensor, judge: Tensor, batch: Rows, temperature: float, symmetric: bool, margin: float | None
) -> Tensor:
    place, queries, documents, negatives = 0, [], [], []
    places = []
    for row in batch:
        places.append(place)
        queries.append(vectors[place])
        documents.append(vectors[place + 1])
        if "negative" in row:
            negatives.append((row["negative"], place + 2))
        place += len([role for role in ("query", "document", "negative") if role in row])
    losses = []
    for mine, row in enumerate(batch):
        known = {its["document"] for its in batch if its["query"] == row["query"]} | {row["query"]}
        askers = {its["query"] for its in batch if its["document"] == row["document"]}

        def fair(asking: int, answering: int, mine: int = mine) -> bool:
            """Whether the judge finds a candidate no better than the right one, less the margin."""
            if margin is None:
                return True
            right = judge[places[mine]] @ judge[places[mine] + 1]
            return bool(judge[asking] @ judge[answering] <= right - margin)

        right = queries[mine] @ documents[mine] / temperature
        candidates = [(its["document"], places[other] + 1) for other, its in enumerate(batch)] + negatives
        others = [
            queries[mine] @ vectors[at] / temperature
            for text, at in candidates
            if text not in known and fair(places[mine], at)
        ]
        asked = torch.stack([right, *others]).logsumexp(0) - right
        if symmetric:
            back = [
                documents[mine] @ queries[other] / temperature
                for other, its in enumerate(batch)
                if its["query"] not in askers and fair(places[mine] + 1, places[other])
            ]
            asked = (asked + torch.stack([right, *back]).logsumexp(0) - right) / 2
        losses.append(asked)
    return torch.stack(losses).mean()


def guide_at(folder: Path, seed: int = 7) -> tuple[Path, dict[str, Tensor]]:
    """A second model with a tokenizer of its own (its words have other numbers), and text -> its vector, by one forward
    a text, fp32."""
    tokenizer = tiny_tokenizer(folder, words=WORDS[::-1])
    model = base_of(seed=seed, hidden_size=48, num_attention_heads=4)
    model.save_pretrained(folder)
    files = folder_files(
        width=48, pooling="mean", similarity="cosine", max_length=None, prefixes={"query": "", "document": ""}
    )
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    texts = {row[role] for row in pairs(90) for role in row}
    with torch.no_grad():
        return folder, {text: oracle_embeddings(model.eval(), tokenizer, [text], "mean")[0] for text in texts}


def train_match_reference(
    module: nn.Module, parts: Parts, rows: Rows, updates: int, *, teacher: str | None = None, **loss: Any
) -> Trajectory:
    """The same updates by the oracle."""
    found, position = Trajectory(), 0
    model: Any = copy.deepcopy(module).train()
    optimizer = torch.optim.AdamW(decay_groups(model, 0.01), lr=1.0, betas=(0.9, 0.999), eps=1e-8)
    for update in range(1, updates + 1):
        batch = parts.batches.at(position, update)
        optimizer.zero_grad()
        own = [rows[int(row)] for row in batch.sample_ids_B]
        asked = partial(oracle_by_teacher, name=teacher) if teacher else oracle_loss
        value = asked(model, parts.model.tokenizer, own, **loss)
        value.backward()
        gradient = {
            name: item.grad.clone() for name, item in model.named_parameters() if item.grad is not None
        }
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for group in optimizer.param_groups:
            group["lr"] = parts.learning_rate(position, batch.samples)
        optimizer.step()
        found.gradients.append(gradient)
        found.losses.append(float(value.detach()))
        found.norms.append(float(norm))
        position += batch.samples
    return found
