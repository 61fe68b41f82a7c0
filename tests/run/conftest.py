"""What the tests of kills, resumes and starts share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.run.forks import Forks, forks
from tests.run.jobs import tiny_model


@pytest.fixture(scope="module")
def parent() -> Iterator[Forks]:
    with forks() as found:
        yield found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("model") / "tiny")
