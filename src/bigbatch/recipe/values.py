"""The value types of the recipe: what a key accepts, said in the user's words when it does not."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
)

from bigbatch.units import Quantity, Unit, parse_bytes, parse_quantity

PLANNED = "planned, not built yet"
AUTO = "auto"
"""Decided before update 1, from the data, the model and what the run measures (`rules.first_run`)."""
AUTO_WARMUP = "40 updates"
"""With `epochs: auto`; at most a quarter of the run (`build.settled`)."""
_REFERENCE = re.compile(r"(?:[^\s:][^\n]*\.py|[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):[A-Za-z_]\w*")


class Section(BaseModel):
    """A mapping of the recipe: frozen, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=False)


@dataclass(frozen=True)
class Built:
    """Accepts only the values that work today; the others parse, and are refused as planned."""

    values: tuple[object, ...]

    def __call__(self, value: object) -> object:
        if value not in self.values:
            raise ValueError(f"{show(value)} is {PLANNED}" + self._today())
        return value

    def _today(self) -> str:
        names = [show(value) for value in self.values if isinstance(value, (str, int, Quantity))]
        return f"; today: {' | '.join(names)}" if names else "; leave it out"


def built(*values: object) -> AfterValidator:
    """The values of a key that work today."""
    return AfterValidator(Built(values))


def is_reference(text: str) -> bool:
    """Whether `text` is an import reference, `package.module:name` or `file.py:name`."""
    return bool(_REFERENCE.fullmatch(text))


def show(value: object) -> str:
    """A value as the user would write it in YAML, shortened and on one line."""
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_none=True, exclude_defaults=True)
    if value is None or isinstance(value, bool):
        text = {None: "null", True: "true", False: "false"}[value]
    elif isinstance(value, (dict, list, tuple)):
        text = repr(list(value)) if isinstance(value, tuple) else repr(value)
    elif isinstance(value, str):
        text = repr(value)
    else:
        text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def kind_of(value: object) -> str:
    """What a value is, for `found 'x' (text); expected a number`."""
    names = {
        bool: "true or false",
        int: "a number",
        float: "a number",
        str: "text",
        dict: "a mapping",
        list: "a list",
    }
    return "nothing" if value is None else names.get(type(value), type(value).__name__)


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        hint = ""
        if isinstance(value, str) and re.fullmatch(r"[-+]?[\d_,.]+([eE][-+]?\d+)?", value):
            hint = ", without quotes, underscores or commas"
        raise ValueError(f"found {show(value)} ({kind_of(value)}); expected a number{hint}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"found {value if number != math.inf else 'infinity'}; expected a finite number")
    return number


def _count(value: object) -> int:
    number = _number(value)
    assert isinstance(value, (int, float))
    if number != int(number):
        raise ValueError(f"found {value}; expected a whole number")
    return int(value)


def _bytes(value: object) -> int:
    if isinstance(value, str):
        return parse_bytes(value)
    return _count(value)


def _quantity(*allowed: Unit) -> BeforeValidator:
    def read(value: object) -> Quantity:
        if isinstance(value, Quantity):
            value = str(value)
        if isinstance(value, bool) or not isinstance(value, (str, int, float)):
            value = show(value)
        return parse_quantity(value, allowed)

    return BeforeValidator(read)


_AsText = PlainSerializer(str, return_type=str)

MOST_COUNT = 10**15
"""Of updates, samples or tokens: their products still fit the 64 bits of a position."""
Number = Annotated[float, BeforeValidator(_number)]
Passes = Annotated[float, BeforeValidator(_number), Field(gt=0, le=1e6)]
"""Over the data."""
PositiveNumber = Annotated[float, BeforeValidator(_number), Field(gt=0)]
NonNegativeNumber = Annotated[float, BeforeValidator(_number), Field(ge=0)]
Fraction = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1)]
"""From 0 to 1, both ends included; never a percentage."""
Beta = Annotated[float, BeforeValidator(_number), Field(ge=0, lt=1)]


@dataclass(frozen=True)
class AutoOr:
    """A number that `read` accepts, above 0 or from `least` on, or the word auto."""

    read: Callable[[object], float]
    least: float = 0
    most: float = math.inf
    words: str = "number"

    def __call__(self, value: object) -> object:
        if value == AUTO:
            return AUTO
        number = self.read(value)
        if number <= 0 or number < self.least:
            expected = f"at least {self.least:g}" if self.least else "more than 0"
            raise ValueError(f"found {show(value)}; expected {expected}")
        if number > self.most:
            raise ValueError(f"found {show(value)}; expected at most {self.most:,.0f}")
        return number


# Numbers to everybody who reads a recipe that is settled: only `build.settled` meets the word.
AutoPasses = Annotated[Any, PlainValidator(AutoOr(_number, most=1e6))]
AutoRate = Annotated[Any, PlainValidator(AutoOr(_number))]
AutoCount = Annotated[Any, PlainValidator(AutoOr(_count, 1, MOST_COUNT - 1, "whole number"))]
Count = Annotated[int, BeforeValidator(_count), Field(ge=1, lt=MOST_COUNT)]
"""A whole number from 1; `1e6` counts as one."""
CountOrZero = Annotated[int, BeforeValidator(_count), Field(ge=0, lt=MOST_COUNT)]
Seed = Annotated[int, BeforeValidator(_count), Field(ge=0, lt=2**63)]
ByteSize = Annotated[int, BeforeValidator(_bytes), Field(ge=1)]
Text = Annotated[str, Field(min_length=1)]

Interval = Annotated[
    Quantity, _quantity("updates", "samples", "tokens", "epochs", "s", "end", "never"), _AsText
]
"""When something happens: after the first update that crosses the mark."""
Marks = Annotated[Quantity, _quantity("updates", "samples", "epochs", "end", "never"), _AsText]
"""When something happens, by the run's position alone: the same in a run that was resumed."""
Stretch = Annotated[Quantity, _quantity("percent", "updates", "samples", "epochs", "none"), _AsText]
"""A part of the run."""
Evaluations = Annotated[Quantity, _quantity("evaluations"), _AsText]
TextInterval = Annotated[Quantity, _quantity("evaluations", "end"), _AsText]
"""Which of the evaluations."""
Duration = Annotated[Quantity, _quantity("s", "none"), _AsText]


def quantity(text: str) -> Quantity:
    """A default of the schema, written as the user would."""
    return parse_quantity(text)


@dataclass(frozen=True)
class NamedOr:
    """A name of the catalogue, or the user's own code as an import reference."""

    names: tuple[str, ...]
    planned: tuple[str, ...] = ()

    def __call__(self, value: str) -> str:
        if value in self.names or is_reference(value):
            return value
        if value in self.planned:
            raise ValueError(f"{value!r} is {PLANNED}; today: {' | '.join(self.names)}")
        raise ValueError(
            f"found {value!r}; expected {' | '.join(self.names)} or your own code{nearest(value, self.names)}"
        )


def nearest(word: str, names: tuple[str, ...] | list[str]) -> str:
    """`; did you mean linear?`, or nothing when no name is close."""
    from difflib import get_close_matches

    found = get_close_matches(word, names, n=1, cutoff=0.6)
    return f"; did you mean {found[0]}?" if found else ""


def named(*names: str, planned: tuple[str, ...] = ()) -> AfterValidator:
    """Names that may also be import references."""
    return AfterValidator(NamedOr(names, planned))


OnOff = Literal["off", "run", "bitwise"]
