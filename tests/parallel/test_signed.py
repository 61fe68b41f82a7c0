"""Words on a server are for holders of the key: others learn nothing, change nothing and keep nobody waiting."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from datetime import timedelta

import pytest
from torch.distributed import DistNetworkError, DistStoreError, HashStore, PrefixStore

from bigbatch.errors import MachineError
from bigbatch.parallel import served, signed
from bigbatch.parallel.meeting import bound_store, joined, refuse_open_folder
from bigbatch.parallel.served import Server, lead
from bigbatch.parallel.signed import Channel, NotSigned
from bigbatch.parallel.store import SignedStore
from tests.strangers import attacked, listeners

KEY = bytes(range(32))
SOON = timedelta(seconds=5)
PATIENT = timedelta(seconds=60)
"""What is expected to come, on a machine that does other things too."""


@pytest.fixture
def server():
    with Server("127.0.0.1", KEY) as server:
        yield server


@pytest.fixture
def store(server):
    store = SignedStore("127.0.0.1", server.port, KEY, timeout=PATIENT)
    yield store
    store.close()


def test_it_answers_as_torchs_own_store_does(store):
    reference = HashStore()
    for each in (store, reference):
        each.set_timeout(timedelta(seconds=0.1))
        each.set("a", b"\x00\xff1")
        each.set("text", "words")
    answers = [
        [
            each.get("a"),
            each.get("text"),
            each.add("number", 3),
            each.add("number", -1),
            each.get("number"),
            each.check(["a", "text"]),
            each.check(["a", "b"]),
            each.compare_set("a", "else", "new"),
            each.compare_set("a", b"\x00\xff1".decode("latin1"), "new"),
            each.compare_set("fresh", "", "new"),
            each.get("fresh"),
            each.delete_key("fresh"),
            each.delete_key("fresh"),
            each.num_keys(),
            each.append("a", b"+"),
            each.get("a"),
            each.multi_set(["x", "y"], ["1", "2"]),
            each.multi_get(["x", "y", "a"]),
            each.wait(["x", "y"]),
        ]
        for each in (store, reference)
    ]
    assert answers[0] == answers[1]
    for each in (store, reference):
        with pytest.raises(DistStoreError):
            each.get("nothing")


def test_cpp_reaches_it_through_a_prefix(store):
    named = PrefixStore("ranks", store)
    named.set("a", "1")
    assert store.get("ranks/a") == b"1" and named.clone().get("a") == b"1"
    assert named.add("n", 2) == 2 and named.has_extended_api()
    named.multi_set(["p", "q"], ["1", "2"])
    assert named.multi_get(["p", "q"]) == [b"1", b"2"]
    assert named.delete_key("p") and named.num_keys() == 3


def test_a_waiting_thread_does_not_keep_others_of_its_process_waiting(store):
    found = []
    thread = threading.Thread(target=lambda: found.append(store.get("late")))
    thread.start()
    time.sleep(0.2)
    store.set("late", "now")
    thread.join(PATIENT.total_seconds())
    assert found == [b"now"]


def test_an_answer_that_comes_too_late_is_nobody_elses(server, store, monkeypatch):
    store.set("a", "1")
    answers = Server._answer

    def late(self, request):
        found = answers(self, request)
        time.sleep(1)
        return found

    monkeypatch.setattr(Server, "_answer", late)
    store.set("b", "2")  # the one that the server was about to answer
    store._channel._connection.settimeout(0.3)
    with pytest.raises(DistNetworkError):
        store.get("a")
    monkeypatch.undo()
    time.sleep(1.2)  # now it is there
    with pytest.raises(DistNetworkError):
        store.add("number", 5)


def test_a_wrong_key_opens_nothing(server, store):
    store.set("a", "secret")
    with pytest.raises(DistNetworkError):
        SignedStore("127.0.0.1", server.port, bytes(32), timeout=timedelta(seconds=0.3))
    with socket.create_connection(("127.0.0.1", server.port)) as caller:
        caller.sendall(bytes(64))
        caller.settimeout(2)
        heard = b""
        while piece := caller.recv(4096):
            heard += piece
    assert len(heard) == 32, "more than a random number"
    assert store.get("a") == b"secret"


def test_a_server_without_the_key_is_not_believed():
    with Server("127.0.0.1", bytes(32)) as other, pytest.raises(DistNetworkError):
        SignedStore("127.0.0.1", other.port, KEY, timeout=timedelta(seconds=0.3))


@pytest.mark.slow
def test_strangers_neither_read_nor_change_nor_stop_it(server, store, tmp_path):
    store.set("a", "kept")
    mine = {each for each in listeners({os.getpid()}) if each.port == server.port}
    assert mine
    assert attacked(mine, tmp_path / "canary") == []
    assert not (tmp_path / "canary").exists()
    assert (store.get("a"), store.num_keys()) == (b"kept", 1)
    assert joined_again(server).get("a") == b"kept"


def test_silent_strangers_do_not_lock_out_those_who_hold_the_key(server, monkeypatch):
    """Twice as many as may wait, each with half a proof, before and while the friend comes."""
    crowd = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(2 * served.STRANGERS)]
    try:
        for caller in crowd:
            caller.sendall(b"half")
        joined_again(server).set("a", "1")
    finally:
        for caller in crowd:
            caller.close()


def test_a_stranger_who_says_nothing_is_left_soon(monkeypatch):
    monkeypatch.setattr(signed, "PROOF_SECONDS", 0.3)
    with Server("127.0.0.1", KEY) as server, socket.create_connection(("127.0.0.1", server.port)) as caller:
        caller.settimeout(5)
        while caller.recv(4096):
            pass


def joined_again(server):
    store = SignedStore("127.0.0.1", server.port, KEY, timeout=PATIENT)
    store.set("joined", "1")
    store.delete_key("joined")
    return Closing(store)


class Closing:
    """Calls one word of a store and leaves."""

    def __init__(self, store):
        self._store = store

    def __getattr__(self, word):
        def call(*given):
            try:
                return getattr(self._store, word)(*given)
            finally:
                self._store.close()

        return call


@pytest.fixture
def pair():
    """Both ends of a connection, and the sockets below."""
    one, two = socket.socketpair(socket.AF_INET) if os.name == "nt" else _tcp_pair()
    found = {}
    thread = threading.Thread(target=lambda: found.update(server=Channel(two, KEY, serves=True)))
    thread.start()
    caller = Channel(one, KEY, serves=False)
    thread.join()
    yield caller, found["server"], one, two
    one.close()
    two.close()


def _tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.create_connection(listener.getsockname())
        return one, listener.accept()[0]


def test_messages_arrive_in_both_directions(pair):
    caller, server, *_ = pair
    caller.send(b"a")
    caller.send(b"")
    server.send(b"x" * 100_000)
    assert (server.receive(), server.receive(), caller.receive()) == (b"a", b"", b"x" * 100_000)


@pytest.mark.parametrize("harm", ["changed", "repeated", "reflected", "too long"])
def test_a_message_that_somebody_touched_is_refused(pair, harm):
    caller, server, one, two = pair
    caller.send(b"first")
    raw = two.recv(4096)
    assert raw[-5:] == b"first"
    sent = {
        "changed": raw[:-1] + b"s",
        "repeated": raw + raw,
        "too long": b"\xff" * 4 + raw[4:],
        "reflected": raw,
    }[harm]
    target, source = (caller, two) if harm == "reflected" else (server, one)
    source.sendall(sent)
    with pytest.raises(NotSigned):
        target.receive()
        target.receive()


def test_the_way_there_is_for_the_user_alone(tmp_path):
    folder = tmp_path / "launch"
    folder.mkdir(mode=0o700)
    server = lead(folder, "127.0.0.1")
    with server:
        assert (folder / "store.json").stat().st_mode & 0o777 == 0o600
        assert len(bytes.fromhex(json.loads((folder / "store.json").read_text())["key"])) == 32
        store = joined(folder, SOON)
        store.set("a", "1")
        assert store.address_here == "127.0.0.1"
        store.close()
    folder.chmod(0o750)
    with pytest.raises(MachineError, match="mode 0700"):
        joined(folder, SOON)


def test_a_folder_of_somebody_else_or_a_link_is_refused(tmp_path):
    own = tmp_path / "own"
    own.mkdir(mode=0o700)
    refuse_open_folder(own)
    (tmp_path / "link").symlink_to(own)
    with pytest.raises(MachineError, match="nobody else may enter"):
        refuse_open_folder(tmp_path / "link")
    if os.getuid() == 0:
        os.chown(own, 65534, 65534)
        with pytest.raises(MachineError, match="of user 65534"):
            refuse_open_folder(own)


def test_torchs_own_store_listens_on_one_address(store):
    """What accelerators get: a thread of C++ must not wait for Python."""
    before = {each.port for each in listeners({os.getpid()})}
    own = bound_store(store, "127.0.0.1", 0, SOON)
    found = [each for each in listeners({os.getpid()}) if each.port not in before]
    assert [each.address for each in found] == ["127.0.0.1"]
    other = bound_store(store, "127.0.0.1", 1, SOON)
    own.set("a", "1")
    assert other.get("a") == b"1"
