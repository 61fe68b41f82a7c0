"""Rows that are hardly meant are counted with the first of them, for every task that has such, and nothing is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from bigbatch.data.sources import read_table
from bigbatch.data.suspicious import suspicious_rows
from bigbatch.data.tables import DataTable
from bigbatch.protocols import Role
from bigbatch.tasks.catalog import TASKS
from tests.jobs import exhaust, lines, start
from tests.models import WORDS, tiny_pair, tiny_tokenizer

Rows = list[dict[str, Any]]


def user(text: object) -> dict[str, object]:
    return {"role": "user", "content": text}


def assistant(text: object, **more: object) -> dict[str, object]:
    return {"role": "assistant", "content": text, **more}


def table(task: str, rows: Rows) -> DataTable:
    return read_table(rows, base=Path(), columns={}, roles=TASKS[task]().roles)


def said(task: str, rows: Rows, **others: Rows) -> list[str]:
    tables = {name: table(task, given) for name, given in others.items()}
    return suspicious_rows(table(task, rows), tables, TASKS[task]().roles)


CALL = {"type": "function", "function": {"name": "look", "arguments": {"where": '"role": "user"'}}}
CASES: dict[str, tuple[str, Rows, list[str]]] = {
    "copies": (
        "seq2seq",
        [{"source": "a", "target": "b"}, {"source": "a b", "target": " a b\u3000"}, {"source": "A", "target": "a"},
         *[{"source": "x", "target": "x"}] * 3],
        ["train: 4 of 6 rows have the same source and target; the first: row 2, row 4, row 5"],
    ),
    "same-answers": (
        "prefer",
        [{"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": "p", "chosen": "a", "rejected": "a "}],
        ["train: 1 of 2 rows have the same chosen and rejected; the first: row 2"],
    ),
    "same-messages": (
        "reward",
        [{"chosen": [user("p"), assistant("a")], "rejected": [user("p"), assistant("b")]},
         {"chosen": [user("p"), assistant("a")], "rejected": [user("p"), assistant("a")]}],
        ["train: 1 of 2 rows have the same chosen and rejected; the first: row 2"],
    ),
    "same-ids": (
        "prefer",
        [{"prompt": [4, 5], "chosen": [6], "rejected": [6]}, {"prompt": [4, 5], "chosen": [6], "rejected": [6, 7]}],
        ["train: 1 of 2 rows have the same chosen and rejected; the first: row 1"],
    ),
    "turned": (
        "prefer",
        [{"prompt": "p", "chosen": "a", "rejected": "b"}, {"prompt": "q", "chosen": "b", "rejected": "a"},
         {"prompt": "p", "chosen": "b", "rejected": "a"}],
        ["train: 2 of 3 rows prefer an answer to one that others prefer to it; the first: row 1, row 3"],
    ),
    "nobody-answers": (
        "chat",
        [{"messages": [user("hi"), assistant("yes")]}, {"messages": [user('say "role": "assistant"')]},
         {"messages": [{"role": "system", "content": "s"}, user("")]}],
        ["train: 2 of 3 rows have no turn of the assistant, and nothing is learnt of them; the first: row 2, row 3"],
    ),
    "empty-answers": (
        "chat",
        [{"messages": [user("hi"), assistant("yes")]}, {"messages": [user("hi"), assistant(" \n\t")]},
         {"messages": [user(""), assistant("ok")]}, {"messages": [user("hi"), assistant(None, tool_calls=[CALL])]},
         {"messages": [user("hi"), assistant("a"), user("b"), assistant("")]}],
        ["train: 2 of 5 rows have an answer of the assistant that is empty: the model learns to say nothing; "
         "the first: row 2, row 5"],
    ),
    "query-is-document": (
        "match",
        [{"query": "a", "document": "a", "negative": None}, {"query": "a", "document": "b", "negative": "b"},
         {"query": "a", "document": "b", "negative": "c"}],
        ["train: 1 of 3 rows have the same query and document; the first: row 1",
         "train: 1 of 3 rows have the same document and negative; the first: row 2"],
    ),
    "one-of-the-negatives": (
        "match",
        [{"query": "a", "document": "b", "negatives": ["c", "b", "b"]}, {"query": "a", "document": "b", "negatives": []},
         {"query": "a", "document": "d", "negatives": ["c", "b"]}],
        ["train: 1 of 3 rows have the same document and negatives; the first: row 1"],
    ),
    "a-candidate-twice": (
        "rank",
        [{"query": "a", "candidate": ["b", "c"], "label": [1, 0]}, {"query": "d", "candidate": ["b", "c", "b"], "label": 0}],
        ["train: 1 of 2 rows have the same candidate more than once; the first: row 2"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_counts_with_the_first_rows(name: str) -> None:
    task, rows, expected = CASES[name]
    assert said(task, rows) == expected
    others = [line.replace("train:", "test:") for line in expected if " prefer an answer" not in line]
    clean = [row for place, row in enumerate(rows) if f"row {place + 1}" not in " ".join(expected)][:1]
    assert said(task, clean) == []
    assert set(others) <= set(said(task, clean, test=rows)), "of every split"


def test_a_source_that_train_has_with_another_target() -> None:
    train = [{"source": "a", "target": "1"}, {"source": "b", "target": "2"}]
    held = [{"source": "c", "target": "1"}, {"source": "b", "target": "3"}, {"source": "a", "target": "1"}]
    line = "validation: 1 of 3 rows have a source that train has with another target; the first: row 2"
    assert said("seq2seq", train, validation=held) == [line], "a whole row that is shared is said elsewhere"


def test_places_are_those_of_the_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.csv").write_text("source,target\none,two\nsame,same\n")
    files = [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]
    roles = TASKS["seq2seq"]().roles
    found = suspicious_rows(read_table(files, base=tmp_path, columns={}, roles=roles), {}, roles)
    places = [f"{file}:3" for file in files]
    assert len(found) == 1 and all(Path(place).name in found[0] for place in places), found


HOSTILE: dict[str, tuple[dict[str, pa.Array], dict[str, Role]]] = {
    "nothing but nulls": (
        {"a": pa.nulls(3, pa.large_string()), "b": pa.nulls(3, pa.large_string())},
        {"a": Role(meaning=""), "b": Role(meaning="", unlike="a")},
    ),
    "a text beside ids": (
        {"a": pa.array(["x", "y"], pa.large_string()), "b": pa.array([[1], None])},
        {"a": Role(meaning=""), "b": Role(meaning="", unlike="a")},
    ),
    "numbers": ({"a": pa.array([1, 2]), "b": pa.array([1.0, 2.0])}, {"b": Role(meaning="", unlike="a")}),
    "a role that is not there": ({"b": pa.array(["x"])}, {"b": Role(meaning="", unlike="a")}),
    "no rows": (
        {"a": pa.array([], pa.large_string()), "b": pa.array([], pa.large_list(pa.large_string()))},
        {"a": Role(meaning=""), "b": Role(meaning="", kind="words", unlike="a")},
    ),
    "lists of nulls": (
        {"a": pa.array(["", "x"], pa.large_string()),
         "b": pa.array([[None, ""], None], pa.large_list(pa.large_string()))},
        {"a": Role(meaning=""), "b": Role(meaning="", kind="words", unlike="a")},
    ),
    "candidates without a list": (
        {"c": pa.array(["x", "x"]), "d": pa.array([1.0, 0.0])},
        {"c": Role(meaning="", kind="items"), "d": Role(meaning="", kind="grades")},
    ),
    "candidates that are missing": (
        {"c": pa.array([[None, None], None, []], pa.large_list(pa.large_string())), "d": pa.array([1.0, 0.0, 1.0])},
        {"c": Role(meaning="", kind="items"), "d": Role(meaning="", kind="grades")},
    ),
    "messages that are missing": (
        {"m": pa.array([None, '{"messages": [{"role": "assistant", "content": "x"}]}'], pa.large_string())},
        {"m": Role(meaning="", kind="messages")},
    ),
    "messages as ids": ({"m": pa.array([[1, 2]])}, {"m": Role(meaning="", kind="messages")}),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("chunks", [1, 2])
def test_odd_columns_say_nothing_and_break_nothing(name: str, chunks: int) -> None:
    columns, roles = HOSTILE[name]
    rows = pa.table(columns)
    if chunks > 1:
        rows = pa.concat_tables([rows, rows])
    given = DataTable(rows=rows, origin=(("rows", 0),))
    assert suspicious_rows(given, {"test": given}, roles) == []


def test_many_rows_take_no_time_and_a_gigantic_one_no_harm() -> None:
    count = 50_000
    texts = pa.array([f"text {number}" for number in range(count)], pa.large_string())
    long = pa.array(["x" * 5_000_000], pa.large_string())
    roles = {"a": Role(meaning=""), "b": Role(meaning="", unlike="a")}
    rows = pa.concat_tables([pa.table({"a": texts, "b": texts}), pa.table({"a": long, "b": long})])
    [line] = suspicious_rows(DataTable(rows=rows), {}, roles)
    assert line == "train: 50,001 of 50,001 rows have the same a and b; the first: row 1, row 2, row 3"


def test_every_task_names_roles_that_it_has() -> None:
    for task in TASKS.values():
        roles = task().roles
        assert {about.unlike for about in roles.values()} <= {"", *roles}, task


def test_a_run_says_so_before_its_first_update_and_in_its_report(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(tmp_path / "model")
    marks = {"pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 3, "bos_token_id": 2}
    tiny_pair("bart", vocab_size=len(tokenizer) + 3, **marks).save_pretrained(tmp_path / "model")
    rows = [
        {"source": "good crew", "target": "good crew"},
        *[{"source": word, "target": "the " + word} for word in WORDS[:8]],
    ]
    run = tmp_path / "run"
    exhaust(
        start(
            run,
            tmp_path / "model",
            rows=rows,
            validation=rows[:2],
            set={"task": "seq2seq", "batch": 3, "updates": 2},
        )
    )
    journal = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    first = next(place for place, each in enumerate(journal) if each["kind"] == "update")
    notes = [each["why"] for each in journal[:first] if each.get("event") == "note"]
    for split, count in (("train", 9), ("validation", 2)):
        assert f"{split}: 1 of {count} rows have the same source and target; the first: row 1" in notes
    assert "have the same source and target" in (run / "report.html").read_text()
    assert len(lines(run, "update")) == 2
