from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from bigbatch.protocols import Rates
from tests.models import tiny
from tests.split import parts_of, rows_of

ROWS = rows_of("single", 96, longest=20)


@pytest.fixture(scope="module")
def module():
    return tiny("bert", num_labels=3).double()


@pytest.fixture
def ready(module):
    return parts_of(module, ROWS, "single", micro_tokens=128, packing="padded", batch=32)


def update(parts, *, lr=1e-3, **changes):
    """One update on a copy of what it is made of; the record."""
    batch = parts.batches.at(0, 1)
    strategy = replace(parts.strategy, **changes)
    (record,) = strategy.update(batch, strategy.pieces(batch, parts.cut), Rates(lr=lr, tokens_before=7))
    return record


def sgd(parts):
    """Plain gradient descent: the step is lr times the gradient that the optimizer saw."""
    return torch.optim.SGD(parts.strategy.parameters, lr=99.0)


def moved(parts, before):
    """L2 norm of the whole step."""
    pairs = zip(parts.strategy.parameters, before, strict=True)
    return torch.sqrt(sum((now.detach() - then).square().sum() for now, then in pairs)).item()


def copies(parts):
    return [parameter.detach().clone() for parameter in parts.strategy.parameters]


def test_the_whole_gradient_is_clipped_once_and_its_norm_recorded_before(ready):
    before = copies(ready)
    record = update(ready, lr=0.5, clip=0.01, optimizer=sgd(ready))
    assert record.grad_norm > 0.1
    # torch divides by norm + 1e-6
    assert moved(ready, before) == pytest.approx(0.5 * 0.01, rel=1e-4)


@pytest.mark.parametrize("clip", [None, 1e6])
def test_a_gradient_below_the_bound_is_left_alone(ready, clip):
    before = copies(ready)
    record = update(ready, lr=0.5, clip=clip, optimizer=sgd(ready))
    assert moved(ready, before) == pytest.approx(0.5 * record.grad_norm, rel=1e-12)


def test_clipping_does_not_depend_on_how_the_batch_is_cut(module, ready):
    other = parts_of(module, ROWS, "single", micro_tokens=32, packing="padded", batch=32)
    for parts in (ready, other):
        update(parts, clip=0.01, optimizer=sgd(parts), lr=1.0)
    for mine, theirs in zip(ready.strategy.parameters, other.strategy.parameters, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_the_record(ready):
    batch = ready.batches.at(0, 1)
    record = update(ready, lr=3e-4)
    assert (record.step, record.samples, record.batch_samples) == (1, 32, 32)
    assert (record.tokens, record.batch_tokens) == (7 + batch.tokens, batch.tokens)
    assert record.lr == 3e-4 == ready.strategy.optimizer.param_groups[0]["lr"]
    assert record.terms == {"cross_entropy": record.loss} and not record.skipped
    assert all(parameter.grad is None for parameter in ready.strategy.parameters)


def test_gradients_of_before_do_not_leak_into_the_update(ready):
    before = copies(ready)
    clean = update(ready, lr=0.0, optimizer=sgd(ready))
    with torch.no_grad():
        for parameter, value in zip(ready.strategy.parameters, before, strict=True):
            parameter.copy_(value)
            parameter.grad = torch.ones_like(parameter)
    assert update(ready, lr=0.0, optimizer=sgd(ready)).grad_norm == clean.grad_norm


def test_the_norm_that_is_recorded_is_that_of_the_gradient(ready):
    record = update(ready, lr=0.0)
    module = ready.module.train()
    batch = ready.batches.at(0, 1)
    total = 0.0
    for row in batch.sample_ids_B:
        ids = torch.tensor([ROWS[int(row)]["input_ids"]])
        label = torch.tensor([ROWS[int(row)]["labels"]])
        total = total + torch.nn.functional.cross_entropy(module(input_ids=ids).logits, label)
    grads = torch.autograd.grad(total / len(batch.sample_ids_B), ready.strategy.parameters)
    norm = torch.sqrt(sum(gradient.square().sum() for gradient in grads))
    assert record.grad_norm == pytest.approx(float(norm), rel=1e-9)
    assert record.loss == pytest.approx(float(total.detach()) / 32, rel=1e-9)
