"""`init` knows prompts with a chosen and a rejected answer, by the names of the columns."""

from __future__ import annotations

import json

import pytest

from bigbatch.data.guess import profile
from bigbatch.errors import DataError
from tests.preferences import answer_rows


def written(folder, names):
    rows = [dict(zip(names, row.values(), strict=True)) for row in answer_rows(30)]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    "names",
    [("prompt", "chosen", "rejected"), ("question", "chosen", "rejected"), ("Prompt", "winner", "loser")],
)
def test_the_three_columns_are_found(tmp_path, names):
    found = profile(written(tmp_path, names))
    assert found.columns == dict(zip(("prompt", "chosen", "rejected"), names, strict=True))


def test_other_names_are_said_all_or_none(tmp_path):
    path = written(tmp_path, ("a", "b", "c"))
    assert "chosen" not in profile(path).columns
    said = {"prompt": "a", "chosen": "b", "rejected": "c"}
    assert profile(path, columns=said).columns == said
    with pytest.raises(DataError, match="comes with rejected"):
        profile(path, columns={"prompt": "a", "chosen": "b"})


def test_lists_of_messages_are_found_with_or_without_a_column_for_their_prompt(tmp_path):
    rows = []
    for row in answer_rows(30):
        asked = {"role": "user", "content": row["prompt"]}
        both = {name: [asked, {"role": "assistant", "content": row[name]}] for name in ("chosen", "rejected")}
        rows.append({**both, "messages": both["chosen"]})
    path = tmp_path / "talks.jsonl"
    for names, extra in (({"prompt": "prompt"}, {}), ({"prompt": "question"}, {"question": True})):
        own = [{**row, **({"question": row["chosen"][0]["content"]} if extra else {})} for row in rows]
        path.write_text("".join(json.dumps(row) + "\n" for row in own))
        found = profile(path)
        assert found.columns == {**names, "chosen": "chosen", "rejected": "rejected"}
    texts = profile(written(tmp_path, ("prompt", "chosen", "rejected")))
    assert (found.words, found.total_tokens) == (texts.words, texts.total_tokens)
