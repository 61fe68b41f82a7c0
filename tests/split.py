"""The contract's measure of "equal", and one training job run in any split. Shared by the exactness tests."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bigbatch.build.build import Given, build
from bigbatch.build.inputs import Live, read_inputs
from bigbatch.build.live import live_task
from bigbatch.build.parts import Parts
from bigbatch.data.packs import micro_batches
from bigbatch.facts import Choice
from bigbatch.model.names import clean_name
from bigbatch.optim.groups import names_of
from bigbatch.plan.frozen import Plan
from bigbatch.protocols import Rates, World
from bigbatch.recipe.load import load_recipe
from tests.models import VOCABULARY
from tests.reference import reference_updates

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}
CLIP = 0.02
"""Below the gradient norm of every update of every job, so that clipping is always at work; tests assert it."""
SMALL = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "initializer_range": 0.05}
"""A BERT small enough for sixty trainings. With an initializer_range of 0.2 the fp32 oracle's own rounding of the
(exactly zero) key-bias gradients exceeds the contract's bound."""
PROBLEMS = {
    "single": "single_label_classification",
    "multi": "multi_label_classification",
    "regression": "regression",
}
Rows = list[dict[str, Any]]


def rows_of(
    kind: str, count: int, *, seed: int = 0, longest: int = 60, classes: int = 3, pairs: bool = False
) -> Rows:
    """Already tokenised rows of very uneven lengths, with targets of the kind; token id 0 never occurs."""
    random = np.random.default_rng(seed)
    rows: Rows = []
    for _ in range(count):
        length = int(np.clip(random.lognormal(3.0, 0.8), 2, longest))
        row: dict[str, Any] = {"input_ids": random.integers(3, VOCABULARY, length).tolist()}
        if pairs:
            row["token_type_ids"] = [0] * (length // 2) + [1] * (length - length // 2)
        if kind == "single":
            row["labels"] = int(random.integers(classes))
        elif kind == "multi":
            row["labels"] = random.integers(0, 2, classes).astype(float).tolist()
        else:
            row["labels"] = float(np.float32(random.normal()))
        rows.append(row)
    return rows


@dataclass(kw_only=True)
class Trajectory:
    """What a number of updates left behind."""

    losses: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    pieces: list[list[tuple[int, int]]] = field(default_factory=list)
    """(samples, computed tokens) of each micro-batch of each update."""

    @property
    def micro_batches(self) -> list[int]:
        """How many micro-batches each update had."""
        return [len(pieces) for pieces in self.pieces]

    def first(self, updates: int) -> Trajectory:
        """The first updates alone."""
        return Trajectory(
            losses=self.losses[:updates],
            norms=self.norms[:updates],
            gradients=self.gradients[:updates],
            pieces=self.pieces[:updates],
        )


def plan_of(micro_tokens: int, packing: str, products: str = "torch") -> Plan:
    """A frozen plan, so that nothing is measured."""
    chosen = {"micro_tokens": micro_tokens, "packing": packing, "products": products}
    return Plan(
        choices={
            name: Choice(value=value, reason="the test", source="user") for name, value in chosen.items()
        }
    )


def parts_of(
    module: nn.Module,
    rows: Rows,
    kind: str,
    *,
    micro_tokens: int,
    packing: str,
    world: World | None = None,
    tokenizer: Any = None,
    products: str = "torch",
    **keys: Any,
) -> Parts:
    """A copy of the module with the rows, ready to be trained in this split."""
    recipe = load_recipe(
        {
            "model": {"name": None},
            "data": {"train": []},
            "task": {"name": "classify", "kind": kind, "labels": ["a", "b", "c"]} if kind != "regression" else
            {"name": "classify", "kind": kind},
            "batch": 112,
            "updates": 20,
            "optimizer": {"lr": 1e-3, "weight_decay": 0.01},
            "clip": CLIP,
            **keys,
        },
        environ={},
    )  # fmt: skip
    live = Live(module=copy.deepcopy(module), train=rows, tokenizer=tokenizer)
    task = live_task(recipe, live)
    ranks = {} if world is None else {"world": world}
    given = Given(live=live, plan=plan_of(micro_tokens, packing, products), **ranks)
    return build(recipe, task, read_inputs(recipe, task, live), given)


def train_split(parts: Parts, updates: int = 20) -> Trajectory:
    """Run updates through bigbatch's own step and keep every gradient, before clipping."""
    found, position, tokens = Trajectory(), 0, 0
    parts.module.train()
    for update in range(1, updates + 1):
        batch = parts.batches.at(position, update)
        pieces = list(
            micro_batches(
                batch,
                micro_tokens=parts.micro_tokens,
                packing=parts.packing,
                part=parts.strategy.world.part,
            )
        )
        with gradients_into(found, parts):
            rates = Rates(lr=parts.learning_rate(position, batch.samples), tokens_before=tokens)
            (record,) = parts.strategy.update(batch, iter(pieces), rates)
        position, tokens = record.samples, record.tokens
        found.losses.append(record.loss)
        found.norms.append(record.grad_norm)
        found.pieces.append([(len(piece.sample_ids_B), piece.computed_tokens) for piece in pieces])
    return found


class gradients_into:
    """Copies every gradient at the moment when the world has summed it."""

    def __init__(self, found: Trajectory, parts: Parts) -> None:
        self.found, self.parts = found, parts

    def __enter__(self) -> None:
        world: Any = self.parts.strategy.world
        reduce_gradients = world.reduce_gradients

        def keep(parameters: Sequence[Tensor]) -> None:
            reduce_gradients(parameters)
            named = names_of(self.parts.strategy.optimizer.param_groups)
            whole = {
                name: world.gathered_like(p.grad, p).clone()
                for p, name in named.items()
                if p.grad is not None
            }
            # In the module's order, whoever holds which part.
            order = [clean_name(name) for name, _ in self.parts.module.named_parameters()]
            self.found.gradients.append({name: whole[name] for name in order if name in whole})

        world.reduce_gradients = keep

    def __exit__(self, *_: object) -> None:
        del self.parts.strategy.world.reduce_gradients  # type: ignore[attr-defined]


def train_reference(
    module: nn.Module, parts: Parts, rows: Rows, kind: str, updates: int = 20, **keys: Any
) -> Trajectory:
    """The same updates by the oracle: the whole padded batch at once, no code of bigbatch beyond the order."""
    weights = parts.train.weights
    return by_oracle(
        module,
        parts,
        lambda _, number: _oracle_row(rows[number], float(weights[number])),
        updates,
        kind=kind,
        **keys,
    )


def by_oracle(
    module: nn.Module,
    parts: Parts,
    row_of: Callable[[int, int], dict[str, Any]],
    updates: int,
    **keys: Any,
) -> Trajectory:
    """The updates of a run by the oracle, and its gradients before clipping.

    Args:
        module: as the run starts; a copy is trained.
        parts: of the run: its order, rates and settings.
        row_of: (place in the stream, number of the sample) -> what the oracle is shown of it.
        updates: how many.
        keys: of `reference_updates`, in place of the usual.
    """
    found, batches, lrs, position = Trajectory(), [], [], 0
    for update in range(1, updates + 1):
        numbers = [int(number) for number in parts.batches.at(position, update).sample_ids_B]
        batches.append([row_of(place, number) for place, number in enumerate(numbers, start=position)])
        lrs.append(parts.learning_rate(position, len(numbers)))
        position += len(numbers)
    model: Any = copy.deepcopy(module).train()
    usual = {
        "pad_id": getattr(model.config, "pad_token_id", None),
        "clip": parts.recipe.clip,
        "weight_decay": parts.recipe.optimizer.weight_decay,
    }
    figures = reference_updates(
        model,
        batches,
        lrs=lrs,
        on_gradient=lambda _, gradient: found.gradients.append(gradient),
        **{**usual, **keys},
    )
    found.losses, found.norms = [loss for loss, _ in figures], [norm for _, norm in figures]
    return found


def _oracle_row(row: dict[str, Any], weight: float) -> dict[str, Any]:
    return {
        "ids": row["input_ids"],
        "segments": row.get("token_type_ids"),
        "target": row["labels"],
        "weight": weight,
    }


def gradient_error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """||a - b|| / ||b|| over the whole gradient."""
    difference = sum(float((found[name] - expected[name]).double().square().sum()) for name in expected)
    return math.sqrt(difference / sum(float(value.double().square().sum()) for value in expected.values()))


def worst_tensor(
    found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float
) -> tuple[str, float]:
    """The tensor nearest to (or beyond) tol (||b|| + 1e-3 ||g|| / sqrt(tensors)), as a share of that bound."""
    whole = math.sqrt(sum(float(value.double().square().sum()) for value in expected.values()))
    shares = {
        name: float((found[name] - value).double().norm())
        / (tolerance * (float(value.double().norm()) + 1e-3 * whole / math.sqrt(len(expected))))
        for name, value in expected.items()
    }
    name = max(shares, key=lambda key: shares[key])
    return name, shares[name]


def assert_equal(found: Trajectory, expected: Trajectory, dtype: torch.dtype) -> None:
    """docs/guarantees.md: loss, gradient norm and gradient of every update."""
    tolerance = TOLERANCE[dtype]
    assert len(found.gradients) == len(expected.gradients)
    for update, gradient in enumerate(expected.gradients):
        assert found.gradients[update].keys() == gradient.keys()
        error = gradient_error(found.gradients[update], gradient)
        assert error <= tolerance, f"update {update + 1}: gradient error {error:.2e}"
        name, share = worst_tensor(found.gradients[update], gradient, tolerance)
        assert share <= 1, f"update {update + 1}: {name} is {share:.2f} times its bound away"
        for mine, theirs in ((found.losses, expected.losses), (found.norms, expected.norms)):
            error = abs(mine[update] - theirs[update]) / abs(theirs[update])
            assert error <= tolerance, f"update {update + 1}: loss or gradient norm {error:.2e} away"
