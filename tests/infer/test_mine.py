"""Hard negatives: against scores taken one by one, and what is never one."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import bigbatch
from bigbatch.cli.app import main
from bigbatch.errors import BigbatchError, UsageError
from bigbatch.infer import search
from bigbatch.infer.mine import Mining, same_form
from bigbatch.infer.search import nearest
from tests.models import WORDS, tiny_folder


def texts(count: int, seed: int) -> list[str]:
    chance = random.Random(seed)
    return [" ".join(chance.choices(WORDS, k=chance.randint(2, 9))) for _ in range(count)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, pairs (some queries with two answers, texts twice, one in other letters), and more documents."""
    place = tmp_path_factory.mktemp("mine")
    for number, name in enumerate(("model", "guide")):
        folder = tiny_folder(place / name, "bert", num_hidden_layers=1, initializer_range=0.3 + 0.1 * number)
        (folder / "modules.json").write_text(
            json.dumps(
                [{"type": f"sentence_transformers.models.{kind}"} for kind in ("Transformer", "Pooling")]
                + [{"type": "sentence_transformers.models.Normalize"}]
            )
        )
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling/config.json").write_text(json.dumps({"pooling_mode_mean_tokens": True}))
    pairs = [{"question": q, "answer": d} for q, d in zip(texts(60, 1), texts(60, 2), strict=True)]
    pairs[3]["question"] = pairs[0]["question"]
    pairs[5]["answer"] = "  " + pairs[0]["answer"].upper()
    pairs[7]["answer"] = pairs[1]["question"]
    lines = [json.dumps(row) + "\n" for row in pairs]
    (place / "pairs.jsonl").write_text("".join(lines), encoding="utf-8")
    (place / "more.jsonl").write_text("".join(json.dumps({"answer": text}) + "\n" for text in texts(80, 3)))
    return place


COLUMNS = {"query": "question", "document": "answer"}


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def embedded(folder: Path, role: str, some: list[str]) -> np.ndarray:
    return np.array([row["embedding"] for row in bigbatch.predict(folder, [{role: text} for text in some])])


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"negatives": 3, "ranks": (4, 20), "margin": 0.02, "relative": False},
        {"negatives": 60, "margin": -1.0},
        {"negatives": 2, "max_score": 0.9, "margin": -1.0},
        {"negatives": 2, "margin": 0.0, "guide": True, "corpus": True, "scores": True},
    ],
    ids=str,
)
def test_negatives_are_those_of_scores_taken_one_by_one(place, tmp_path, options, monkeypatch):
    monkeypatch.setattr(search, "BLOCK_SCORES", 700)
    given = dict(options)
    guide = place / "guide" if given.pop("guide", False) else None
    corpus = [place / "more.jsonl"] if given.pop("corpus", False) else []
    out = tmp_path / "mined.jsonl"
    pairs, count = bigbatch.mine(
        place / "model", place / "pairs.jsonl", out, columns=COLUMNS, guide=guide, corpus=corpus, **given
    )
    rows = read(place / "pairs.jsonl")
    documents = list(
        {
            same_form(t): t
            for t in reversed([r["answer"] for r in rows] + [r["answer"] for p in corpus for r in read(p)])
        }.values()
    )
    models = [place / "model", *([guide] if guide else [])]
    scores = [
        embedded(m, "query", [r["question"] for r in rows]) @ embedded(m, "document", documents).T
        for m in models
    ]
    forms = [same_form(text) for text in documents]
    expected, found = [], read(out)
    first, last = options.get("ranks", (1, 100))
    margin = options.get("margin", 0.05)
    for number, row in enumerate(rows):
        known = {
            same_form(r["answer"]) for r in rows if same_form(r["question"]) == same_form(row["question"])
        }
        known.add(same_form(row["question"]))
        fair = [at for at in np.argsort(-scores[0][number], kind="stable") if forms[at] not in known]
        own = forms.index(same_form(row["answer"]))
        right = scores[0][number, own]
        bound = right - margin * (abs(right) if options.get("relative", True) else 1)
        fair = [
            at
            for at in fair[first - 1 : last]
            if scores[0][number, at] <= min(bound, options.get("max_score") or 9)
        ]
        fair = [at for at in fair if scores[-1][number, at] <= scores[-1][number, own] or not guide]
        chosen = fair[: options.get("negatives", 1)]
        expected += [(row["question"], row["answer"], forms[at]) for at in chosen]
        expected += [(row["question"], row["answer"], "")] * (not chosen)
    assert [(r["question"], r["answer"], same_form(r.get("negative", ""))) for r in found] == expected
    assert (pairs, count) == (60, sum("negative" in row for row in found)) and count > 15
    if "scores" in options:
        one = next(row for row in found if "negative" in row)
        at = forms.index(same_form(one["negative"])), rows.index({k: one[k] for k in COLUMNS.values()})
        assert one["negative_score"] == pytest.approx(scores[-1][at[1], at[0]], abs=1e-5)


def test_the_command_says_what_it_found_and_its_file_trains(place, tmp_path, capsys):
    words = ["mine", place / "model", place / "pairs.jsonl", "-o", tmp_path / "mined.jsonl", "--negatives", 2]
    words += [
        "--column",
        "query=question",
        "--column",
        "document=answer",
        "--range",
        "1..30",
        "--margin",
        "0.01",
    ]
    words += ["--scores"]
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, words)))
    assert ended.value.code == 0
    assert "negatives for 60 pairs" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        main(list(map(str, words)))
    assert ended.value.code == 2 and "exists and is not overwritten" in capsys.readouterr().err
    keys = {"task": "match", "data.columns": COLUMNS, "updates": 2, "batch": 32, "plan.compile": "off"}
    run = bigbatch.train(
        str(place / "model"), str(tmp_path / "mined.jsonl"), None, set=keys, run_dir=str(tmp_path / "run")
    )
    assert run.status == "finished"
    keys |= {"loss": "margin_mse", "data.validation": 0.2}
    run = bigbatch.train(
        str(place / "model"), str(tmp_path / "mined.jsonl"), None, set=keys, run_dir=str(tmp_path / "taught")
    )
    again = bigbatch.evaluate(tmp_path / "taught", str(tmp_path / "mined.jsonl"))
    assert set(again) >= {"loss", "recall@10"} and 0 < float(str(again["loss"])) < 10
    assert len(bigbatch.predict(tmp_path / "taught", [{"question": "late"}])[0]["embedding"]) == 32


@pytest.mark.parametrize("seed", range(3))
def test_among_equal_scores_the_earlier_text_is_ahead(seed, monkeypatch):
    monkeypatch.setattr(search, "BLOCK_SCORES", 100)
    chance = np.random.default_rng(seed)
    queries, corpus = (chance.integers(-1, 2, (n, 3)).astype(np.float32) for n in (23, 40))
    found = np.concatenate([ids for ids, _ in nearest(queries, corpus, 7)])
    assert np.array_equal(found, np.argsort(-(queries @ corpus.T), axis=1, kind="stable")[:, :7])


@pytest.mark.parametrize(
    ("content", "out", "what"),
    [
        ('{"question": "late", "answer": " "}\n', "a.jsonl", "1: an empty text"),
        ('{"question": "late"}\n', "a.jsonl", "answer"),
        ('{"question": "late", "answer": "crew"}\n', "a.csv", "ends in .jsonl"),
        ("", "a.jsonl", "empty|no rows|no column"),
    ],
)
def test_what_cannot_be_mined_leaves_nothing(place, tmp_path, content, out, what):
    (tmp_path / "pairs.jsonl").write_text(content)
    with pytest.raises(BigbatchError, match=what):
        bigbatch.mine(place / "model", tmp_path / "pairs.jsonl", tmp_path / out, columns=COLUMNS)
    assert not (tmp_path / out).exists()


def test_options_that_mean_nothing_are_refused(place, tmp_path):
    with pytest.raises(UsageError, match=r"9\.\.3"):
        Mining(first=9, last=3)
    for words, what in ((["--range", "5"], "two ranks"), (["--margin", "nan"], "5%")):
        with pytest.raises(SystemExit) as ended:
            main(["mine", str(place / "model"), "pairs.jsonl", "-o", str(tmp_path / "a.jsonl"), *words])
        assert ended.value.code == 2, what


# ---------------------------------------------------------------- files of any kind


def mined(place: Path, source: Path, **options: Any) -> list[dict[str, Any]]:
    """The lines of a file with all that is near, whatever its score."""
    out = source.with_name("mined.jsonl")
    bigbatch.mine(place / "model", source, out, **{"margin": -2.0, "negatives": 9, **options})
    found = read(out)
    out.unlink()
    return found


def test_a_table_keeps_its_names_and_its_negatives_are_looked_at(place, tmp_path):
    """Columns are found by name; formulas, quotes and emoji are text; a negative is a document like any other."""
    rows = [
        ("=late?", "crew, on time", "the worst"),
        ("why \u2764", 'said "no"', ""),
        ("when", "soon", "lost bags"),
    ]
    table = [["anchor", "positive", "negative"], *map(list, rows)]
    source = tmp_path / "pairs.csv"
    with source.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(table)
    found = mined(place, source)
    assert {tuple(row)[:2] for row in found} == {("anchor", "positive")}
    documents = {"crew, on time", "the worst", 'said "no"', "soon", "lost bags"}
    for query, right, _ in rows:
        own = {row["negative"] for row in found if row["anchor"] == query}
        assert own == documents - {right}, "each but its own"


def test_documents_alone_have_their_own_column(place, tmp_path):
    source = tmp_path / "pairs.jsonl"
    source.write_text('{"query": "late", "document": "crew"}\n')
    (tmp_path / "more.tsv").write_text("id\tdocument\n1\tlost bags\n2\tCREW\n3\tthe worst\n")
    found = mined(place, source, corpus=[tmp_path / "more.tsv"])
    assert {row["negative"] for row in found} == {"lost bags", "the worst"}, "in other letters it is known"


def test_a_pair_alone_has_no_negative_and_is_written(place, tmp_path):
    source = tmp_path / "pairs.jsonl"
    source.write_text('{"query": "late", "document": "crew"}\n' * 2)
    assert mined(place, source) == [{"query": "late", "document": "crew"}] * 2


def test_how_far_it_is_is_said(place, tmp_path):
    source, said = tmp_path / "pairs.jsonl", []
    source.write_text("".join(f'{{"query": "late {n}", "document": "crew {n}"}}\n' for n in range(3)))
    mined(place, source, say=said.append)
    assert said == ["query texts: 3 of 3", "document texts: 3 of 3", "pairs: 3 of 3"]


def test_standard_output_takes_lines(place, tmp_path, capsys):
    (tmp_path / "pairs.jsonl").write_text('{"query": "late", "document": "crew"}\n')
    with pytest.raises(SystemExit) as ended:
        main(["mine", str(place / "model"), str(tmp_path / "pairs.jsonl"), "-o", "-"])
    assert ended.value.code == 0
    assert json.loads(capsys.readouterr().out) == {"query": "late", "document": "crew"}


@pytest.mark.parametrize("which", ["model", "guide"])
def test_a_model_without_embeddings_is_refused(place, tmp_path, which):
    folders = {"model": place / "model", "guide": place / "guide"}
    folders[which] = tiny_folder(tmp_path / "classes", "bert", num_hidden_layers=1)
    with pytest.raises(UsageError, match="needs a model of embeddings"):
        bigbatch.mine(
            folders["model"],
            place / "pairs.jsonl",
            tmp_path / "a.jsonl",
            guide=folders["guide"],
            columns=COLUMNS,
        )


def test_texts_of_one_form_are_one():
    assert same_form("\u00a0Straße  NR. ①") == same_form("strasse nr. 1\t")
    assert same_form("late") != same_form("latte")
