"""docs/guarantees.md: a low precision's error against fp32 is at most 1.5 times the plain path's."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from bigbatch.graph.casting import Casting, PlainAutocast
from bigbatch.graph.policy import policy_of
from bigbatch.model.anatomy import anatomy
from bigbatch.model.packing import can_pack
from bigbatch.model.runner import packed_runner, padded_runner
from bigbatch.plan.precision import PLAIN_RATIO
from bigbatch.probe.precision import error_of, format_errors
from tests.models import tiny, tiny_batch

FAMILIES = ["bert", "roberta", "albert", "electra", "distilbert", "modernbert", "gpt2", "llama"]


def setting(family: str = "bert"):
    module = tiny(family, num_labels=3).eval()
    parts = anatomy(module)
    lengths = [
        list(map(int, torch.randint(3, 40, (9,), generator=torch.Generator().manual_seed(seed))))
        for seed in (0, 1)
    ]
    pieces = [tiny_batch(length, pools=parts.pools, seed=seed) for seed, length in enumerate(lengths)]
    return module, parts, pieces, padded_runner(module, module.config.pad_token_id)


@pytest.mark.parametrize("name", ["bf16", "fp16"])
@pytest.mark.parametrize("family", FAMILIES)
def test_our_path_is_within_the_contract_in_every_family(family, name):
    module, parts, pieces, reference = setting(family)
    assert can_pack(module)[0]
    casting = Casting(module, policy_of(module, parts), name)
    ours = casting.run(packed_runner(module, parts))
    found = format_errors(ours, PlainAutocast(reference, name), reference, pieces, span=casting.span)
    ours.close()
    assert 0 < found.ours <= PLAIN_RATIO * found.plain


def test_the_errors_are_against_fp32():
    module, _, pieces, reference = setting()

    class Off:
        def __init__(self, factor):
            self.module, self.factor = module, factor

        def __call__(self, batch):
            return reference(batch) * self.factor

    found = format_errors(Off(1.03), Off(1.01), reference, pieces, span=nullcontext)
    assert (found.ours, found.plain) == (pytest.approx(0.03, rel=1e-3), pytest.approx(0.01, rel=1e-3))
    assert error_of(Off(1.2), reference, pieces, span=nullcontext) == pytest.approx(0.2, rel=1e-3)
    exact = format_errors(Off(1.0), Off(1.0), reference, pieces, span=nullcontext)
    assert exact.ours <= PLAIN_RATIO * exact.plain, "nothing is not 1.5 times worse than nothing"
    broken = format_errors(Off(float("nan")), Off(1.01), reference, pieces, span=nullcontext)
    assert broken.ours == float("inf") and broken.plain < 1
    both = format_errors(Off(float("inf")), Off(float("nan")), reference, pieces, span=nullcontext)
    assert both.ours == float("inf")


def test_the_span_is_entered_for_the_format_and_not_for_the_reference():
    module, _, pieces, reference = setting()
    state = {"inside": False}
    seen = []

    class Span:
        def __enter__(self):
            state["inside"] = True

        def __exit__(self, *_):
            state["inside"] = False

    class Watched:
        def __init__(self, name):
            self.module, self.name = module, name

        def __call__(self, batch):
            seen.append((self.name, state["inside"]))
            return reference(batch)

    format_errors(Watched("ours"), Watched("plain"), Watched("truth"), pieces[:1], span=Span)
    assert sorted(set(seen)) == [("ours", True), ("plain", True), ("truth", False)]
