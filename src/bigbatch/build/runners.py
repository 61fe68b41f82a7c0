"""From the plan's words to a model that runs that way."""

from __future__ import annotations

from bigbatch.graph.casting import Casting
from bigbatch.graph.compiled import compile_parts
from bigbatch.graph.dropout import quick_dropout
from bigbatch.graph.embeddings import rows_in_place
from bigbatch.graph.lazy import read_tokens_only
from bigbatch.graph.policy import Policy, policy_of
from bigbatch.graph.recompute import recompute
from bigbatch.model.logits import multiplied_by_onednn
from bigbatch.model.products import has_onednn
from bigbatch.model.runner import Runner, packed_runner, padded_runner
from bigbatch.plan.forward import ForwardPlan
from bigbatch.plan.precision import is_low
from bigbatch.tasks.ready import Ready, read_as_asked


def open_runner(ready: Ready, how: ForwardPlan) -> Runner:
    """Run the model in this way until the runner is closed.

    Raises:
        ModelError: transformers cannot exchange this model's attention function.
    """
    if how.packing == "packed":
        runner = packed_runner(ready.module, ready.anatomy, attention=how.attention, inputs=ready.head.inputs)
        if how.last_block == "read tokens":
            read_tokens_only(runner, ready.anatomy)
    else:
        runner = padded_runner(ready.module, ready.pad_id, ready.head.inputs)
    if how.embedding_gradients == "rows":
        weights, undo = rows_in_place(ready.module)
        runner.in_place = tuple(weights)
        runner.when_closed(undo)
    if how.dropout_masks == "quick":
        runner.when_closed(quick_dropout(ready.module))
    if how.recompute != "none":
        runner.when_closed(recompute(ready.anatomy, how.recompute, how.recomputed_blocks))
    casting = casting_for(ready, how)
    if casting is not None:
        casting.run(runner)
    compile_parts(runner, ready.anatomy, how.compile)
    read_as_asked(runner, ready)
    # What is compiled or computes in another format multiplies its own way.
    if how.products == "onednn" and how.compile == "off" and not is_low(how.precision) and has_onednn():
        runner.when_closed(multiplied_by_onednn(runner))
    return runner


def casting_for(ready: Ready, how: ForwardPlan) -> Casting | None:
    """The number format of this way, in effect for the module; None in fp32."""
    return Casting(ready.module, policy_for(ready, how), how.precision) if is_low(how.precision) else None


def policy_for(ready: Ready, how: ForwardPlan) -> Policy:
    """Which module computes in the format.

    Raises:
        RecipeError: a pattern matches no module.
    """
    return policy_of(ready.module, ready.anatomy, keep_fp32=how.keep_fp32, allow_low=how.allow_low)
