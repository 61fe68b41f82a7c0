"""Words of the recipe that other rooms know too: each list stands here alone."""

from __future__ import annotations

from typing import Literal

SCHEDULES = ("linear", "cosine", "constant", "wsd")
"""Of `schedule.name`, beside one's own (`rules.schedules`)."""

Attention = Literal["sdpa", "chunked", "flash", "flex"]
Recompute = Literal["none", "selective", "blocks"]
Compile = Literal["off", "blocks", "whole"]
Products = Literal["torch", "onednn"]
Precision = Literal["fp32", "tf32", "bf16", "fp16", "fp8"]
