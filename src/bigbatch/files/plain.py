"""Any value that a source may hold as a plain Python value, whether it is missing, and as text."""

from __future__ import annotations

import math
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any

import numpy as np

BLANKS = " \t\r\n\f\v"
"""What separates words that come as one text. Other blanks (no-break, ideographic, …) are characters of words."""
_PANDAS_MISSING = ("NAType", "NaTType")
"""pandas.NA and NaT, told by name, since pandas is never imported here."""


def lines_of(text: str) -> list[str]:
    """Lines that end as files end them: `splitlines` also divides at characters that stand inside a line of text."""
    return text.replace("\r\n", "\n").replace("\r", "\n").split("\n")


def plain(value: Any) -> Any:
    """Numpy scalars, tensors, arrays and members of an Enum as Python values, dates as `datetime` has them; NaN stays
    a float.
    """
    if isinstance(value, (np.datetime64, np.timedelta64)):
        found = None if np.isnat(value) else value.item()
        # In nanoseconds, `item` gives a number.
        return value.astype(f"{type(value).__name__}[us]").item() if isinstance(found, int) else found
    if isinstance(value, Enum):
        return plain(value.value)
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray) and value.dtype.kind in "mM":
        return [plain(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def is_missing(value: Any) -> bool:
    """None, NaN (a number, not the text), pandas' NA and NaT."""
    if isinstance(value, (float, Decimal)):
        return math.isnan(value)
    return value is None or type(value).__name__ in _PANDAS_MISSING


def text_of(value: Any) -> str | None:
    """Text; numbers, booleans and dates as they print, bytes as the UTF-8 they are; None when missing.

    Raises:
        ValueError: a list or an object, or text that cannot be stored.
    """
    value = plain(value)
    if is_missing(value):
        return None
    if isinstance(value, bytes):
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"bytes that are not UTF-8 (byte 0x{value[error.start]:02X})") from None
    if isinstance(value, (bool, int, float, Decimal)):
        return str(value)
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, (date, time)):
        return value.isoformat()
    if not isinstance(value, str):
        raise ValueError(f"expected text, found {type(value).__name__}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"half a surrogate pair at character {error.start}: this is not text") from None
    return str(value)
