"""Texts on the page: the worst of a split, and prompts over the run, whatever the files hold."""

from __future__ import annotations

import json

from bigbatch.report.texts import marked_parts, samples_view, texts_view

PLACES = ("worst", "typical", "best", "of old")


def test_prompts_are_rows_and_evaluations_columns(tmp_path):
    folder = tmp_path / "samples"
    folder.mkdir()
    for step in range(1, 12):
        records = [
            {"prompt": "a\x1b[2J", "text": f"at {step}"},
            {"messages": [{"content": "hi"}], "text": "b"},
        ]
        lines = [json.dumps(record) for record in records[: 1 if step == 1 else 2]]
        (folder / f"step-{step:06d}.jsonl").write_text("\n".join(lines) + "\n")
    (folder / "step-000099.jsonl").write_text("{no json\n")
    (folder / "step-000098.jsonl").symlink_to("/etc/hostname")
    (folder / "notes.txt").write_text("not ours")
    view = samples_view(tmp_path)
    assert view["sample_steps"] == [1, 4, 7] or view["sample_steps"][0] == 1
    first, second = view["sample_rows"]
    assert first["prompt"] == "a\\x1b[2J" and first["texts"][0] == "at 1"
    assert second == {"prompt": "hi", "texts": ["", *["b"] * (len(view["sample_steps"]) - 1)]}
    assert samples_view(tmp_path / "absent") == {"sample_steps": [], "sample_rows": []}


def test_texts_stand_beside_what_was_wanted():
    row = {
        "source": "s",
        "wanted": "w" * 900,
        "written": None,
        "score": 3.14159,
        "by": "chrf",
        "where": "a.csv:2",
    }
    view = texts_view({"validation": {"texts": [{}]}, "test": {"texts": [row, "x"]}, "other": 3})
    [(words, [shown])] = view["texts"]
    assert words == "Least like what was wanted"
    assert (view["texts_split"], view["texts_by"], shown["score"], shown["written"]) == (
        "test",
        "chrf",
        "3.1",
        "",
    )
    assert len(shown["wanted"]) <= 401
    assert texts_view({"test": {"texts": "x"}})["texts"] == []


def test_the_worst_the_typical_and_the_best_stand_apart():
    texts = [
        {"wanted": "a b", "written": "a c", "score": 1.0, "by": "chrf", "place": place} for place in PLACES
    ]
    view = texts_view({"test": {"texts": texts}})
    assert [words.split()[0] for words, _ in view["texts"]] == ["Least", "Typical:", "Most"]
    assert [len(rows) for _, rows in view["texts"]] == [2, 1, 1], (
        "an unknown place is that of files of old: the worst"
    )


def test_what_the_other_text_lacks_is_marked():
    assert marked_parts("红色的车", "红车") == (
        [("红", False), ("色的", True), ("车", False)],
        [("红", False), ("车", False)],
    )
    assert marked_parts("", "one two") == ([], [("one two", True)])
    for wanted, written in (("a\tb  c", "a b"), ("x", "")):
        for text, parts in zip((wanted, written), marked_parts(wanted, written), strict=True):
            assert "".join(part for part, _ in parts) == text
