"""How words and numbers are shown to people in reports."""

from __future__ import annotations

import math
import re

from bigbatch.units import show_bytes, show_seconds

# C0 and C1 controls except tab and newline, and the characters that reorder text: none of them is
# visible, all of them can make a label look like something else.
_INVISIBLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_SECRET_VALUE = re.compile(
    r"\b(?:hf_|sk-|gh[pousr]_|github_pat_|glpat-|xox[abprs]-|AKIA)[A-Za-z0-9_-]{12,}|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)"
)
_SECRET_KEY = re.compile(
    r"(?im)^(\s*(?:-\s*)?[\w.-]*(?:password|passwd|secret|api_?key|access_?key|auth_?token|access_?token)[\w.-]*"
    r"\s*[:=]\s*)(?!null\b)\S.*$"
)
_FRACTION = re.compile(r"(?:^|_)(?:fraction|share)(?:_|$)")
_ACRONYMS = {"f1": "F1", "roc": "ROC", "auc": "AUC", "lr": "learning rate", "r2": "R²"}
_METRIC_NAMES = {
    "train_seconds": "Training time",
    "evaluate_seconds": "Evaluation time",
    "inference_samples_per_second": "Inference, samples/s",
    "matthews_corrcoef": "Matthews correlation",
    "expected_calibration_error": "Calibration error",
    "roc_auc_ovr": "ROC AUC",
    "log_loss": "Log loss",
}


def clean(value: object) -> str:
    """The value as text, with control characters spelled out so that they show, and secrets taken out."""
    text = _INVISIBLE.sub(lambda found: _spelled(found[0]), str(value))
    return _SECRET_KEY.sub(r"\1[removed]", _SECRET_VALUE.sub("[removed]", text))


def _spelled(character: str) -> str:
    code = ord(character)
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"


def shorten(text: str, characters: int) -> str:
    """The text cut to so many characters, with an ellipsis when something was cut."""
    return text if len(text) <= characters else text[: max(1, characters - 1)].rstrip() + "…"


def show_number(value: object) -> str:
    """`11,213`, `1,467`, `0.852`, `5e-5`; an en dash for a figure that is missing or not finite."""
    if isinstance(value, bool) or value is None or not isinstance(value, (int, float)):
        return "–" if value is None else clean(value)
    if not math.isfinite(value):
        return "–"
    if value == int(value) and abs(value) < 1e15:
        return f"{int(value):,}"
    size = abs(value)
    if size >= 1000:
        return f"{value:,.0f}"
    if size >= 100:
        return f"{value:.1f}"
    if size >= 10:
        return f"{value:.2f}"
    if size >= 1e-3:
        return f"{value:.3f}"
    return scientific(value)


def scientific(value: float) -> str:
    """`5e-5`, `1.25e-4`: no padding zeros in mantissa or exponent."""
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def show_share(fraction: float, digits: int = 0) -> str:
    """`44 %`, with a space that does not break."""
    return f"{100 * fraction:.{digits}f}\xa0%"


def show_measured(name: str, value: object) -> str:
    """A figure in the unit that its name tells: `_seconds`, `_bytes`, or a `share` or `fraction` in it."""
    if value is None or isinstance(value, bool) or not isinstance(value, (int, float)):
        return show_number(value)
    if not math.isfinite(value):
        return "–"
    if name == "seconds" or name.endswith("_seconds"):
        return show_seconds(value)
    if name == "bytes" or name.endswith("_bytes"):
        return show_bytes(value)
    if _FRACTION.search(name) and 0 <= value <= 1:
        return show_share(value, 1)
    return show_number(value)


def show_unit(value: float, unit: str | None) -> str:
    """A prediction with its unit, as a plan states it: seconds and bytes in readable steps."""
    if unit in ("s", "second", "seconds"):
        return show_seconds(value)
    if unit in ("B", "byte", "bytes"):
        return show_bytes(value)
    return f"{show_number(value)} {clean(unit)}" if unit else show_number(value)


def title_of(name: str) -> str:
    """A metric's or a key's name for people: `f1_macro` -> `F1 macro`, `train_seconds` -> `Train`."""
    if name in _METRIC_NAMES:
        return _METRIC_NAMES[name]
    base = re.sub(r"_(seconds|bytes)$", "", name)
    words = [_ACRONYMS.get(word, word) for word in clean(base).replace(".", " ").split("_")]
    text = " ".join(words).strip()
    return text[:1].upper() + text[1:]
