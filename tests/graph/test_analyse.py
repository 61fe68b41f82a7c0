"""Planted waste is found, with its size; what is not waste is left alone."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from bigbatch.graph.analyse import analyse
from bigbatch.graph.lazy import read_tokens_only
from bigbatch.graph.recompute import recompute
from bigbatch.model.anatomy import anatomy
from bigbatch.model.runner import packed_runner, padded_runner
from bigbatch.plan.graph import Cost, GraphAnalysis, total
from bigbatch.samples import MicroBatch
from tests.models import FAMILIES, LAST_TOKEN, PACKABLE, tiny, tiny_batch

HERE = "test_analyse.py"
HIDDEN, FEED_FORWARD, CLASSES, BLOCKS = 32, 64, 3, 2


class Classify:
    """Cross-entropy a unit."""

    def denominators(self, targets):
        return {"cross_entropy": float(targets.weights.sum())}

    def loss(self, outputs, targets):
        losses = functional.cross_entropy(outputs, targets.values, reduction="none")
        return {"cross_entropy": losses * targets.weights}


def run(
    model: Any, packing: str = "packed", lengths=(5, 9, 3, 9, 7), *, lazy: bool = False, task: Any = None
) -> GraphAnalysis:
    parts = anatomy(model)
    batch = tiny_batch(lengths, pools=parts.pools, packing=packing)
    if packing == "padded":
        forward: Any = padded_runner(model, 0)
    else:
        forward = packed_runner(model, parts)
        if lazy:
            read_tokens_only(forward, parts)
    try:
        return analyse(forward, task or Classify(), model, parts, batch)
    finally:
        forward.close()


def words(graph: GraphAnalysis, kind: Any) -> str:
    return "\n".join(finding.what for finding in graph.of(kind))


class Wasteful(nn.Module):
    """Does something besides what it wraps."""

    def __init__(self, inner: nn.Module, waste: Any, **children: nn.Module) -> None:
        super().__init__()
        self.inner, self.waste = inner, waste
        for name, child in children.items():
            setattr(self, name, child)

    def forward(self, hidden: Tensor) -> Tensor:
        changed = self.waste(self, hidden)
        return self.inner(hidden if changed is None else changed)


def wasteful(waste: Any, **children: nn.Module) -> Any:
    """A tiny BERT whose first block wastes something in its feed-forward."""
    model = tiny()
    block = model.bert.encoder.layer[0]
    block.intermediate = Wasteful(block.intermediate, waste, **children)
    return model


# ---------------------------------------------------------------- FLOPs against a hand count


def forward_flops(samples: int, length: int) -> dict[str, int]:
    """A tiny BERT by hand: 2 for each token and weight, 4 for each pair of tokens and hidden unit."""
    tokens = samples * length
    linear = 2 * tokens * (4 * HIDDEN * HIDDEN + 2 * HIDDEN * FEED_FORWARD)
    attention = 4 * samples * length * length * HIDDEN
    return {
        "linear": linear,
        "attention": attention,
        "pooler": 2 * samples * HIDDEN * HIDDEN,
        "classifier": 2 * samples * HIDDEN * CLASSES,
    }


@pytest.mark.parametrize("packing", ["packed", "padded"])
def test_flops_are_those_of_a_hand_count(packing: str) -> None:
    samples, length = 5, 8
    graph = run(tiny(), packing, (length,) * samples)
    by_hand = forward_flops(samples, length)
    parts = {part.name: part.cost for part in graph.parts}
    for number in range(BLOCKS):
        cost = parts[f"block {number + 1}"]
        assert cost.forward_flops == by_hand["linear"] + by_hand["attention"]
        # Of each product two in the backward pass; attention has its scores computed a second time.
        assert cost.backward_flops == 2 * by_hand["linear"] + 2.5 * by_hand["attention"]
    for head in ("pooler", "classifier"):
        assert parts[head].forward_flops == by_hand[head]
        assert parts[head].backward_flops == 2 * by_hand[head]
    assert parts["embeddings"].flops == parts["loss"].flops == 0
    whole = BLOCKS * (by_hand["linear"] + by_hand["attention"]) + by_hand["pooler"] + by_hand["classifier"]
    assert graph.cost.forward_flops == whole


def test_padding_is_counted_with_the_tokens_that_are_computed() -> None:
    graph = run(tiny(), "padded", (4, 10, 6))
    assert (graph.samples, graph.real_tokens, graph.computed_tokens) == (3, 20, 30)
    (finding,) = graph.of("padding")
    assert finding.count == 10 and "10 of 30 computed tokens (33.3 %)" in finding.what
    assert finding.flops == pytest.approx(graph.cost.flops / 3, abs=1)
    assert not run(tiny(), "packed", (4, 10, 6)).of("padding")


def test_bytes_of_a_linear_layer() -> None:
    tokens, size = 33, 4
    graph = run(tiny())
    block = next(part for part in graph.parts if part.name == "block 1")
    query = next(module for module in block.modules if module.name == "attention.self.query")
    inputs, outputs, weight = size * tokens * HIDDEN, size * tokens * HIDDEN, size * HIDDEN * HIDDEN
    bias = size * HIDDEN
    # forward reads inputs, weight and bias; backward the gradient three times, inputs, weight; and adds up inputs'
    # gradients from two consumers.
    assert query.cost.read_bytes >= inputs + weight + bias + 3 * outputs + inputs + weight
    assert query.cost.written_bytes >= outputs + inputs + weight + bias
    assert query.cost.read_bytes < 3 * (inputs + weight + bias + 3 * outputs)
    # Autograd keeps the block's input once, however many layers read it, and of each layer its input.
    kept = {module.name: module.cost.kept_bytes for module in block.modules}
    assert [kept[f"attention.self.{name}"] for name in ("query", "key", "value")] == [inputs, 0, 0]
    assert kept["intermediate.dense"] == inputs
    assert kept["intermediate.intermediate_act_fn"] == size * tokens * FEED_FORWARD


def test_the_parts_add_up_and_every_block_application_is_one() -> None:
    graph = run(tiny("albert"))
    names = [part.name for part in graph.parts]
    assert [name for name in names if name.startswith("block")] == ["block 1", "block 2", "block 3"]
    assert graph.cost == total(part.cost for part in graph.parts)
    for part in graph.parts:
        assert part.cost == total(module.cost for module in part.modules)
    first, second, third = (part.cost for part in graph.parts if part.name.startswith("block"))
    assert first.flops == second.flops == third.flops > 0


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_can_be_analysed(family: str) -> None:
    model = tiny(family)
    for packing in ["padded", *(["packed"] if family in PACKABLE else [])]:
        graph = run(model, packing)
        blocks = [part for part in graph.parts if part.name.startswith("block")]
        assert len(blocks) == len(anatomy(model).blocks)
        assert all(block.cost.forward_flops and block.cost.backward_flops for block in blocks)
        assert not graph.notes, "every operation with matrix products has a formula"
        assert any(finding.where == f"block {len(blocks)}" for finding in graph.of("unread"))


# ---------------------------------------------------------------- positions


def test_the_last_block_of_a_first_token_head_is_for_few_positions() -> None:
    lengths = (5, 9, 3, 9, 7)
    graph = run(tiny(), lengths=lengths)
    (finding,) = [one for one in graph.of("unread") if one.where == "block 2"]
    unread = 1 - len(lengths) / sum(lengths)
    assert finding.what.startswith(f"{100 * unread:.1f} % of the positions that block 2 computes")
    for module in ("intermediate.dense", "output.dense", "attention.self.query", "attention.output.dense"):
        assert module in finding.what
    assert "key" not in finding.what and "value" not in finding.what
    block = next(part for part in graph.parts if part.name == "block 2")
    skipped = sum(module.cost.flops for module in block.modules if not module.name.endswith(("key", "value")))
    assert finding.flops == pytest.approx(unread * skipped, abs=2)
    assert block.unread_flops == pytest.approx(finding.flops, abs=2)
    assert not [one for one in graph.of("unread") if one.where == "block 1"]


def test_a_mean_pooling_head_reads_every_position() -> None:
    one = run(tiny("modernbert", classifier_pooling="cls"), "padded")
    mean = run(tiny("modernbert", classifier_pooling="mean"), "padded")
    assert one.of("unread")[0].where == "block 3"
    assert not mean.of("unread")


@pytest.mark.parametrize("family", ["bert", "llama", "albert"])
def test_the_lazy_last_block_leaves_them_out(family: str) -> None:
    full, lazy = run(tiny(family)), run(tiny(family), lazy=True)
    last = f"block {len(anatomy(tiny(family)).blocks)}"
    saved = sum(one.flops for one in full.of("unread") if one.where == last)
    assert not [one for one in lazy.of("unread") if one.where == last]
    # Its first pass still computes all queries, which are not used: that is what is left of the finding.
    again = sum(one.flops for one in lazy.of("unused"))
    assert "query" in words(lazy, "unused") or "q_proj" in words(lazy, "unused")
    assert full.cost.flops - lazy.cost.flops == pytest.approx(saved - again, rel=0.02)


def test_units_that_do_not_count_are_not_read() -> None:
    class Half(Classify):
        def loss(self, outputs, targets):
            losses = super().loss(outputs, targets)["cross_entropy"]
            return {"cross_entropy": losses[:2]}

    graph = run(tiny(), task=Half())
    (finding,) = [one for one in graph.of("unread") if one.where == "classifier"]
    assert finding.what.startswith("60.0 % of the positions that classifier computes")


def test_a_head_of_zeros_tells_nothing_and_says_so() -> None:
    model = tiny()
    nn.init.zeros_(model.classifier.weight)
    graph = run(model)
    assert not graph.of("unread")
    assert any("head whose weights are all zero" in note for note in graph.notes)
    assert "exactly zero" in words(graph, "parameter")


# ---------------------------------------------------------------- planted waste


def test_a_layer_whose_output_nobody_uses() -> None:
    def waste(self, hidden):
        self.extra(hidden)

    graph = run(wasteful(waste, extra=nn.Linear(HIDDEN, 48)))
    (finding,) = [one for one in graph.of("unused") if "extra" in one.where]
    assert finding.where == "block 1 intermediate.extra"
    assert finding.flops == 2 * 33 * HIDDEN * 48
    parameters = words(graph, "parameter")
    assert f"({HIDDEN * 48 + 48:,} values) get no gradient, because the loss does not depend" in parameters


def test_an_output_that_is_only_read_in_the_backward_pass_is_used() -> None:
    class Squared(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x * 2)
            return x * x

        @staticmethod
        def backward(ctx, *gradients):
            return gradients[0] * ctx.saved_tensors[0]

    graph = run(wasteful(lambda self, hidden: Squared.apply(hidden)))
    assert not [one for one in graph.of("unused") if "intermediate" in one.where]


@pytest.mark.parametrize(
    ("there", "back", "sentence"),
    [
        (torch.float64, torch.float32, "float32 to float64 and back, 2 times"),
        (torch.bfloat16, torch.float32, "float32 to bfloat16 and back, which loses digits, 2 times"),
    ],
)
def test_a_cast_that_is_taken_back(there, back, sentence) -> None:
    graph = run(wasteful(lambda self, hidden: hidden.to(there).to(back)))
    assert sentence in words(graph, "cast"), "forward, and the gradient's way back"
    assert "block 1 intermediate casts" in words(graph, "cast")


def test_a_cast_with_work_in_between_is_no_round_trip() -> None:
    graph = run(wasteful(lambda self, hidden: (hidden.double() * 2).float()))
    assert "and back" not in words(graph, "cast")
    (finding,) = graph.of("cast")
    assert finding.count == 4, "there and back again, forward and backward"


def test_what_waits_for_a_gpu_is_named_with_its_line() -> None:
    def waste(self, hidden):
        hidden.sum().item()
        if hidden.max() > 0:
            pass
        torch.nonzero(hidden[0, 0])
        hidden[hidden > 100]
        hidden.mean().tolist()

    graph = run(wasteful(waste))
    found = sorted(one.what.partition(" ")[0] for one in graph.of("sync"))
    assert found == ["bool", "index", "item", "nonzero", "tolist"]
    assert all(one.where.startswith(HERE) and one.where.endswith("waste") for one in graph.of("sync"))
    assert all("block 1 intermediate" in one.what for one in graph.of("sync"))
    assert not run(tiny()).of("sync")


def test_a_wait_in_every_block_is_counted() -> None:
    def look(_module, _inputs, output):
        output.detach().sum().item()

    model = tiny()
    for block in model.bert.encoder.layer:
        block.intermediate.register_forward_hook(look)
    assert sum(one.count for one in run(model).of("sync")) == BLOCKS


def test_the_same_work_twice() -> None:
    def waste(self, hidden):
        return hidden + 1e-6 * (torch.sin(hidden) + torch.sin(hidden))

    graph = run(wasteful(waste))
    (finding,) = [one for one in graph.of("repeated") if "sin" in one.what]
    assert finding.count == 1 and finding.moved_bytes == 2 * 4 * 33 * HIDDEN
    assert finding.where == "the blocks' intermediate"


def test_random_numbers_and_changed_inputs_are_not_the_same_work() -> None:
    def waste(self, hidden):
        first = functional.dropout(hidden, 0.5) + functional.dropout(hidden, 0.5)
        other = hidden.detach().clone()
        first = first + torch.cos(other)
        other.add_(1)
        return hidden + 0 * (first + torch.cos(other))

    graph = run(wasteful(waste))
    assert "cos" not in words(graph, "repeated") and "dropout" not in words(graph, "repeated")


def test_copies_and_fills_are_added_up() -> None:
    plain = run(tiny())
    copied = run(wasteful(lambda self, hidden: hidden.clone()))
    filled = run(wasteful(lambda self, hidden: hidden + torch.zeros_like(hidden)))

    def count(graph, kind):
        return sum(one.count for one in graph.of(kind))

    assert count(copied, "copy") - count(plain, "copy") == 1
    assert count(filled, "fill") - count(plain, "fill") == 1


def test_parameters_without_gradient_have_a_reason() -> None:
    model = tiny()
    model.bert.embeddings.requires_grad_(False)
    model.unused = nn.Linear(4, 5)
    graph = run(model)
    assert "5 tensors of embeddings" in words(graph, "parameter") and "frozen" in words(graph, "parameter")
    assert "2 tensors of unused (25 values) get no gradient" in words(graph, "parameter")
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert graph.trained_parameters == trained


def test_what_is_collected_for_nobody() -> None:
    model = tiny("bert", output_hidden_states=True)
    assert "hidden states are collected" in words(run(model, "padded"), "collected")
    assert not run(tiny(), "padded").of("collected")


# ---------------------------------------------------------------- recomputation, state, records


def test_recomputed_work_belongs_to_its_block() -> None:
    plain, model = run(tiny()), tiny()
    undo = recompute(anatomy(model), "blocks", 1)
    try:
        graph = run(model)
    finally:
        undo()
    again = {part.name: part.cost.recompute_flops for part in graph.parts if part.cost.recompute_flops}
    assert len(again) == 1
    (name,) = again
    part = next(one for one in plain.parts if one.name == name)
    # Recomputation stops at the last tensor that is needed: the last product's output is not.
    assert 0.5 * part.cost.forward_flops < again[name] <= part.cost.forward_flops
    assert graph.cost.forward_flops == plain.cost.forward_flops
    assert graph.cost.backward_flops == plain.cost.backward_flops
    kept = {one.name: one.cost.kept_bytes for one in graph.parts}
    assert kept[name] < part.cost.kept_bytes / 4
    assert [one.name for one in graph.parts] == [one.name for one in plain.parts]


def test_nothing_is_left_behind() -> None:
    model = tiny(dropout=0.1)
    model.bert.pooler.train()
    gradient = torch.ones_like(model.classifier.weight)
    model.classifier.weight.grad = gradient
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [part.training for part in model.modules()]
    hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules()]
    state = torch.get_rng_state()
    run(model, "padded")
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert [part.training for part in model.modules()] == modes
    assert [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in model.modules()] == hooks
    assert model.classifier.weight.grad is gradient and model.bert.pooler.dense.weight.grad is None


def test_the_trace_keeps_no_activation_alive() -> None:
    import weakref

    alive = []

    def waste(self, hidden):
        made = hidden * 2
        alive.append(weakref.ref(made))
        return hidden + 1

    batch_alive = []

    class Watching(Classify):
        def loss(self, outputs, targets):
            batch_alive.append(alive[0]() is not None)
            return super().loss(outputs, targets)

    run(wasteful(waste), task=Watching())
    assert batch_alive == [False]


@pytest.mark.parametrize("family", ["bert", *LAST_TOKEN[:1]])
def test_the_record_survives_json(family: str) -> None:
    graph = run(tiny(family), "padded")
    again = GraphAnalysis.from_json(json.loads(json.dumps(graph.to_json())))
    assert again == graph
    with pytest.raises(ValueError, match="version"):
        GraphAnalysis.from_json({**graph.to_json(), "version": 2})


def test_costs_add() -> None:
    left, right = Cost(forward_flops=1, seconds=0.5), Cost(backward_flops=2, read_bytes=3)
    assert left + right == Cost(forward_flops=1, backward_flops=2, read_bytes=3, seconds=0.5)
    assert (left + right).flops == 3 and total([]) == Cost()
    assert (right + right).seconds is None


def test_a_micro_batch_of_one_token() -> None:
    graph = run(tiny(), lengths=(1,))
    unread = [one.what for one in graph.of("unread") if one.where == "block 2"]
    # The softmax of one score is 1: on CPUs that round to exactly that, nothing depends on queries and keys.
    assert graph.real_tokens == 1 and all("attention.self.query" in what for what in unread)


def test_a_batch_without_padding_in_the_padded_path() -> None:
    assert not run(tiny(), "padded", (6, 6)).of("padding")
    assert isinstance(tiny_batch((6, 6)), MicroBatch) and np.all(tiny_batch((6, 6)).lengths_B == 6)
