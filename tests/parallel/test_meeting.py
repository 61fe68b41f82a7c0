"""Agents agree on where their workers meet, anew at each start; alone they open no door for it."""

from __future__ import annotations

import os
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from torch.distributed.elastic.rendezvous import RendezvousParameters

from bigbatch.parallel import store
from bigbatch.parallel.meeting import ALONE, JOIN, LEAD, Rendezvous, store_of
from bigbatch.places import Place
from tests.strangers import listeners


@pytest.fixture
def folder(tmp_path) -> Path:
    found = tmp_path / "launch"
    found.mkdir(mode=0o700)
    return found


@pytest.fixture(autouse=True)
def closed(monkeypatch):
    """Stores live as long as their process: here they end with the test."""
    made = []
    opened = store.SignedStore.__init__
    monkeypatch.setattr(
        store.SignedStore, "__init__", lambda self, *a, **k: (made.append(self), opened(self, *a, **k))[1]
    )
    yield
    for each in made:
        each.close()


def parameters(nodes: int) -> RendezvousParameters:
    return RendezvousParameters("bigbatch", "", "run", nodes, nodes, last_call_timeout=1)


def place(environ: dict[str, str], rank: int, size: int) -> Place:
    meeting = Path(environ["BIGBATCH_MEETING"])
    return Place(rank=rank, size=size, local_rank=rank, local_size=size, meeting=meeting)


def test_on_one_machine_the_workers_of_each_start_meet_in_another_file(folder, monkeypatch):
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    before = listeners({os.getpid()})
    environ: dict[str, str] = {}
    meet = Rendezvous(folder, ALONE, "127.0.0.1", environ, parameters(1))
    meetings = []
    for _ in range(2):
        found = meet.next_rendezvous()
        assert (found.rank, found.world_size) == (0, 1)
        meetings.append(environ["BIGBATCH_MEETING"])
        one, two = (store_of(place(environ, rank, 2), timedelta(seconds=5), native=False) for rank in (0, 1))
        one.set("a", "1")
        assert two.get("a") == b"1"
    assert len(set(meetings)) == 2 and all(Path(each).parent == folder for each in meetings)
    assert listeners({os.getpid()}) == before
    meet.shutdown()


def test_machines_agree_through_the_one_that_leads(folder, monkeypatch):
    monkeypatch.setenv("TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1")
    found, environs = {}, {JOIN: {}, LEAD: {}}

    def machine(way: str) -> None:
        meet = Rendezvous(folder, way, "127.0.0.1", environs[way], parameters(2))
        found[way] = meet.next_rendezvous()
        meet.shutdown()

    threads = [threading.Thread(target=machine, args=[way]) for way in environs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(each.rank for each in found.values()) == [0, 1]
    assert environs[JOIN] == environs[LEAD]
    one = store_of(place(environs[JOIN], 0, 2), timedelta(seconds=5), native=False)
    two = store_of(place(environs[LEAD], 1, 2), timedelta(seconds=5), native=False)
    one.set("a", "1")
    assert two.get("a") == b"1"
