"""What lies where others can write is not trusted, and ours never lies there, whatever the umask."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bigbatch import private
from bigbatch.private import COMPILED, KERNELS, keep_compiled_code_private, make_private, why_not_private
from bigbatch.recipe import made_here

posix = pytest.mark.skipif(os.name != "posix", reason="modes and owners are POSIX's")
pytestmark = posix


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    for variable in (COMPILED, KERNELS):
        monkeypatch.setenv(variable, "")  # so that it is put back afterwards
    umask = os.umask(0)
    yield tmp_path
    os.umask(umask)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def a_run(folder: Path) -> Path:
    folder.mkdir(mode=0o755)
    for name, text in (
        ("recipe.yaml", "metrics: [mine.py:f]\n"),
        ("code/mine.py", "def f(p, t): return 1.0\n"),
    ):
        (folder / name).parent.mkdir(mode=0o755, exist_ok=True)
        (folder / name).write_text(text)
        (folder / name).chmod(0o644)
    return folder


def sign(run: Path) -> None:
    (run / made_here.MARK).write_text(made_here.mark(run) or "")


def test_the_key_is_in_a_folder_of_its_user_alone(home: Path) -> None:
    run = a_run(home / "run")
    sign(run)
    assert made_here.why_to_ask(run) is None
    key = home / ".local/share/bigbatch/key"
    assert [mode(path) for path in (key, *key.parents[:3])] == [0o600, 0o700, 0o700, 0o700]


@pytest.mark.parametrize(
    "open_to_others", [".local/share/bigbatch/key", ".local/share/bigbatch", ".local/share"]
)
def test_a_key_that_others_could_exchange_is_none(home: Path, open_to_others: str) -> None:
    run = a_run(home / "run")
    sign(run)
    (home / open_to_others).chmod(0o777)
    assert made_here.why_to_ask(run) is not None


def test_a_key_behind_a_link_a_pipe_or_without_end_is_none(home: Path) -> None:
    run = a_run(home / "run")
    sign(run)
    key = home / ".local/share/bigbatch/key"
    key.rename(home / "key")
    key.symlink_to(home / "key")
    assert made_here.why_to_ask(run) is not None
    key.unlink()
    os.mkfifo(key, 0o600)
    assert made_here.why_to_ask(run) is not None
    key.unlink()
    (home / "key").rename(key)
    assert made_here.why_to_ask(run) is None


def test_a_mark_without_end_is_not_waited_for(home: Path) -> None:
    run = a_run(home / "run")
    sign(run)
    (run / made_here.MARK).unlink()
    os.mkfifo(run / made_here.MARK)
    assert made_here.why_to_ask(run) is not None
    (run / made_here.MARK).unlink()
    (run / made_here.MARK).symlink_to("/dev/zero")
    assert made_here.why_to_ask(run) is not None


def test_an_open_folder_of_ours_is_closed(home: Path) -> None:
    (home / ".local/share/bigbatch").mkdir(parents=True)
    make_private(home / ".local/share/bigbatch")
    assert mode(home / ".local/share/bigbatch") == 0o700
    with pytest.raises(OSError):
        (home / "link").symlink_to(home / ".local")
        make_private(home / "link")


def test_compiled_code_is_kept_in_the_users_own_cache(home: Path) -> None:
    assert keep_compiled_code_private() == ""
    for variable in (COMPILED, KERNELS):
        place = Path(os.environ[variable])
        assert place.is_relative_to(home / ".cache/bigbatch/compiled") and mode(place) == 0o700
        assert why_not_private(place) == ""
    before = dict(os.environ)
    assert keep_compiled_code_private() == "" and dict(os.environ) == before


def test_a_folder_that_the_user_chose_stays_if_it_is_theirs_alone(home: Path) -> None:
    os.environ[COMPILED] = str(home / "mine")
    assert keep_compiled_code_private() == ""
    assert os.environ[COMPILED] == str(home / "mine") and mode(home / "mine") == 0o700


@pytest.mark.parametrize("chosen", [True, False])
@pytest.mark.parametrize("kind", ["open", "open above", "of another"])
def test_a_cache_that_others_could_fill_is_not_used(
    home: Path, kind: str, chosen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if chosen:
        os.environ[COMPILED] = str(home / "above/mine")
    else:
        keep_compiled_code_private()
    place = Path(os.environ[COMPILED])
    if not chosen:
        os.environ[COMPILED] = os.environ[KERNELS] = ""
    place.mkdir(parents=True, exist_ok=True, mode=0o700)
    (place.parent).chmod(0o777 if kind == "open above" else 0o700)
    place.chmod(0o777 if kind == "open" else 0o700)
    if kind == "of another":
        if os.geteuid():
            pytest.skip("only root can give a folder away")
        os.chown(place, 65534, 65534)
    note = keep_compiled_code_private()
    found = Path(os.environ[COMPILED])
    assert found != place and why_not_private(found) == ""
    assert COMPILED in note and ("another user" if kind == "of another" else "others may write") in note
    assert keep_compiled_code_private() == "" and Path(os.environ[COMPILED]) == found, "said once"


def test_a_passing_folder_ends_with_its_process(home: Path) -> None:
    (home / "open").mkdir(mode=0o777)
    (home / "open").chmod(0o777)
    program = (
        "import os; from bigbatch.private import *; keep_compiled_code_private()\n"
        "if os.fork() == 0: raise SystemExit\n"
        "os.wait(); assert os.path.isdir(os.environ[COMPILED]); print(os.environ[COMPILED])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, COMPILED: str(home / "open")},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "bigbatch-compiled-" in done.stdout and not Path(done.stdout.strip()).exists()


def test_torch_looks_where_we_say(home: Path) -> None:
    from torch._inductor.runtime.cache_dir_utils import cache_dir, triton_cache_dir

    keep_compiled_code_private()
    assert Path(cache_dir()) == Path(os.environ[private.COMPILED])
    assert Path(triton_cache_dir(0)).is_relative_to(home / ".cache/bigbatch")


def test_torchs_own_place_is_never_used(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._inductor import config

    monkeypatch.setattr("tempfile.tempdir", str(home))
    monkeypatch.delenv("TORCHINDUCTOR_CPP_CACHE_PRECOMPILE_HEADERS", raising=False)
    monkeypatch.setattr(config, "cpp_cache_precompile_headers", True)
    os.environ[COMPILED] = str(home / "torchinductor_me")  # as torch sets it itself
    assert keep_compiled_code_private() == ""
    assert Path(os.environ[COMPILED]).is_relative_to(home / ".cache/bigbatch")
    assert not config.cpp_cache_precompile_headers and not (home / "torchinductor_me").exists()


def test_loading_a_model_is_enough(home: Path) -> None:
    """Before anything can compile: models of transformers compile parts of themselves, too."""
    from bigbatch.model.load import load_model
    from bigbatch.recipe.schema import ModelSpec
    from tests.models import tiny

    os.environ[COMPILED] = ""
    load_model(ModelSpec(name="x"), seed=0, dropout=None, module=tiny("bert"), kind="sequence", outputs=3)
    assert Path(os.environ[COMPILED]).is_relative_to(home / ".cache/bigbatch")


def test_a_site_file_that_others_could_change_is_refused(home: Path) -> None:
    from bigbatch.errors import RecipeError
    from bigbatch.recipe.layers import site_layer

    site = home / "bigbatch/site.yaml"
    site.parent.mkdir()
    site.write_text("run: {root: here}\n")
    places = {"XDG_CONFIG_HOME": str(home)}, {"BIGBATCH_SITE": str(site)}
    for environ in places:
        site.chmod(0o666)
        with pytest.raises(RecipeError, match=r"site\.yaml: others may write .*; expected .* \(chmod go-w"):
            site_layer(environ, None)
        site.chmod(0o644)
        found = site_layer(environ, None)
        assert found is not None and found.values == {"run": {"root": "here"}}
    if os.geteuid() == 0:
        os.chown(site, 65534, 65534)
        with pytest.raises(RecipeError, match="belongs to another user"):
            site_layer(places[0], None)
    else:
        assert private.why_shared(Path("/etc/passwd"), or_root=True) == ""
