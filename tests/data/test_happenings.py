"""Tables of who had which item when are told from reviews, labelled rows and lists of people."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from random import Random

import pytest

import bigbatch
from bigbatch.commands import init
from bigbatch.data.guess import profile
from bigbatch.data.happenings import happened
from bigbatch.errors import UsageError
from bigbatch.recipe.load import load_recipe

WORDS = [
    "plot",
    "long",
    "dull",
    "music",
    "made",
    "cry",
    "turn",
    "events",
    "but",
    "its",
    "every",
    "of",
    "me",
    "at",
]


def events(people: int = 12, items: int = 9) -> Mapping[str, Sequence[object]]:
    drawn = Random(0)
    rows = [
        (f"u{who}", str(drawn.randrange(items)), at, drawn.randint(1, 5))
        for who in range(people)
        for at in range(8)
    ]
    return {
        "userId": [row[0] for row in rows],
        "movieId": [row[1] for row in rows],
        "rating": [row[3] for row in rows],
        "timestamp": [row[2] for row in rows],
    }


def told(columns: Mapping[str, Sequence[object]], **said: str) -> dict[str, str] | None:
    return happened(columns, said, columns.__getitem__)


def written(path, columns):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def test_users_items_times_and_titles_are_known_by_their_names():
    columns = events()
    assert told(columns) == {"user": "userId", "item": "movieId", "time": "timestamp"}
    assert told({**columns, "movie_title": [f"Film {item}" for item in columns["movieId"]]}) == {
        "user": "userId", "item": "movieId", "time": "timestamp", "title": "movie_title",
    }  # fmt: skip


def test_what_looks_like_it_is_something_else():
    columns, drawn = events(), Random(1)
    reviews = [" ".join(drawn.choices(WORDS, k=9)) for _ in columns["userId"]]
    assert told({**columns, "review": reviews}) is None, "reviews are to be classified, or read"
    assert told({**columns, "Label": [1] * len(reviews)}) is None, "labels are to be learnt"
    assert told({name: values[::8] for name, values in columns.items()}) is None, "nobody has a second item"
    assert told({**columns, "movieId": [str(at) for at in range(len(reviews))]}) is None, (
        "no item is had twice"
    )
    assert told({name: columns[name] for name in ("movieId", "rating")}) is None, "nobody had them"


def test_named_columns_are_believed():
    columns = {"visitor": ["a", "b"], "sku": ["x", "y"]}
    assert told(columns, user="visitor", item="sku") == {"user": "visitor", "item": "sku"}
    assert told({"basket": [["x", "y"], ["z"]]}, item="basket") == {"item": "basket"}


def test_histories_in_lists_are_events(tmp_path):
    rows = [{"user": f"u{who}", "items": [str((who + at) % 5) for at in range(6)]} for who in range(20)]
    path = tmp_path / "histories.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = profile(path)
    assert (found.columns, found.language, found.warnings) == (
        {"user": "user", "item": "items"},
        "unknown",
        (),
    )


@pytest.mark.filterwarnings("ignore:.*few.*")
def test_the_first_recipe_trains(tmp_path):
    written(tmp_path / "ratings.csv", events(people=40))
    found = init([tmp_path / "ratings.csv"], out=tmp_path / "recipe.yaml")
    assert any("events of users and items (task: recommend)" in line for line in found.lines)
    recipe = load_recipe(tmp_path / "recipe.yaml")
    assert (recipe.task.name, recipe.best.metric, recipe.data.max_length) == ("recommend", "ndcg@10", 50)
    run = bigbatch.train(
        tmp_path / "recipe.yaml", set={"epochs": 1, "plan.compile": "off"}, run_dir=tmp_path / "run"
    )
    assert run.status == "finished"


def test_text_cannot_be_learnt_first_where_there_is_none(tmp_path):
    written(tmp_path / "ratings.csv", events())
    (tmp_path / "plain.txt").write_text("some words of a text\n" * 20)
    with pytest.raises(UsageError, match="these are events of users and items: leave it out"):
        init([tmp_path / "ratings.csv"], out=tmp_path / "recipe.yaml", pretrain=[tmp_path / "plain.txt"])
    assert not (tmp_path / "recipe.yaml").exists()


def test_users_come_with_items(tmp_path):
    written(tmp_path / "log.csv", {"who": ["a", "b"], "what": ["x", "y"]})
    found = init(
        [tmp_path / "log.csv"], out=tmp_path / "recipe.yaml", columns={"user": "who", "item": "what"}
    )
    text = found.path.read_text()
    assert "task: recommend" in text and "columns: {user: who, item: what}" in text
