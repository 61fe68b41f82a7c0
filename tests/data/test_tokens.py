"""Tokenising once: what encode returns comes back from the cache, and only for the same work."""

from __future__ import annotations

import subprocess
import sys
import textwrap
import types
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bigbatch.data import tokens as keys_of_cache
from bigbatch.data.tables import from_rows
from bigbatch.data.tokens import token_table, tokenizer_fingerprint
from bigbatch.errors import DataError
from bigbatch.samples import Sample, Table
from bigbatch.tasks.catalog import Foreign
from tests.data.tables import Letters, LetterTask, read

ROWS = from_rows([{"text": " ".join("ab" * (i % 7 + 1) for _ in range(i % 4))} for i in range(2300)])


def tokens(table=ROWS, task=None, tokenizer=None, cache_dir=None, **more) -> tuple[Table, bool]:
    parts = more.pop("key_parts", {})
    return token_table(
        table,
        task=Foreign(own=task or LetterTask()),
        tokenizer=tokenizer or Letters(),
        cache_dir=cache_dir,
        key_parts=parts,
        **more,
    )


def cache_key(table, task, tokenizer, key_parts) -> str | None:
    return keys_of_cache.cache_key(table, Foreign(own=task), tokenizer, key_parts)


def same(left: Table, right: Table) -> None:
    for name in ("ids", "token_offsets", "segments", "reads", "unit_offsets", "values", "weights"):
        mine, other = getattr(left, name), getattr(right, name)
        assert mine.dtype == other.dtype and np.array_equal(mine, other), name
    assert list(left.extras) == list(right.extras) and left.truncated_samples == right.truncated_samples
    for name in left.extras:
        assert np.array_equal(left.extras[name], right.extras[name])


def test_the_table_holds_every_sample():
    table, reused = tokens(task=LetterTask(max_length=9))
    assert not reused and len(table) == 2300
    truncated = 0
    for row in (0, 1, 999, 1000, 2299):
        sample = LetterTask(max_length=9).encode(ROWS.rows.slice(row, 1).to_pylist()[0], Letters())
        units = slice(table.unit_offsets[row], table.unit_offsets[row + 1])
        assert (
            table.ids[table.token_offsets[row] : table.token_offsets[row + 1]].tolist() == sample.ids.tolist()
        )
        assert table.reads[units].tolist() == sample.reads.tolist()
        assert table.values[units].tolist() == sample.values.tolist()
        assert table.extras["position"][units].tolist() == sample.extras["position"].tolist()
    for row in ROWS.rows.to_pylist():
        truncated += len(row["text"]) + 1 > 9
    assert table.truncated_samples == truncated > 0


def test_a_second_start_never_calls_the_task(tmp_path: Path):
    first, reused = tokens(cache_dir=tmp_path)
    assert not reused
    task = LetterTask()
    second, reused = tokens(task=task, cache_dir=tmp_path)
    assert reused and task.calls == [] and isinstance(second.ids, np.memmap)
    same(first, second)
    same(second, tokens()[0])


def test_progress_is_counted_in_rows():
    seen: list[tuple[int, int]] = []
    tokens(progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1000, 2300), (2000, 2300), (2300, 2300)]


@dataclass
class OtherTask(LetterTask):
    pass


def test_the_key_knows_data_tokenizer_task_and_options():
    changed = from_rows([*ROWS.rows.to_pylist()[:-1], {"text": "else"}])
    keys = [
        cache_key(ROWS, LetterTask(), Letters(), {"max_length": 5}),
        cache_key(ROWS, LetterTask(), Letters(), {"max_length": 6}),
        cache_key(ROWS, OtherTask(), Letters(), {"max_length": 5}),
        cache_key(ROWS, LetterTask(), Letters(start=2), {"max_length": 5}),
        cache_key(changed, LetterTask(), Letters(), {"max_length": 5}),
    ]
    assert len(set(keys)) == len(keys)
    assert cache_key(ROWS, LetterTask(), Letters(), {"max_length": 5}) == keys[0]


def test_editing_the_task_or_its_base_is_noticed_and_unreadable_code_is_never_reused(tmp_path: Path):
    def keys() -> list[str | None]:
        found = []
        for name in ("Mine", "Derived"):
            module = types.ModuleType("mine")
            module.__file__ = str(tmp_path / "mine.py")
            sys.modules["mine"] = module
            exec(compile((tmp_path / "mine.py").read_text(), module.__file__, "exec"), module.__dict__)
            found.append(cache_key(ROWS, getattr(module, name)(), Letters(), {}))
        return found

    code = "class Mine:\n    __module__ = 'mine'\n\nclass Derived(Mine):\n    __module__ = 'mine'\n"
    try:
        (tmp_path / "mine.py").write_text(code)
        before = keys()
        assert before == keys() and None not in before and before[0] != before[1]
        (tmp_path / "mine.py").write_text(code + "# edited\n")
        assert not set(before) & set(keys())
    finally:
        sys.modules.pop("mine", None)
    typed: dict[str, Any] = {"__name__": "nowhere", "LetterTask": LetterTask}
    exec("class Typed(LetterTask): pass", typed)
    assert cache_key(ROWS, typed["Typed"](), Letters(), {}) is None
    for _ in range(2):
        table, reused = tokens(task=typed["Typed"](), cache_dir=tmp_path / "cache")
        assert not reused and len(table) == 2300


@pytest.mark.parametrize("name", ["tokens.ids.bin", "units.values.bin", "header.json"])
def test_a_damaged_entry_is_rebuilt_and_said(tmp_path: Path, name: str):
    first, _ = tokens(cache_dir=tmp_path)
    (file,) = tmp_path.glob(f"*/{name}")
    file.write_bytes(file.read_bytes()[:-3])
    said: list[str] = []
    task = LetterTask()
    again, reused = tokens(task=task, cache_dir=tmp_path, say=said.append)
    assert not reused and len(task.calls) == 2300
    assert len(said) == 1 and "tokenising again" in said[0] and str(tmp_path) in said[0]
    same(first, again)
    assert tokens(cache_dir=tmp_path)[1]


def test_a_failing_encode_names_the_row_and_leaves_no_entry(tmp_path: Path):
    class Broken(LetterTask):
        def encode(self, row, tokenizer):
            if row["text"] == "bad":
                raise KeyError("x")
            return super().encode(row, tokenizer)

    (tmp_path / "a.csv").write_text("text,label\nfine,1\nbad,2\n")
    table = read("a.csv", base=tmp_path)
    with pytest.raises(KeyError) as caught:
        tokens(table, task=Broken(), cache_dir=tmp_path / "cache")
    assert caught.value.__notes__ == ["while encoding a.csv:3"]
    assert list((tmp_path / "cache").iterdir()) == []


def test_every_row_that_a_task_refuses_is_named(tmp_path: Path):
    class Strict(LetterTask):
        def encode(self, row, tokenizer):
            if row["text"] == "bad":
                raise DataError("text: nothing in it; remove the row")
            return super().encode(row, tokenizer)

    (tmp_path / "a.csv").write_text("text,label\nfine,1\nbad,2\nfine,1\nbad,2\n")
    with pytest.raises(DataError) as caught:
        tokens(read("a.csv", base=tmp_path), task=Strict())
    assert str(caught.value) == "\n".join(
        f"a.csv:{row}: text: nothing in it; remove the row" for row in (3, 5)
    )


def test_encode_batch_is_used_in_chunks():
    class Batched(LetterTask):
        def encode_batch(self, rows: list[dict[str, Any]], tokenizer: Any) -> list[Sample]:
            sizes.append(len(rows))
            return [self.encode(row, tokenizer) for row in rows]

    sizes: list[int] = []
    same(tokens(task=Batched())[0], tokens()[0])
    assert sizes == [1000, 1000, 300]


def altered(**changes: Any) -> LetterTask:
    """A task whose second sample differs from the first in some fields."""

    class Odd(LetterTask):
        def encode(self, row, tokenizer):
            sample = super().encode(row, tokenizer)
            return replace(sample, **changes) if len(self.calls) == 2 else sample

    return Odd()


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"segments": None}, "no token types"),
        ({"values": np.zeros((1, 2), np.float32), "reads": np.zeros(1)}, "targets float32"),
        ({"extras": {}}, r"extras \[\]"),
        ({"weights": np.ones(5)}, "unequal"),
        ({"ids": np.empty(0, np.int32), "segments": np.empty(0, np.int8)}, "no tokens"),
    ],
)
def test_samples_that_do_not_fit_together_are_refused(changes: dict[str, Any], what: str):
    with pytest.raises(DataError, match=rf"row 2: .*{what}"):
        tokens(read([{"text": "a", "label": 1}, {"text": "b", "label": 2}]), task=altered(**changes))


def test_token_ids_longer_than_max_length_are_refused():
    table = read([{"input_ids": [1, 2, 3], "labels": 0}, {"input_ids": [1, 2, 3, 4], "labels": 1}])

    class Given(LetterTask):
        def encode(self, row, tokenizer):
            ids = np.array(row["input_ids"], np.int32)
            return Sample(ids=ids, reads=np.zeros(1), values=np.array([row["labels"]]), weights=np.ones(1))

    with pytest.raises(DataError, match="row 2: input_ids: 4 tokens, but max_length is 3"):
        tokens(table, task=Given(max_length=3))
    assert tokens(table, task=Given(max_length=4))[0].lengths_B.tolist() == [3, 4]


def test_an_empty_table_has_no_tokens(tmp_path: Path):
    for cache_dir in (None, tmp_path):
        table, _ = tokens(ROWS.take(np.empty(0, np.int64)), cache_dir=cache_dir)
        assert len(table) == 0 and table.ids.shape == (0,)


def test_calling_a_fast_tokenizer_does_not_change_its_fingerprint():
    tokenizers = pytest.importorskip("tokenizers")

    def build(word: str):
        model = tokenizers.models.WordLevel({"[UNK]": 0, word: 1}, unk_token="[UNK]")
        return tokenizers.Tokenizer(model)

    tokenizer = build("a")
    before = tokenizer_fingerprint(tokenizer)
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=5)
    assert tokenizer_fingerprint(tokenizer) == before == tokenizer_fingerprint(build("a"))
    assert tokenizer_fingerprint(build("b")) != before


FILL = """
    import sys
    from pathlib import Path
    import numpy as np
    from bigbatch.data.tables import from_rows
    from bigbatch.data.tokens import token_table
    from bigbatch.samples import Sample
    from bigbatch.tasks.catalog import Foreign

    class Task:
        def encode(self, row, tokenizer):
            ids = np.arange(row["n"] + 1, dtype=np.int32)
            return Sample(ids=ids, reads=np.zeros(1), values=np.array([row["n"]]), weights=np.ones(1))

    rows = from_rows([{"n": i % 50} for i in range(3000)])
    Path(sys.argv[1]).mkdir(exist_ok=True)
    print("ready", flush=True)
    sys.stdin.readline()
    for _ in range(5):
        table, reused = token_table(rows, task=Foreign(own=Task()), tokenizer=None, cache_dir=Path(sys.argv[1]), key_parts={})
        assert table.values.tolist() == [i % 50 for i in range(3000)]
        assert int(table.ids.sum()) == sum(n * (n + 1) // 2 for n in range(50)) * 60
"""


def test_two_processes_that_fill_the_same_cache_do_not_harm_it(tmp_path: Path):
    script = tmp_path / "fill.py"
    script.write_text(textwrap.dedent(FILL))
    command = [sys.executable, str(script), str(tmp_path / "cache")]
    processes = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in processes:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        assert "tokenising again" not in errors
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_cache_that_cannot_be_written_is_said_and_done_without(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    said: list[str] = []
    table, reused = tokens(cache_dir=tmp_path / "file" / "cache", say=said.append)
    assert not reused and len(said) == 1 and "cannot be written" in said[0]
    same(table, tokens()[0])


@dataclass
class Weighing(LetterTask):
    boost: Any = None
    filled_in: Any = field(default=None, metadata={"option": False})


def test_the_key_knows_every_option_of_a_task_whatever_its_type():
    long = np.arange(5000.0)
    other = long.copy()
    other[2500] = -1
    tasks = [Weighing(boost=value) for value in (None, {"neg": 1.0}, {"neg": 9.0}, ["a"], long, other)]
    keys = [cache_key(ROWS, task, Letters(), {}) for task in tasks]
    assert len(set(keys)) == len(keys)
    assert cache_key(ROWS, Weighing(boost={"neg": 9.0}), Letters(), {}) == keys[2]
    assert cache_key(ROWS, Weighing(filled_in="by the run"), Letters(), {}) == keys[0]
