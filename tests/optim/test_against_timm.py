"""LAMB, LARS and Lion against timm's, five steps of three tensors in fp64.

The numbers are those of timm 1.0.31 with torch 2.13.0: `Lamb(max_grad_norm=None)`, `Lars(trust_coeff=0.001, eps=1e-8)`,
`Lion(betas=(0.9, 0.99))`, started and driven as below, the third tensor without weight decay.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from bigbatch.optim.lamb import Lamb
from bigbatch.optim.lars import Lars
from bigbatch.optim.lion import Lion

TIMM = {
    "lamb": [
        [0.826468290283, 0.991886209628, 0.213602298328, -0.731726413773, -1.0091636133, -0.355829192824],
        [0.0987047541944, 0.063354628602, -0.039205945633, -0.108488428891],
        [0.476717724431, -0.168999002746, 0.953155977247],
    ],
    "lars": [
        [0.838732302087, 0.91876463088, 0.154088995142, -0.752255352111, -0.966979597837, -0.292667260766],
        [0.10001679117, 0.0559207947906, -0.0413787229697, -0.100845098128],
        [1.02946576542, 10.5439158115, -8.51317360322],
    ],
    "lars_nesterov": [
        [0.840292928814, 0.921448027621, 0.155428059309, -0.753491749939, -0.969654719198, -0.294321611418],
        [0.100315023717, 0.0562886542258, -0.0416290364097, -0.101245194475],
        [3.0047213122, 11.7738599631, -11.5121038856],
    ],
    "lion": [
        [0.849389389978, 0.95697648036, 0.170717585657, -0.764932360136, -0.986519355093, -0.308667682637],
        [0.109770229881, 0.0838453150122, -0.0515307309365, -0.148702023904],
        [0.51, -0.22, 0.97],
    ],
}
"""Values of the three tensors after five steps, one list each."""
OURS: dict[str, Callable[[Any], Optimizer]] = {
    "lamb": lambda groups: Lamb(groups, lr=0.02),
    "lars": lambda groups: Lars(groups, lr=2.0),
    "lars_nesterov": lambda groups: Lars(groups, lr=2.0, nesterov=True),
    "lion": lambda groups: Lion(groups, lr=0.01),
}


@pytest.mark.parametrize("name", OURS)
def test_five_steps(name: str) -> None:
    parameters = [
        nn.Parameter(torch.sin(torch.arange(6.0, dtype=torch.float64) + 1).reshape(2, 3)),
        nn.Parameter(torch.cos(torch.arange(4.0, dtype=torch.float64)).reshape(2, 2) * 0.1),
        nn.Parameter(torch.tensor([0.5, -0.25, 1.0], dtype=torch.float64)),
    ]
    # timm adapts what decays.
    groups = [
        {"params": parameters[:2], "weight_decay": 0.05},
        {"params": parameters[2:], "weight_decay": 0.0, "adapt": False},
    ]
    optimizer = OURS[name](groups)
    for step in range(1, 6):
        for number, parameter in enumerate(parameters):
            places = torch.arange(parameter.numel(), dtype=torch.float64)
            slope = torch.cos(places * (1 + 0.5 * number) + 0.7 * step) * (0.3 + 0.2 * number)
            parameter.grad = slope.reshape(parameter.shape)
        optimizer.step()
    for parameter, wanted in zip(parameters, TIMM[name], strict=True):
        assert parameter.flatten().tolist() == pytest.approx(wanted, rel=1e-10, abs=1e-11)
