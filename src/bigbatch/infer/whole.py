"""Predictions of a file as the one JSON value that a field's own tools read: SQuAD's answers, COCO's results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TextIO

from bigbatch.errors import UsageError
from bigbatch.infer.writers import Whole, json_line
from bigbatch.protocols import Row


class _AnswersById:
    """`{id: answer}`, with nothing else of a prediction."""

    def __init__(self, file: TextIO) -> None:
        self._file = file
        self._seen: set[str] = set()
        file.write("{")

    def __call__(self, prediction: Row) -> None:
        name = _own_id(prediction, self._seen, "question")
        line = json_line({name: prediction["answer"]}).strip()[1:-1]
        self._file.write(f"{',' if self._seen else ''}\n{line}")
        self._seen.add(name)

    def end(self) -> None:
        """Nothing comes any more."""
        self._file.write("\n}\n")


class _Boxes:
    """`[{"image_id", "category_id", "bbox", "score"}, …]`."""

    def __init__(self, file: TextIO, categories: Mapping[str, object]) -> None:
        self._file, self._categories = file, categories
        self._seen: set[str] = set()
        self._mark = "["

    def __call__(self, prediction: Row) -> None:
        self._seen.add(_own_id(prediction, self._seen, "image"))
        for each in prediction["objects"]:
            found = {
                "image_id": prediction["id"],
                "category_id": self._categories[each["label"]],
                "bbox": each["box"],
                "score": each["score"],
            }
            self._file.write(f"{self._mark}\n{json_line(found).strip()}")
            self._mark = ","

    def end(self) -> None:
        """Nothing comes any more."""
        self._file.write(f"{self._mark if self._mark == '[' else ''}\n]\n")


def _own_id(prediction: Row, seen: set[str], thing: str) -> str:
    found = prediction.get("id")
    if found is None or str(found) in seen:
        what = f"{thing} without an id" if found is None else f"id {found!r} occurs twice"
        raise UsageError(f"{what}: a .json file needs one of its own for each; write .jsonl instead")
    return str(found)


ANSWERS = Whole(_AnswersById, "answers by id")
"""As SQuAD's scripts read them."""


def coco_results(names: Sequence[str], categories: Mapping[str, object]) -> Whole:
    """COCO's results, as its tools read them.

    Args:
        names: of the model's classes.
        categories: name -> id, of the file that is predicted; a class that it lacks has its place in `names`, from 1.
    """
    known = {name: number for number, name in enumerate(names, start=1)} | dict(categories)
    return Whole(lambda file: _Boxes(file, known), "COCO's results")
