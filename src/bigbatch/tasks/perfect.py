"""What a perfect model would give: enough to know, before any training, which figures a split cannot have.

Shapes: U units, C outputs per unit.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from bigbatch.records import Targets
from bigbatch.tasks.classify import Classify
from bigbatch.tasks.language import LanguageModelling
from bigbatch.tasks.tag import Tag


def perfect_outputs(task: Any, targets: Targets) -> np.ndarray | None:
    """Outputs from which `task.decode` reads the targets themselves (U, C) float64; None for tasks of another kind.

    Args:
        task: what the outputs would be of.
        targets: of U units (numpy); those of weight 0 get any output.
    """
    values = np.asarray(targets.values)
    if isinstance(task, LanguageModelling):
        return np.tile([0.0, 1.0], (len(values), 1))  # no surprise; the likeliest token is the true one
    if isinstance(task, Tag) or (isinstance(task, Classify) and task.kind == "single"):
        classes = max(len(task.label_names), int(values.max(initial=0)) + 1)
        return np.eye(classes)[np.maximum(values, 0)]
    if isinstance(task, Classify):
        wide_UC = values.reshape(len(values), -1).astype(np.float64)
        return 2 * wide_UC - 1 if task.kind == "multi" else wide_UC
    return None
