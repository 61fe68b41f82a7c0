from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from bigbatch.data.tables import DataTable
from tests.data.tables import MULTI, read

ROWS = [{"text": "one", "label": "a"}, {"text": "two", "label": "b"}, {"text": "", "label": None}]


def test_formats_files_and_chunks_do_not_matter(tmp_path: Path):
    (tmp_path / "a.csv").write_text("label,text,more\na,one,1\nb,two,2\n,,3\n")
    (tmp_path / "b.jsonl").write_text(
        '{"text":"one","label":"a"}\n{"text":"two","label":"b"}\n{"text":"","label":null}'
    )
    expected = read(ROWS).content_digest
    assert read("a.csv", base=tmp_path).content_digest == expected
    assert read("b.jsonl", base=tmp_path).content_digest == expected
    pieces = pa.concat_tables([read(ROWS[:1]).rows, read(ROWS[1:]).rows])
    assert DataTable(rows=pieces).content_digest == expected
    assert read(ROWS + ROWS).take(pa.array([0, 1, 2]).to_numpy()).content_digest == expected


def test_content_order_and_place_matter():
    variants = [
        ROWS,
        ROWS[::-1],
        ROWS[:2],
        [{**ROWS[0], "text": "One"}, *ROWS[1:]],
        [ROWS[0], {"text": "tw", "label": "ob"}, ROWS[2]],
        [{**row, "id": str(number)} for number, row in enumerate(ROWS)],
        [ROWS[0], ROWS[1], {"text": None, "label": ""}],
    ]
    assert len({read(rows).content_digest for rows in variants}) == len(variants)
    several = [[{"text": "a", "label": labels}] for labels in (["x", "y"], ["x y"], ["y", "x"], [])]
    assert len({read(rows, roles=MULTI).content_digest for rows in several}) == 4
