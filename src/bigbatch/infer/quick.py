"""Inference without padding, without work that nobody reads and with the quicker of two libraries for matrix products,
once it has given the plain path's outputs.

A run has its plan, whose way was compared with the plain one before it trained. A model folder has none: there the
first table that is large enough decides, and sixteen of its samples run both ways. The module is changed only while
a table runs, so whoever holds it finds it as it was loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch

from bigbatch.data.batches import batch_of
from bigbatch.data.packs import micro_batches
from bigbatch.facts import ProbeFacts
from bigbatch.graph.lazy import read_tokens_only
from bigbatch.model.logits import comparable, multiplied_by_onednn
from bigbatch.model.packing import can_pack
from bigbatch.model.runner import Runner, packed_runner
from bigbatch.plan.forward import ForwardPlan
from bigbatch.probe.exactness import probe_packing
from bigbatch.probe.products import onednn_is_quicker
from bigbatch.samples import MicroBatch, Packing, Table
from bigbatch.tasks.ready import Ready, plain_runner, read_as_asked

FEWEST_SAMPLES = 64
"""A smaller table runs the plain way: trying would take longer than it saves."""
TRIED_SAMPLES = 16


class Quick:
    """The plain way of a model, and quicker ones for tables that are worth it (`protocols.Forward`)."""

    def __init__(
        self,
        ready: Ready,
        planned: ForwardPlan | None = None,
        copies: Callable[[], Sequence[Quick]] = tuple,
    ) -> None:
        """Change nothing yet.

        Args:
            ready: the model and what is known of it.
            planned: how the run that trained the module ran it; None where nobody has tried yet.
            copies: makes copies of the model on further devices; called for the first table that is worth them.
        """
        self.module = ready.module
        self.plain = plain_runner(ready)
        self.most_tokens: int | None = None
        """Computed tokens that a micro-batch may have, once a larger one was out of memory."""
        self.facts: ProbeFacts | None = None
        """What the trial found; None before it."""
        self._ready = ready
        self._copies: Sequence[Quick] | None = None
        self._make_copies = copies
        self._held: tuple[Sequence[Runner], Packing] | None = None
        self._by_onednn: bool | None = None
        """Whether oneDNN multiplies its matrices; None before that was tried."""
        self._narrow: bool | None = None
        """Of the packed way: whether the last block runs for read tokens only; None where it is not taken."""
        if planned is not None:
            packed, narrow = planned.packing == "packed", planned.last_block == "read tokens"
            self.facts = ProbeFacts(packed_ok=packed, reason="as its run was planned", error=None, samples=0)
            self._narrow = narrow if packed else None

    def __call__(self, micro_batch: MicroBatch) -> Any:
        """The plain way."""
        return self.plain(micro_batch)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return self.plain.device

    @contextmanager
    def quickest(self, table: Table) -> Iterator[tuple[Sequence[Runner], Packing]]:
        """The forwards to run this table with, one for each device, and how its micro-batches are cut."""
        if self._held is not None:
            yield self._held
            return
        if len(table) < FEWEST_SAMPLES:
            yield [self.plain], "padded"
            return
        if self.facts is None:
            self._try(table)
        if self._copies is None:  # while the module is as it was: packing changes it
            self._copies = self._make_copies()
        if self._by_onednn is None:
            self._by_onednn = onednn_is_quicker(self.module)
        ways = (self, *self._copies)
        with ExitStack() as stack:
            forwards = [each.plain for each in ways]
            if self._narrow is not None:
                forwards = [each._packed(self._narrow) for each in ways]
                for forward in forwards:
                    stack.callback(forward.close)
            for forward in forwards if self._by_onednn else ():
                stack.callback(multiplied_by_onednn(forward))
            yield forwards, "padded" if self._narrow is None else "packed"

    @contextmanager
    def held(self, table: Table) -> Iterator[Packing]:
        """Run every table, however small, in the way that this one is: what serves many small ones tries once.

        Meanwhile the module is changed, and writes no text.

        Args:
            table: of at least `FEWEST_SAMPLES`, of all lengths that are expected.
        """
        with self.quickest(table) as (runners, packing):
            self._held = runners, packing
            try:
                yield packing
            finally:
                self._held = None

    def _try(self, table: Table) -> None:
        """Take the first way that gives the plain path's outputs: the last block for read tokens only, or whole."""
        possible, reason = can_pack(self.module, self._ready.anatomy, self._ready.head.inputs)
        self.facts = ProbeFacts(packed_ok=False, reason=reason, error=None, samples=0)
        samples = _some(table)
        for narrow in (True, False) if possible else ():
            forward = self._packed(narrow)
            try:
                facts = probe_packing(comparable(forward), comparable(self.plain), samples, gradient=False)
            finally:
                forward.close()
            self.facts = facts
            if facts.packed_ok:
                self._narrow = narrow
                return

    def _packed(self, narrow: bool) -> Runner:
        runner = packed_runner(self.module, self._ready.anatomy, inputs=self._ready.head.inputs)
        if narrow:
            read_tokens_only(runner, self._ready.anatomy)
        return read_as_asked(runner, self._ready)


def _some(table: Table) -> list[MicroBatch]:
    """The longest, the shortest and other samples, packed."""
    by_length = np.argsort(table.lengths_B, kind="stable")
    chosen = np.sort(by_length[np.linspace(0, len(table) - 1, TRIED_SAMPLES).astype(np.int64)])
    longest = int(table.lengths_B.max())
    return list(micro_batches(batch_of(table, chosen), micro_tokens=max(512, longest), packing="packed"))
