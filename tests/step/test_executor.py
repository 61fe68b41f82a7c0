from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from bigbatch.parallel.agree import OutOfMemory
from tests.executors import one_by_one
from tests.models import micro_batch_of

CPU = torch.device("cpu")


class Table(nn.Module):
    """One row of logits for each token id; dropout on top."""

    def __init__(self, dropout=0.0):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.rows = nn.Parameter(torch.randn(10, 3, generator=generator, dtype=torch.float64))
        self.dropout = dropout

    def forward(self, micro_batch):
        logits = self.rows[torch.from_numpy(micro_batch.ids_T[micro_batch.reads_U])]
        return functional.dropout(logits, self.dropout, training=True) if self.dropout else logits


class TwoTerms:
    """Cross-entropy, and the squared logits of every second unit: each with a denominator of its own."""

    def denominators(self, targets):
        return {"label": float(targets.weights.sum()), "size": float(targets.extras["odd"].sum())}

    def loss(self, outputs, targets):
        losses_U = functional.cross_entropy(outputs, targets.values, reduction="none")
        return {
            "label": losses_U * targets.weights,
            "size": outputs.square().sum(-1) * targets.extras["odd"],
        }


def pieces(cuts, ids=(1, 2, 3, 4, 5, 6), weights=(1, 2, 0.5, 1, 1, 3)):
    """One-token samples cut behind these positions."""
    found, first = [], 0
    for index, last in enumerate([*cuts, len(ids)]):
        part = np.arange(first, last)
        found.append(
            micro_batch_of(
                index=index,
                sample_ids_B=part,
                ids_T=np.array(ids)[part],
                lengths_B=np.ones(len(part), np.int64),
                reads_U=np.arange(len(part)),
                unit_sample_U=np.arange(len(part)),
                values=part % 3,
                weights=np.array(weights)[part],
                extras={"odd": (part % 2).astype(np.float64)},
            )
        )
        first = last
    return found


def whole():
    """Targets of all units."""
    (piece,) = pieces([])
    return piece.targets


def gradient(cuts, *, update=1, seed=0, dropout=0.0):
    """Loss sums and gradient of six units, cut in this way."""
    module, task = Table(dropout), TwoTerms()
    executor = one_by_one(forward=module, task=task, device=CPU, seed=seed)
    sums = executor.accumulate(update, pieces(cuts), task.denominators(whole()))
    return sums, module.rows.grad


def test_each_term_is_its_sum_over_its_own_denominator():
    sums, found = gradient([])
    rows = Table().rows
    logits, values = rows[1:7], torch.arange(6) % 3
    weights, odd = torch.tensor([1, 2, 0.5, 1, 1, 3]), torch.arange(6) % 2
    label = (functional.cross_entropy(logits, values, reduction="none") * weights).sum() / 8.5
    size = (logits.square().sum(-1) * odd).sum() / 3
    assert sums.terms == pytest.approx({"label": label.item(), "size": size.item()}, rel=1e-12)
    assert sums.loss == pytest.approx((label + size).item(), rel=1e-12)
    (expected,) = torch.autograd.grad(label + size, rows)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert (sums.real_tokens, sums.computed_tokens) == (6, 6)


@pytest.mark.parametrize("cuts", [[1], [2, 4], [1, 2, 3, 4, 5]])
def test_how_the_units_are_cut_does_not_matter(cuts):
    one, expected = gradient([])
    sums, found = gradient(cuts)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-15)
    assert sums.terms == pytest.approx(one.terms, rel=1e-12)


def test_masks_belong_to_the_place_not_to_what_ran_before():
    torch.manual_seed(5)
    _, first = gradient([3], dropout=0.5)
    torch.manual_seed(6)
    _, again = gradient([3], dropout=0.5)
    assert torch.equal(first, again)
    for other in (gradient([3], dropout=0.5, update=2), gradient([3], dropout=0.5, seed=1)):
        assert not torch.equal(other[1], first)
    module = Table(0.5)  # the two micro-batches of one update have masks of their own
    executor = one_by_one(forward=module, task=TwoTerms(), device=CPU, seed=0)
    grads = []
    for index in (0, 1):
        module.rows.grad = None
        executor.accumulate(1, [pieces([1, 2])[index]], {"label": 1.0, "size": 1.0})
        grads.append((module.rows.grad != 0).any(-1))
    assert not torch.equal(*grads)


def test_a_micro_batch_has_the_same_masks_alone_as_behind_others():
    """As on another rank, which never sees the ones before it."""
    module = Table(0.5)
    executor = one_by_one(forward=module, task=TwoTerms(), device=CPU, seed=0)

    def added(chosen):
        module.rows.grad = None
        executor.accumulate(1, chosen, {"label": 1.0, "size": 1.0})
        return module.rows.grad

    cut = pieces([2, 3])  # other token ids in each, so their gradients lie in rows of their own
    torch.testing.assert_close(added(cut), sum(added([piece]) for piece in cut), rtol=1e-12, atol=0)


def test_micro_batches_are_taken_one_by_one():
    order = []

    class Forward(Table):
        def forward(self, micro_batch):
            order.append(("forward", micro_batch.index))
            return super().forward(micro_batch)

    def lazily():
        for piece in pieces([2, 4]):
            order.append(("cut", piece.index))
            yield piece

    executor = one_by_one(forward=Forward(), task=TwoTerms(), device=CPU, seed=0)
    sums = executor.accumulate(1, lazily(), {"label": 1.0, "size": 1.0})
    assert order == [(what, index) for index in range(3) for what in ("cut", "forward")]
    assert sums.wait_seconds > 0


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("x: not enough memory: you tried"),
    ],
)
def test_every_way_to_say_out_of_memory(error):
    def forward(_):
        raise error

    executor = one_by_one(forward=forward, task=TwoTerms(), device=CPU, seed=0)
    with pytest.raises(OutOfMemory) as found:
        executor.accumulate(1, pieces([]), {"label": 1.0, "size": 1.0})
    assert found.value.__cause__ is error


def test_other_errors_stay_what_they_are():
    def forward(_):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    executor = one_by_one(forward=forward, task=TwoTerms(), device=CPU, seed=0)
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        executor.accumulate(1, pieces([]), {"label": 1.0, "size": 1.0})


@pytest.mark.parametrize("between", ["set to none", "left as it is"])
def test_rows_added_in_place_are_those_of_this_update_only(between):
    """The dense buffer outlives an update; what the one before added to it must not."""
    table = Table()
    words = nn.Embedding(10, 3, sparse=True, _weight=table.rows)

    def forward(micro_batch):
        return words(torch.from_numpy(micro_batch.ids_T[micro_batch.reads_U]))

    def executor(run, in_place):
        return one_by_one(forward=run, task=TwoTerms(), device=CPU, seed=0, in_place=in_place)

    denominators = TwoTerms().denominators(whole())
    rows, plain, found = executor(forward, [words.weight]), executor(table, ()), None
    for update, ids in enumerate([(1, 2, 3, 4, 5, 6), (7, 7, 1, 9, 8, 2)], start=1):
        table.rows.grad = None
        plain.accumulate(update, pieces([2, 3], ids), denominators)
        expected, table.rows.grad = table.rows.grad, None
        if between == "left as it is" and update > 1:
            table.rows.grad = found
        rows.accumulate(update, pieces([2, 3], ids), denominators)
        found = words.weight.grad
        assert torch.allclose(found, expected, rtol=1e-12, atol=1e-12)
        assert expected.abs().sum() > 0
