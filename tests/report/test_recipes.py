from __future__ import annotations

from bigbatch.report.recipes import differing_keys, flat_recipe
from tests.report.fake_run import RECIPE


def test_a_recipe_becomes_dotted_keys_with_its_text() -> None:
    flat = flat_recipe(RECIPE)
    assert flat["batch.samples"] == "256"
    assert flat["optimizer.betas"] == "0.9, 0.999"
    assert flat["data.train.0.path"] == "train.csv"
    assert flat["schedule.warmup"] == "6 %"
    assert flat["model.revision"] == "null"
    assert flat["task.args"] == ""


def test_values_stay_text() -> None:
    assert flat_recipe("a: no\nb: 5e-5\nc: 012") == {"a": "no", "b": "5e-5", "c": "012"}


def test_what_is_no_recipe_is_empty() -> None:
    bomb = "a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n"
    for text in ("", "just words", "a: [1", bomb, "- 1\n", "[" * 1200):
        assert flat_recipe(text) == {}, text[:20]


def test_tags_build_nothing() -> None:
    assert flat_recipe("a: !!python/object/apply:os.system ['echo x']\n") == {"a": "echo x"}


def test_only_differing_keys_are_listed() -> None:
    one, two = flat_recipe(RECIPE), flat_recipe(RECIPE.replace("256", "1024") + "clip2: x\n")
    assert differing_keys([one, two]) == ["batch.samples", "clip2"]
    assert differing_keys([one, one]) == []


def test_a_text_without_an_end_of_brackets_is_no_recipe():
    """At once: the parser itself would take minutes."""
    assert flat_recipe("[" * 100_000) == {}
    assert flat_recipe("".join(f"{' ' * depth}a:\n" for depth in range(500))) == {}
