"""From the plan's words to a model that runs that way."""

from __future__ import annotations

from bigbatch.build.ready import Ready
from bigbatch.graph.casting import Casting
from bigbatch.graph.compiled import compile_parts
from bigbatch.graph.dropout import quick_dropout
from bigbatch.graph.embeddings import rows_in_place
from bigbatch.graph.lazy import read_tokens_only
from bigbatch.graph.policy import Policy, policy_of
from bigbatch.graph.recompute import recompute
from bigbatch.model.forwards import ModuleForward, PackedForward, PaddedForward
from bigbatch.model.heads import HEADS
from bigbatch.model.logits import DeferredForward, multiplied_by_onednn
from bigbatch.model.pooling import pooled
from bigbatch.model.products import has_onednn
from bigbatch.plan.forward import ForwardPlan
from bigbatch.plan.precision import is_low


def open_forward(ready: Ready, how: ForwardPlan) -> ModuleForward:
    """Run the model in this way until the forward is closed; it stops in front of logits that nobody reads whole.

    Raises:
        ModelError: transformers cannot exchange this model's attention function.
    """
    if how.packing == "packed":
        forward = PackedForward(ready.module, ready.anatomy, attention=how.attention)
        if how.last_block == "read tokens":
            read_tokens_only(forward)
    else:
        forward = PaddedForward(ready.module, ready.pad_id, HEADS[ready.task.head.kind].inputs)
    _change(forward, ready, how)
    layer = ready.anatomy.output_layer
    if ready.deferred and layer is not None:
        opened: ModuleForward = DeferredForward(forward, layer)
    else:
        opened = pooled(forward, ready.task.pooled_by)
    # What is compiled or computes in another format multiplies its own way.
    if how.products == "onednn" and how.compile == "off" and not is_low(how.precision) and has_onednn():
        opened.when_closed(multiplied_by_onednn(opened))
    return opened


def _change(forward: ModuleForward, ready: Ready, how: ForwardPlan) -> None:
    if how.embedding_gradients == "rows":
        weights, undo = rows_in_place(ready.module)
        forward.in_place = tuple(weights)
        forward.when_closed(undo)
    if how.dropout_masks == "quick":
        forward.when_closed(quick_dropout(ready.module))
    if how.recompute != "none":
        forward.when_closed(recompute(ready.anatomy, how.recompute, how.recomputed_blocks))
    casting = casting_for(ready, how)
    if casting is not None:
        casting.forward(forward)
    compile_parts(forward, ready.anatomy, how.compile)


def casting_for(ready: Ready, how: ForwardPlan) -> Casting | None:
    """The number format of this way, in effect for the module; None in fp32."""
    return Casting(ready.module, policy_for(ready, how), how.precision) if is_low(how.precision) else None


def policy_for(ready: Ready, how: ForwardPlan) -> Policy:
    """Which module computes in the format.

    Raises:
        RecipeError: a pattern matches no module.
    """
    return policy_of(ready.module, ready.anatomy, keep_fp32=how.keep_fp32, allow_low=how.allow_low)
