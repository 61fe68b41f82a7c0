from __future__ import annotations

import pytest

from bigbatch.report.text import clean, shorten, show_measured, show_number, show_share, show_unit, title_of


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0, "0"), (11213, "11,213"), (1467.3, "1,467"), (0.85234, "0.852"), (5e-5, "5e-5"), (1.25e-4, "1.25e-4"),
        (45.478, "45.48"), (234.56, "234.6"), (None, "–"), (float("nan"), "–"), (float("inf"), "–"), (True, "True"),
        (-0.5, "-0.500"), ("packed", "packed"),
    ],
)  # fmt: skip
def test_numbers_are_short_and_keep_their_digits(value: object, shown: str) -> None:
    assert show_number(value) == shown


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("train_seconds", 200.0, "3 min 20 s"),
        ("peak_memory_bytes", 1024**3, "1.0 GiB"),
        ("padding_share", 0.44, "44.0\xa0%"),
        ("padding_share_random", 0.44, "44.0\xa0%"),
        ("shares", 0.44, "0.440"),
        ("train_seconds", float("nan"), "–"),
        ("micro_tokens", 2048, "2,048"),
    ],
)
def test_the_unit_comes_from_the_name(name: str, value: float, shown: str) -> None:
    assert show_measured(name, value) == shown


def test_predictions_show_their_unit() -> None:
    assert show_unit(200.0, "s") == "3 min 20 s"
    assert show_unit(2**30, "bytes") == "1.0 GiB"
    assert show_unit(1466.0, "tokens/s") == "1,466 tokens/s"
    assert show_unit(3e-8, None) == "3e-8"


def test_controls_are_spelled_out_and_line_breaks_stay() -> None:
    assert (
        clean("\x1b[31mred\x07 a\tb\nc \u202egnp.exe\x9b") == "\\x1b[31mred\\x07 a\tb\nc \\u202egnp.exe\\x9b"
    )


@pytest.mark.parametrize(
    "secret",
    [
        "hf_abcdefghijklmnopqrstuv",
        "ghp_0123456789abcdef0123",
        "https://user:hunter2@example.org/x",
        "AKIAABCDEFGHIJKLMNOP",
    ],
)
def test_secret_values_are_taken_out(secret: str) -> None:
    shown = clean(f"args: {{note: {secret}}}")
    assert "[removed]" in shown
    assert not {"hunter2", secret} & set(shown.replace("@", " ").replace(":", " ").replace("}", " ").split())


def test_values_of_secret_keys_are_taken_out_and_others_stay() -> None:
    text = (
        "observer:\n  api_key: abc\n  password: null\n  tokens: 65536\n  tokenizer: x\n- auth_token: 'y z'\n"
    )
    cut = text.replace("abc", "[removed]").replace("'y z'", "[removed]")
    assert clean(text) == cut


def test_small_helpers() -> None:
    assert shorten("abcdef", 4) == "abc…"
    assert shorten("abcd", 4) == "abcd"
    assert show_share(0.4391) == "44\xa0%"
    assert title_of("f1_macro") == "F1 macro"
    assert title_of("train_seconds") == "Training time"
    assert title_of("precision_=cmd") == "Precision =cmd"
