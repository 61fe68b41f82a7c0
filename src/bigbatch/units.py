"""Quantities with units: `200 updates`, `6 %`, `5 min`, `8 GiB`; and how numbers are shown to people."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Unit = Literal[
    "updates", "samples", "tokens", "epochs", "evaluations", "s", "percent", "end", "never", "none"
]

_NUMBER = r"([-+]?(?:\d[\d_,]*)?(?:\.\d+)?(?:[eE][-+]?\d+)?)"
_QUANTITY = re.compile(rf"\s*{_NUMBER}\s*([A-Za-z%]*)\s*")
_UNITS: dict[str, tuple[Unit, float]] = {
    "update": ("updates", 1), "updates": ("updates", 1),
    "sample": ("samples", 1), "samples": ("samples", 1),
    "token": ("tokens", 1), "tokens": ("tokens", 1),
    "epoch": ("epochs", 1), "epochs": ("epochs", 1),
    "evaluation": ("evaluations", 1), "evaluations": ("evaluations", 1),
    "s": ("s", 1), "min": ("s", 60), "h": ("s", 3600),
    "%": ("percent", 1),
}  # fmt: skip
_BYTES = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12} | {
    unit: 1024**power for power, unit in enumerate(("KiB", "MiB", "GiB", "TiB"), start=1)
}


@dataclass(frozen=True)
class Quantity:
    """A number with its unit; times are kept in seconds. `none` is a bare 0: none of anything."""

    amount: float
    unit: Unit

    def __str__(self) -> str:
        if self.unit in ("end", "never"):
            return self.unit
        if self.unit == "none":
            return "0"
        if self.unit == "s":
            for name, size in (("h", 3600), ("min", 60)):
                if self.amount and self.amount % size == 0:
                    return f"{self.amount / size:g} {name}"
        name = "%" if self.unit == "percent" else self.unit
        amount = f"{int(self.amount)}" if self.amount == int(self.amount) else f"{self.amount:g}"
        return f"{amount} {name}"


def parse_quantity(text: str | float, allowed: tuple[Unit, ...] = ()) -> Quantity:
    """Read `<n> updates|samples|tokens|epochs|evaluations|s|min|h|%`, `end`, `never` or a bare 0.

    Args:
        text: what the user wrote; singular units are taken too.
        allowed: the units that make sense here; empty allows all.

    Raises:
        ValueError: with what was expected, in the user's words.
    """
    wanted = " | ".join(
        "%" if unit == "percent" else "s | min | h" if unit == "s" else unit for unit in allowed
    )
    hint = f"; expected a number with a unit ({wanted})" if wanted else "; expected a number with a unit"
    word = str(text).strip()
    if word in ("end", "never"):
        found = Quantity(0.0, "end" if word == "end" else "never")
    else:
        match = _QUANTITY.fullmatch(word)
        if not match or not match[1]:
            raise ValueError(f"found {_short(word)!r}{hint}")
        amount = _amount(match[1])
        if not match[2]:
            if amount != 0:
                raise ValueError(f"{_short(word)!r} has no unit{hint}")
            return Quantity(0.0, "none")
        if match[2] not in _UNITS:
            raise ValueError(f"unknown unit {_short(match[2])!r} in {_short(word)!r}{hint}")
        unit, factor = _UNITS[match[2]]
        found = Quantity(amount * factor, unit)
    if found.amount < 0:
        raise ValueError(f"{_short(word)!r} is negative{hint}")
    if allowed and found.unit not in allowed:
        raise ValueError(f"{_short(word)!r} cannot be used here{hint}")
    return found


def parse_bytes(text: str | float) -> int:
    """Read `8 GiB`, `500 MB` or a plain number of bytes.

    Raises:
        ValueError: unknown unit or no number.
    """
    if isinstance(text, (int, float)):
        return int(_bounded(text, str(text)))
    match = re.fullmatch(rf"\s*{_NUMBER}\s*([KMGT]?i?B)\s*", text)
    if not match or not match[1] or match[2] not in _BYTES:
        raise ValueError(f"found {_short(text)!r}; expected a size such as 8 GiB or 500 MB")
    return int(_amount(match[1]) * _BYTES[match[2]])


_MOST = 1e18
"""Of anything that is counted: clocks and sizes are 64-bit whole numbers further on."""


def _amount(text: str) -> float:
    return _bounded(float(text.replace("_", "").replace(",", "")), text)


def _bounded(amount: float, text: str) -> float:
    if not abs(amount) < _MOST:  # also what is no number
        raise ValueError(f"found {_short(text)}; expected less than {_MOST:g}")
    return amount


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}…"


def show_bytes(size_bytes: float) -> str:
    """`1.5 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(size_bytes) < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def show_flops(flops: float) -> str:
    """`7.1 GFLOP`."""
    for unit in ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP"):
        if abs(flops) < 1000:
            return f"{flops:.0f} {unit}" if unit == "FLOP" else f"{flops:.1f} {unit}"
        flops /= 1000
    return f"{flops:.1f} PFLOP"


def show_seconds(seconds: float) -> str:
    """`4.2 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
