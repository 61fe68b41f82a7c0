"""A tiny classifier with its anatomy, and a task for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from torch import nn

from bigbatch.data.labels import LabelSet
from bigbatch.graph.casting import Casting
from bigbatch.graph.policy import Policy, policy_of
from bigbatch.model.anatomy import Anatomy, anatomy
from bigbatch.model.runner import Runner, packed_runner, padded_runner
from bigbatch.samples import MicroBatch
from bigbatch.tasks.classify import Classify
from tests.models import tiny, tiny_batch

TASK = Classify(kind="single").with_facts(labels=LabelSet(("a", "b", "c")))


@dataclass(frozen=True)
class Small:
    """A model and what is known of it."""

    module: nn.Module
    parts: Anatomy
    batch: MicroBatch
    task: Any = TASK

    def padded(self) -> Runner:
        config: Any = self.parts.outer.config
        return padded_runner(self.module, config.pad_token_id)

    def packed(self) -> Runner:
        return packed_runner(self.module, self.parts)

    def policy(self, **patterns: Any) -> Policy:
        return policy_of(self.module, self.parts, **patterns)

    def casting(self, format: str, **patterns: Any) -> Casting:
        return Casting(self.module, self.policy(**patterns), format)


@pytest.fixture
def small() -> Callable[..., Small]:
    """`small("albert")`: a tiny model of the family."""

    def make(family: str = "bert", **options: Any) -> Small:
        module = tiny(family, **{"num_labels": 3, **options}).eval()
        parts = anatomy(module)
        return Small(module, parts, tiny_batch(pools=parts.pools))

    return make
