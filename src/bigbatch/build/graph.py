"""The analysis of a run's own micro-batch: what `bigbatch plan --graph` shows and `RUN/graph.json` keeps."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import numpy as np

from bigbatch.build.parts import Parts
from bigbatch.build.runners import open_runner
from bigbatch.data.lengths import padding_by_way
from bigbatch.data.packs import micro_batches
from bigbatch.graph.analyse import analyse, middle
from bigbatch.plan.forward import ForwardPlan
from bigbatch.plan.graph import GraphAnalysis, Plain
from bigbatch.protocols import Forward
from bigbatch.samples import MicroBatch
from bigbatch.tasks.ready import Ready
from bigbatch.tasks.stand_in import measured_loss


def analyse_parts(parts: Parts) -> GraphAnalysis:
    """Trace the middle micro-batch of the first update as training runs it, and the plain way; changes nothing.

    Compiled code has no operations left to watch: then the same plan is traced without compilation, and the
    parts' forward is closed.
    """
    batch = parts.batches.at(0, 1)
    pieces = list(micro_batches(batch, micro_tokens=parts.micro_tokens, packing=parts.packing))
    piece = middle([piece for piece in pieces if np.any(piece.targets.weights)] or pieces)
    ready = parts.model
    how = ForwardPlan.of(parts.plan.choices)
    if how.compile != "off":
        parts.forward.close()
        with closing(open_runner(ready, replace(how, compile="off"))) as forward:
            found = _traced(forward, ready, piece)
        found = replace(
            found, notes=(*found.notes, f"traced without compilation (plan.compile: {how.compile})")
        )
    else:
        found = _traced(parts.forward, ready, piece)
    plain = None
    if how != ForwardPlan():
        with closing(open_runner(ready, ForwardPlan())) as forward:
            padded = _traced(forward, ready, replace(piece, packing="padded"))
        plain = Plain(computed_tokens=padded.computed_tokens, cost=padded.cost)
    return replace(found, padding=padding_by_way(batch.lengths_B, parts.micro_tokens), plain=plain)


def _traced(forward: Forward, ready: Ready, piece: MicroBatch) -> GraphAnalysis:
    return analyse(forward, measured_loss(ready.task), ready.module, ready.anatomy, piece)
