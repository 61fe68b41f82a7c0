"""A run on a stream of tokens: the run on the same rows, bit for bit, from a server that is slow, lies or goes away."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path

import pytest

from bigbatch.build import streamed as opening
from bigbatch.commands import tokenize
from bigbatch.data.shards import ShardOrder
from bigbatch.data.streamed import shelf_of
from bigbatch.errors import DataError, MachineError, RecipeError
from bigbatch.remote.addresses import INDEX
from bigbatch.remote.exact import Wanted
from bigbatch.remote.keep import Patience
from bigbatch.run import awaited
from tests.jobs import differing, events, exhaust, lines, weights
from tests.remote import servers
from tests.remote.servers import COMMIT, Site, web
from tests.shards import shard_job, start

SIZES = [4 + number % 3 for number in range(19)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = shard_job(tmp_path_factory.mktemp("stream"), SIZES)
    said = tokenize(found / "job.yaml", publish=found / "tokens")
    assert said[0].startswith(f"{len(SIZES)} shards: {sum(SIZES)} samples")
    return found


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bigbatch" / "fetched"


@pytest.fixture(scope="module")
def rows(folder: Path):
    """The run on the rows themselves, to its end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        return exhaust(start(folder, "rows-run"))


def served(site, folder: Path) -> str:
    site.files = {f"/t/{path.name}": path.read_bytes() for path in (folder / "tokens").iterdir()}
    return f"{site.url}/t/{INDEX}"


def copies(cache: Path) -> int:
    """Bytes of shards that lie in the cache."""
    return sum(path.stat().st_size for path in cache.glob("stream-*/*/*.safetensors") if path.is_file())


def figures(folder: Path, name: str) -> list:
    return [(line["loss"], line["grad_norm"]) for line in lines(folder / name, "update")]


def test_a_stream_is_the_run_on_its_rows_under_a_bound_and_after_a_kill(folder, rows, cache):
    size = max(path.stat().st_size for path in (folder / "tokens").glob("0*"))
    with web() as site:
        keys = {"data.train": served(site, folder), "run.stream_bytes": 18 * size}
        most = 0
        with start(folder, "stream-run", **keys) as run:
            assert run._parts is not None and shelf_of(run._parts.train) is not None
            for record in run:
                most = max(most, copies(cache))
                if record.kind == "update" and record.step == 7:  # at a seam of two windows
                    break
        asked = len(site.asked)
        streamed = exhaust(start(folder, "stream-run", **keys))
        assert len(site.asked) > asked, "what was put away is fetched again"
    assert not differing(weights(rows), weights(streamed))
    assert figures(folder, "rows-run") == figures(folder, "stream-run")
    # What is mapped may be deleted a moment later than the next has come.
    assert 0 < most <= 19 * size
    local = exhaust(start(folder, "local-run", **{"data.train": str(folder / "tokens" / INDEX)}))
    assert not differing(weights(rows), weights(local))


@pytest.mark.stress
@pytest.mark.world_size(2)
def test_two_ranks_on_a_stream_are_one_and_go_on_at_a_seam(folder, ranks, tmp_path):
    (tmp_path / "held").mkdir()
    with web() as site:
        place = served(site, folder)
        keys = {"run.evaluate_every": "end", "plan.reproducible": "bitwise", "plan.threads": 1}
        rows = {**keys, "run.dir": str(tmp_path / "rows")}
        stream = {**keys, "run.dir": str(tmp_path / "stream"), "data.train": place}
        job, recipe = "tests.run.stream_jobs:trained", str(folder / "job.yaml")
        (one,) = ranks.run(job, 1, tmp_path, recipe=recipe, runs=[rows])
        seam = next(at for at in range(1, 20) if 8 * at >= sum(SIZES[:8]))
        two = ranks.run(job, 2, tmp_path, recipe=recipe, runs=[{**stream, "until": seam}, stream])
    status, weights_, losses = one[0]
    for found in two:
        first, second = found
        assert status == second[0] == "finished" and second[1] == weights_
        assert first[2] + second[2] == losses


def test_a_shard_that_lies_ends_the_run_saved_and_it_goes_on(folder, rows):
    size = max(path.stat().st_size for path in (folder / "tokens").glob("0*"))
    with web() as site:
        keys = {"data.train": served(site, folder), "run.stream_bytes": 18 * size}
        late = list(islice(ShardOrder(SIZES, 0).shards_from(0), len(SIZES)))[-1]
        name = f"/t/{late:05}.safetensors"
        kept = site.files[name]
        site.files[name] = kept[:-1] + bytes([kept[-1] ^ 1])
        with pytest.raises(DataError, match=rf"{name[-17:]}: it is not the file that .*{INDEX} names"):
            exhaust(start(folder, "lied", **keys))
        before = lines(folder / "lied", "update")
        assert before, "updates whose shards are what the index says are made"
        failed = lines(folder / "lied", "event")[-1]
        assert (failed["event"], failed["step"]) == ("failed", before[-1]["step"])
        site.files[name] = kept
        streamed = exhaust(start(folder, "lied", **keys))
    assert not differing(weights(rows), weights(streamed))
    steps = [[line["step"] for line in lines(folder / name, "update")] for name in ("lied", "rows-run")]
    assert steps[0] == steps[1], "each update is told of once"
    assert figures(folder, "lied") == figures(folder, "rows-run")


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {"run.stream_bytes": 1000},
            r"run.stream_bytes: found 1000 B; an update of 8 samples can need shards of",
        ),
        ({"data.max_length": 7}, "max_length: made by 64, the recipe has 7"),
        ({"loss.class_weights": "balanced"}, "loss.class_weights: looks at the labels of all samples"),
        ({"data.shuffle": "full"}, "streamed in the order of shuffle: shards"),
    ],
)
def test_what_a_stream_cannot_have_is_refused_before_update_1(folder, keys, said):
    with web() as site, pytest.raises(RecipeError, match=said):
        start(folder, "refused", **{"data.train": served(site, folder), **keys})


def test_publishing_goes_on_behind_the_last_shard(folder, tmp_path):
    shutil.copytree(folder / "tokens", tmp_path / "tokens")
    (tmp_path / "tokens" / INDEX).unlink()
    (tmp_path / "tokens" / "00003.safetensors").write_bytes(b"torn")
    said = tokenize(folder / "job.yaml", publish=tmp_path / "tokens")
    assert f"{len(SIZES) - 1} of them there before" in said[0]
    assert (tmp_path / "tokens" / INDEX).read_text() == (folder / "tokens" / INDEX).read_text()


# ---------------------------------------------------------------- stores, slow, away and back


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Little patience with stores, soon told of."""
    patience = Patience(silent_seconds=1.0, attempts=2, pause_seconds=0.05)
    monkeypatch.setattr(opening, "Wanted", partial(Wanted, patience=patience))
    monkeypatch.setattr(awaited, "_TOLD_SECONDS", 0.1)
    for name, value in {
        "AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "x", "AWS_EC2_METADATA_DISABLED": "true",
        "no_proxy": "*",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)


@contextmanager
def store(kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch):
    """A server of a store with the tokens, and the address of their index there."""
    from huggingface_hub import constants

    made = {"s3": servers.bucket, "gs": servers.google, "hf": servers.hub}[kind]
    place = {"s3": "s3://box/t", "gs": "gs://box/t", "hf": f"hf://datasets/org/name@{COMMIT}/t"}[kind]
    with made() as site:
        monkeypatch.setenv("AWS_ENDPOINT_URL", site.url)
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", site.url)
        template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, site.url)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", site.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        bucket = "" if kind == "hf" else "/box"
        site.files = {f"{bucket}/t/{path.name}": path.read_bytes() for path in (folder / "tokens").iterdir()}
        yield site, f"{place}/{INDEX}"


def bound(folder: Path) -> int:
    return 18 * max(path.stat().st_size for path in (folder / "tokens").glob("0*"))


def last_needed() -> str:
    """The file of the shard that the first epoch needs last."""
    return f"{list(islice(ShardOrder(SIZES, 0).shards_from(0), len(SIZES)))[-1]:05}.safetensors"


@pytest.mark.parametrize("kind", ["s3", pytest.param("gs", marks=pytest.mark.stress), "hf"])
def test_a_stream_from_a_store_is_the_run_on_its_rows(kind, folder, rows, hurried, monkeypatch):
    with store(kind, folder, monkeypatch) as (_, place):
        keys = {"data.train": place, "run.stream_bytes": bound(folder)}
        with start(folder, f"{kind}-run", **keys) as run:
            for record in run:
                if record.kind == "update" and record.step == 7:
                    break
        streamed = exhaust(start(folder, f"{kind}-run", **keys))
    assert not differing(weights(rows), weights(streamed))
    assert figures(folder, f"{kind}-run") == figures(folder, "rows-run")


@pytest.mark.parametrize(
    "kind",
    ["s3", pytest.param("gs", marks=pytest.mark.stress), pytest.param("hf", marks=pytest.mark.stress)],
)
def test_a_store_that_goes_away_leaves_a_run_that_goes_on_when_it_is_back(
    kind, folder, rows, hurried, monkeypatch
):
    """Every shard but one is there; the server has gone by the time that this one is asked for."""
    keys = {"run.stream_bytes": bound(folder)}
    with store(kind, folder, monkeypatch) as (site, place):
        answer = Site.tag

        def gone(self: Site, path: str) -> str:
            if path.endswith(last_needed()):
                raise ConnectionResetError  # nothing is sent
            return answer(self, path)

        monkeypatch.setattr(Site, "tag", gone)
        with pytest.raises(MachineError, match=r"0\d+\.safetensors: ") as caught:
            exhaust(start(folder, f"{kind}-away", **{"data.train": place, **keys}))
        assert last_needed() in str(caught.value)
        before = lines(folder / f"{kind}-away", "update")
        failed = lines(folder / f"{kind}-away", "event")[-2:]
        assert before and "failed" in [line["event"] for line in failed] and failed[-1]["step"] == len(before)
        monkeypatch.setattr(Site, "tag", answer)
    with store(kind, folder, monkeypatch) as (site, place):  # elsewhere, under the same name
        streamed = exhaust(start(folder, f"{kind}-away", **{"data.train": place, **keys}))
    assert not differing(weights(rows), weights(streamed))
    assert figures(folder, f"{kind}-away") == figures(folder, "rows-run")


def test_a_slow_store_is_waited_for_and_said_to_be(folder, rows, hurried, monkeypatch):
    with store("s3", folder, monkeypatch) as (_, place):
        answer = Site.tag

        def slow(self: Site, path: str) -> str:
            if path.endswith(last_needed()):
                time.sleep(0.4)
            return answer(self, path)

        monkeypatch.setattr(Site, "tag", slow)
        streamed = exhaust(
            start(folder, "slow-run", **{"data.train": place, "run.stream_bytes": bound(folder)})
        )
    waiting, came = (events(folder / "slow-run", name) for name in ("waiting_for_data", "data_came"))
    assert last_needed() in waiting[-1]["why"] and "Ctrl-C is safe" in waiting[-1]["did"]
    assert came[-1]["step"] == waiting[-1]["step"]
    assert not differing(weights(rows), weights(streamed))


@pytest.mark.parametrize("change", ["shorter", pytest.param("longer", marks=pytest.mark.stress)])
def test_a_store_that_lies_about_a_length_ends_the_run_saved(change, folder, rows, hurried, monkeypatch):
    name = f"lies-{change}"
    with store("s3", folder, monkeypatch) as (site, place):
        keys = {"data.train": place, "run.stream_bytes": bound(folder)}
        kept = site.files[f"/box/t/{last_needed()}"]
        site.files[f"/box/t/{last_needed()}"] = kept[:-3] if change == "shorter" else kept + b"abc"
        size = len(kept) + (3 if change == "longer" else -3)
        with pytest.raises(
            DataError, match=rf"the server announces {size:,} bytes, and the index says {len(kept):,}"
        ):
            exhaust(start(folder, name, **keys))
        assert lines(folder / name, "update")
        site.files[f"/box/t/{last_needed()}"] = kept
        streamed = exhaust(start(folder, name, **keys))
    assert not differing(weights(rows), weights(streamed))


def test_ctrl_c_while_a_shard_is_awaited_leaves_at_once_and_goes_on(folder, rows, hurried, monkeypatch):
    """The store holds its answer back for half a minute."""
    with store("s3", folder, monkeypatch) as (_, place):
        answer, held = Site.tag, threading.Event()

        def silent(self: Site, path: str) -> str:
            if path.endswith(last_needed()):
                held.wait(30)
            return answer(self, path)

        monkeypatch.setattr(Site, "tag", silent)
        monkeypatch.setattr(opening, "Wanted", Wanted)  # whose patience is long
        keys = {"data.train": place, "run.stream_bytes": bound(folder)}
        began = 0.0
        run = start(folder, "left-run", **keys)
        with run:
            for record in run:
                if record.kind == "event" and record["event"] == "waiting_for_data":
                    began = time.monotonic()
                    os.kill(os.getpid(), signal.SIGINT)
        assert 0 < time.monotonic() - began < 3 and run.status == "interrupted"
        held.set()
        streamed = exhaust(start(folder, "left-run", **keys))
    assert not differing(weights(rows), weights(streamed))
    assert figures(folder, "left-run") == figures(folder, "rows-run")
