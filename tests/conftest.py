"""The test session: one thread, offline, no settings of the person who runs it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests import sampled
from tests.sources import source_folder

# Before torch and the tokenizers are imported, by this process and by those that tests start.
os.environ.update(
    {
        "OMP_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "passive",
        "LRU_CACHE_CAPACITY": "16",
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "16",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
)
for _name in [name for name in os.environ if name.startswith("BIGBATCH_")]:
    del os.environ[_name]

ROOT = Path(__file__).resolve().parents[1]

settings.register_profile(
    "bigbatch",
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("bigbatch")


@pytest.fixture(scope="session", autouse=True)
def _nobodys_home(tmp_path_factory: pytest.TempPathFactory):
    """A site file or a cache under the home directory must not change a test's result."""
    with pytest.MonkeyPatch.context() as patch:
        home = tmp_path_factory.mktemp("home")
        patch.setenv("HOME", str(home))
        patch.setenv("XDG_CONFIG_HOME", str(home / ".config"))
        patch.setenv("XDG_CACHE_HOME", str(home / ".cache"))
        patch.setenv("HF_HOME", str(home / ".cache" / "huggingface"))
        patch.setenv(
            "PYTHONPATH", os.pathsep.join([source_folder(), *filter(None, [os.environ.get("PYTHONPATH")])])
        )
        yield


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's folder."""
    return ROOT


@pytest.fixture(scope="session")
def ranks():
    """Groups of gloo processes, forked from one that stays warm."""
    from tests.ranks import Ranks

    warm = Ranks()
    yield warm
    warm.close()


@pytest.fixture(scope="session")
def two_labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny classifier of two labels."""
    from tests.models import tiny_folder

    return tiny_folder(tmp_path_factory.mktemp("models") / "bert", id2label={0: "neg", 1: "pos"})


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test's own folder is the current one."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def python() -> str:
    """The interpreter for tests that start a process."""
    return sys.executable


QUICK = ("golden", "optim", "plan", "recipe", "report", "rules")
"""Folders and files (`tests/optim/`, `tests/test_golden.py`) that are quick and say most: `make check` has them first."""


ASKED_FOR = ("stress", "tensorflow", "trackers", "browser", "onnx")
"""Markers of tests that run only when they are named: `-m stress`."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--part quick` and `--part rest` are the whole session between them."""
    parser.addoption("--part", choices=("quick", "rest"), help="the quick tests alone, or all others")


def is_quick(item: pytest.Item) -> bool:
    """Whether a test is among those that a person waits for."""
    where = item.path.relative_to(ROOT / "tests").parts[0].removeprefix("test_").removesuffix(".py")
    return where in QUICK and not any(item.get_closest_marker(name) for name in ("slow", "world_size"))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the asked part; leave out what runs only when its marker is asked for, and `gpu` where there is no CUDA device.
    pytest counts them as deselected.
    """
    sampled.mark(items)
    if part := config.getoption("--part"):
        other = [item for item in items if is_quick(item) != (part == "quick")]
        config.hook.pytest_deselected(items=other)
        items[:] = [item for item in items if is_quick(item) == (part == "quick")]
    for marker in ASKED_FOR:
        marked = [item for item in items if item.get_closest_marker(marker)]
        if marked and marker not in config.getoption("markexpr"):
            config.hook.pytest_deselected(items=marked)
            items[:] = [item for item in items if item not in marked]
    gpu = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu:
        return
    import torch

    if not torch.cuda.is_available():
        config.hook.pytest_deselected(items=gpu)
        items[:] = [item for item in items if item not in gpu]
