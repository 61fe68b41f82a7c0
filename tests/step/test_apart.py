"""Replicas that train apart: oracles, the data-parallel limit, what is skipped, what is saved."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from bigbatch.data.batches import batch_of
from bigbatch.data.shares import share_of
from bigbatch.data.tokens import as_table
from bigbatch.parallel.agree import OutOfMemory
from bigbatch.parallel.outer import Outer
from bigbatch.parallel.single import SingleWorld
from bigbatch.protocols import Cut, Rates
from bigbatch.recipe.machine import SyncSpec
from bigbatch.samples import Sample
from bigbatch.step.apart import Apart
from bigbatch.step.replicas import Replicas
from tests.executors import one_by_one
from tests.models import tiny
from tests.parallel.jobs import run_apart
from tests.split import parts_of, rows_of, train_split

ROWS = rows_of("single", 96, longest=20)
SGD = {"name": "sgd", "lr": 0.1, "momentum": 0.0, "weight_decay": 0.0}


# ---------------------------------------------------------------- oracles of the science page

A, C = (1.0, 3.0), (0.0, 4.0)


class Quadratic:
    """Task of one number x: a_i / 2 (x - c_i)^2 for sample i."""

    def denominators(self, targets):
        return {"square": float(targets.weights.sum())}

    def loss(self, outputs, targets):
        a, c = (torch.tensor(each, dtype=torch.float64)[targets.values] for each in (A, C))
        return {"square": a / 2 * (outputs[:, 0] - c) ** 2}


class Point(nn.Module):
    def __init__(self):
        super().__init__()
        self.x = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))


def two_quadratics(period, lr=0.1, **sync):
    """Two replicas, one sample each; `x` after two updates."""
    module = Point()
    table = as_table(
        [
            Sample(
                ids=np.array([3], np.int32), reads=np.array([0], np.int32), values=np.array([number]),
                weights=np.ones(1, np.float32),
            )
            for number in range(2)
        ]
    )  # fmt: skip
    parameters = [*module.parameters()]
    replicas = Replicas(
        module,
        parameters,
        SingleWorld(),
        SyncSpec(period=period, replicas=2, **sync),
        lambda module: torch.optim.SGD([{"params": parameters, "names": ["x"]}], lr=99.0),
        last_update=2,
    )
    executor = one_by_one(
        forward=lambda micro_batch: module.x.expand(len(micro_batch.reads_U), 1),
        task=Quadratic(),
        device=torch.device("cpu"),
        seed=0,
    )
    apart = Apart(
        task=Quadratic(), module=module, executor=executor, replicas=replicas, parameters=parameters,
        world=SingleWorld(), clip=None,
    )  # fmt: skip
    for update in (1, 2):
        position = 2 * update - 2
        batch = batch_of(table, np.arange(2), position=position, update=update)
        apart.update(batch, apart.pieces(batch, Cut(8, "packed")), Rates(lr=lr, tokens_before=position))
    return module.x.item()


def test_local_sgd_is_not_synchronous_sgd():
    assert two_quadratics(2) == pytest.approx(1.67, abs=1e-12)
    assert two_quadratics(1) == pytest.approx(1.72, abs=1e-12)


def test_diloco_goes_from_the_global_weights_towards_the_mean():
    """One meeting: x0 + lr (1 + momentum) (mean - x0); the sign is what is easily wrong."""
    assert two_quadratics(2, outer="diloco") == pytest.approx(1 + 0.7 * 1.9 * (1.67 - 1), abs=1e-12)
    taken_over = two_quadratics(2, outer="diloco", outer_lr=1.0, outer_momentum=0.0)
    assert taken_over == pytest.approx(1.67, abs=1e-12)


def test_steps_of_the_outer_optimiser():
    """A constant delta of 1: 1.33, 1.897, 2.4073, 2.86657, towards 0.7 / (1 - 0.9) = 7."""
    outer = Outer(["x"], [torch.zeros(1, dtype=torch.float64)], lr=0.7, momentum=0.9)
    steps, before = [], 0.0
    for _ in range(200):
        after = outer.step([outer.weights[0] - 1.0])[0].item()
        steps.append(before - after)
        before = after
    assert steps[:4] == pytest.approx([1.33, 1.897, 2.4073, 2.86657], abs=1e-12)
    assert steps[-1] == pytest.approx(7.0, abs=1e-6)


# ---------------------------------------------------------------- the limit of a period of 1


def weights_after(sync, *, updates=6, batch=32, **keys):
    """Weights and records after some updates in fp64, everything else equal."""
    given = {"micro_tokens": 128, "packing": "padded", "batch": batch, "clip": None, "optimizer": SGD, **keys}
    parts = parts_of(tiny("bert", num_labels=3).double(), ROWS, "single", sync=sync, **given)
    records = run_apart(parts, updates) if sync["replicas"] > 1 else train_split(parts, updates)
    parts.strategy.settle()
    return torch.cat([p.detach().reshape(-1) for p in parts.strategy.parameters]), records, parts


def apartness(one, other):
    return float((one - other).norm() / other.norm())


def test_every_update_with_sgd_is_data_parallel():
    together, plain, _ = weights_after({"period": 1, "replicas": 1})
    for replicas in (2, 4):
        apart, records, _ = weights_after({"period": 1, "replicas": replicas})
        assert apartness(apart, together) <= 1e-12
        assert [record.loss for record in records] == pytest.approx(plain.losses, rel=1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": {"name": "adamw", "lr": 1e-3}},
        {"clip": 0.02},
        {"sync": {"period": 2, "replicas": 2}},
    ],
)
def test_anything_else_is_not(changes):
    """AdamW divides by each replica's own second moment; each clips its own gradient; apart they see other weights."""
    together, _, _ = weights_after(
        {"period": 1, "replicas": 1}, **{k: v for k, v in changes.items() if k != "sync"}
    )
    apart, _, _ = weights_after(**{"sync": {"period": 1, "replicas": 2}, **changes})
    assert apartness(apart, together) > 1e-7


@pytest.mark.parametrize("micro_tokens", [24, 4096])
def test_each_replica_is_exact_whatever_its_micro_batches(micro_tokens):
    sync = {"period": 3, "replicas": 3}
    one, first, _ = weights_after(sync, optimizer={"name": "adamw", "lr": 1e-3}, clip=0.02)
    other, second, _ = weights_after(
        sync, optimizer={"name": "adamw", "lr": 1e-3}, clip=0.02, micro_tokens=micro_tokens, packing="packed"
    )
    assert apartness(one, other) <= 1e-10
    assert [r.grad_norm for r in first] == pytest.approx([r.grad_norm for r in second], rel=1e-10)


def test_a_replica_is_a_model_trained_alone_on_its_share():
    """Before the first meeting: its weights are those of a plain run over the samples of its share."""
    keys = {"optimizer": {"name": "adamw", "lr": 1e-3}, "clip": 0.02}
    _, records, parts = weights_after({"period": 50, "replicas": 3}, updates=3, batch=32, **keys)
    apart = parts.strategy.replicas
    for replica in apart.held:
        module = tiny("bert", num_labels=3).double()
        alone = parts_of(module, ROWS, "single", micro_tokens=128, packing="padded", batch=32, **keys)
        for update in range(1, 4):
            position = 32 * (update - 1)
            batch = share_of(alone.batches.at(position, update), replica.number, 3)
            alone.module.train()
            pieces = alone.strategy.pieces(batch, Cut(128, "padded"))
            alone.strategy.update(batch, pieces, Rates(lr=alone.learning_rate(position, 32)))
        with apart.as_replica(replica):
            for mine, other in zip(parts.strategy.parameters, alone.strategy.parameters, strict=True):
                torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-13)


# ---------------------------------------------------------------- records, evaluations, trouble


def test_the_record_is_of_the_whole_batch():
    module = tiny("bert", num_labels=3).double()
    keys = {"micro_tokens": 128, "packing": "padded", "batch": 30}
    whole = train_split(parts_of(module, ROWS, "single", **keys), 1)
    parts = parts_of(module, ROWS, "single", sync={"replicas": 4, "period": 9}, **keys)
    (record,) = run_apart(parts, 1)
    assert record.loss == pytest.approx(whole.losses[0], rel=1e-12)
    norms = [replica.norm for replica in parts.strategy.replicas.held]
    assert record.grad_norm == pytest.approx(math.sqrt(sum(norm**2 for norm in norms) / 4), rel=1e-12)
    assert (record.samples, record.batch_samples, record.skipped) == (30, 30, False)


def test_settling_leaves_replicas_alone():
    _, _, parts = weights_after({"period": 50, "replicas": 2}, updates=2)
    apart = parts.strategy.replicas
    before = [[tensor.clone() for tensor in replica.tensors] for replica in apart.held]
    assert not torch.equal(before[0][0], before[1][0])
    parts.strategy.settle()
    for tensor, one, other in zip(parts.strategy.parameters, *before, strict=True):
        torch.testing.assert_close(tensor, (one + other) / 2, rtol=1e-14, atol=1e-16)
    for replica, kept in zip(apart.held, before, strict=True):
        assert all(map(torch.equal, replica.tensors, kept))


def test_what_is_not_finite_in_one_replica_is_skipped_by_all():
    _, _, parts = weights_after({"period": 50, "replicas": 2}, updates=1)
    before = [[tensor.clone() for tensor in replica.tensors] for replica in parts.strategy.replicas.held]
    parts.strategy.replicas.held[1].tensors[0].fill_(math.nan)
    before[1][0].fill_(math.nan)
    (record,) = run_apart(parts, 1, first=2, position=32)
    assert record.skipped and not math.isfinite(record.loss)
    for replica, kept in zip(parts.strategy.replicas.held, before, strict=True):
        for tensor, value in zip(replica.tensors, kept, strict=True):
            torch.testing.assert_close(tensor, value, rtol=0, atol=0, equal_nan=True)


def test_no_replica_moves_when_one_runs_out_of_memory(monkeypatch):
    _, _, parts = weights_after({"period": 50, "replicas": 2}, updates=1)
    before = [[tensor.clone() for tensor in replica.tensors] for replica in parts.strategy.replicas.held]
    accumulate, calls = parts.strategy.executor.accumulate, []

    def second_fails(*args):
        calls.append(args)
        if len(calls) == 2:
            raise OutOfMemory("no room")
        return accumulate(*args)

    monkeypatch.setattr(parts.strategy.executor, "accumulate", second_fails)
    with pytest.raises(OutOfMemory):
        run_apart(parts, 1, first=2, position=32)
    for replica, kept in zip(parts.strategy.replicas.held, before, strict=True):
        assert all(map(torch.equal, replica.tensors, kept))
    assert all(map(torch.equal, (p.data for p in parts.strategy.parameters), parts.strategy.replicas._home))


def test_a_share_without_weight_stands_still():
    """Nothing to learn in a share is no reason to skip the others'."""
    _, _, parts = weights_after({"period": 50, "replicas": 2}, updates=1)
    parts.train.weights[:] = 1.0
    batch = parts.batches.at(32, 2)
    lost = share_of(batch, 1, 2)
    parts.train.weights[lost.sample_ids_B] = 0.0
    before = [[tensor.clone() for tensor in replica.tensors] for replica in parts.strategy.replicas.held]
    (record,) = run_apart(parts, 1, first=2, position=32)
    assert not record.skipped
    moved = [
        not all(map(torch.equal, replica.tensors, kept))
        for replica, kept in zip(parts.strategy.replicas.held, before, strict=True)
    ]
    assert moved == [True, False]


# ---------------------------------------------------------------- what is saved


@pytest.mark.parametrize("outer", ["average", "diloco"])
@pytest.mark.parametrize("updates", [3, 4])
def test_going_on_from_what_was_saved_gives_the_same_bits(outer, updates):
    """Saved between two meetings, and at one."""
    sync = {"period": 2, "replicas": 3, "outer": outer}
    keys = {"optimizer": {"name": "adamw", "lr": 1e-3}, "clip": 0.02}
    straight, _, _ = weights_after(sync, updates=7, **keys)
    _, _, first = weights_after(sync, updates=updates, **keys)
    kept = {name: tensor.clone() for name, tensor in first.strategy.replicas.state().items()}
    assert any(name.startswith("replica-0002/model/") for name in kept) == (updates % 2 == 1)
    assert "replica-0002/exp_avg/bert.embeddings.word_embeddings.weight" in kept
    _, _, second = weights_after(sync, updates=0, **keys)
    for mine, other in zip(second.strategy.parameters, first.strategy.parameters, strict=True):
        mine.data.copy_(other.data)
    second.strategy.replicas.restore(kept, vars(first.strategy.replicas.rhythm))
    run_apart(second, 7 - updates, first=updates + 1, position=32 * updates)
    second.strategy.settle()
    found = torch.cat([p.detach().reshape(-1) for p in second.strategy.parameters])
    assert torch.equal(found, straight)


def test_buffers_are_averaged_too():
    module = nn.BatchNorm1d(3, affine=True).double()
    table_free = Replicas(
        module,
        [*module.parameters()],
        SingleWorld(),
        SyncSpec(period=4, replicas=2),
        lambda module: torch.optim.SGD(module.parameters(), lr=0.1),
        last_update=4,
    )
    values = torch.arange(24, dtype=torch.float64).view(8, 3)
    for replica, rows in zip(table_free.held, (values[:4], values[4:] * 2), strict=True):
        with table_free.as_replica(replica):
            module(rows)
    assert module.num_batches_tracked.item() == 0
    table_free.after_update(4, 0.1)
    expected = (0.1 * values[:4].mean(0) + 0.1 * (values[4:] * 2).mean(0)) / 2
    torch.testing.assert_close(module.running_mean, expected)
    assert module.num_batches_tracked.item() == 1
