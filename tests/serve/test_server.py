"""The process and its sockets: drain, newer models, connections that say nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import signal
import subprocess
from http.client import HTTPConnection

import pytest
import uvicorn

import bigbatch
from bigbatch.cli.serving import bytes_of, seconds_of
from bigbatch.errors import MachineError, UsageError
from bigbatch.serve import listening
from bigbatch.serve.models import named
from tests.models import tiny_folder
from tests.serve.conftest import Held, serving, until

JSON = {"Content-Type": "application/json"}


def test_sigterm_answers_what_was_asked_and_ends_with_0(python, two_labels):
    words = ["-m", "bigbatch", "serve", f"m={two_labels}", "--port", "0", "--wait", "2s", "--device", "cpu"]
    process = subprocess.Popen([python, *words], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        line = next(line for line in process.stderr if "http://" in line)
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        assert found is not None
        port = int(found[1])
        asked = HTTPConnection("127.0.0.1", port, timeout=60)
        asked.request("POST", "/predict", json.dumps({"rows": ["the flight was late"]}), JSON)
        other = HTTPConnection("127.0.0.1", port, timeout=60)
        for _ in range(3):  # by then the first request, which waits two seconds for others, has been read
            other.request("GET", "/ready")
            assert json.loads(other.getresponse().read())["status"] == "ready"
        other.close()
        process.send_signal(signal.SIGTERM)
        answer = asked.getresponse()
        assert answer.status == 200 and json.loads(answer.read())["predictions"][0]["label"] in ("neg", "pos")
        asked.close()
        rest = process.stderr.read()
        assert process.wait(60) == 0
        assert "draining" in rest and "every request that was taken has its answer" in rest
        with pytest.raises(ConnectionRefusedError):
            HTTPConnection("127.0.0.1", port, timeout=5).request("GET", "/health")
    finally:
        process.kill()
        process.communicate()


def test_a_newer_model_takes_over_and_no_request_is_lost(two_labels, tmp_path):
    newer = tiny_folder(tmp_path / "newer", id2label={0: "neg", 1: "pos"}, seed=5)
    place = tmp_path / "current"
    place.symlink_to(two_labels)
    row = ["the flight was late"]
    old, new = (
        bigbatch.predict(folder, row, device="cpu")[0]["probability"] for folder in (two_labels, newer)
    )
    with serving(place) as server:

        async def ask(client):
            found, first = [], asyncio.Event()

            async def asks():
                while not over.is_set():
                    found.append(await client.post("/predict", json={"rows": row}))
                    first.set()

            over = asyncio.Event()
            asking = [asyncio.ensure_future(asks()) for _ in range(4)]
            await first.wait()
            place.unlink()
            place.symlink_to(newer)
            await asyncio.to_thread(server.models.reload)
            found.append(await client.post("/predict", json={"rows": row}))
            over.set()
            await asyncio.gather(*asking)
            return found

        found = server.run(ask)
        assert {answer.status_code for answer in found} == {200}
        told = [answer.json()["predictions"][0]["probability"] for answer in found]
        assert told[0] == pytest.approx(old, abs=1e-6) and told[-1] == pytest.approx(new, abs=1e-6)
        assert abs(old - new) > 1e-3

        broken = shutil.copytree(newer, tmp_path / "broken")
        (broken / "model.safetensors").write_bytes(b"no weights")
        place.unlink()
        place.symlink_to(broken)
        server.models.reload()
        assert server.post("/predict", {"rows": row}).status_code == 200
        assert "the former model goes on" in server.said[-1]


def test_the_former_model_answers_what_it_had(two_labels, tmp_path, monkeypatch):
    held = Held(monkeypatch)
    place = tmp_path / "current"
    place.symlink_to(two_labels)
    newer = tiny_folder(tmp_path / "newer", id2label={0: "neg", 1: "pos"}, seed=5)
    with serving(place) as server:
        former = server.models.engine(None)

        async def ask(client):
            first = await held.busy(client)
            second = asyncio.ensure_future(client.post("/predict", json={"rows": ["second"]}))
            await until(lambda: former.queue.rows == 1)
            place.unlink()
            place.symlink_to(newer)
            reloading = asyncio.ensure_future(asyncio.to_thread(server.models.reload))
            await until(lambda: server.models.engine(None) is not former)
            third = asyncio.ensure_future(client.post("/predict", json={"rows": ["third"]}))
            held.go.set()
            await reloading
            return [await each for each in (first, second, third)]

        assert [answer.status_code for answer in server.run(ask)] == [200, 200, 200]
        assert server.models.engine(None) is not former


def test_a_head_that_does_not_come_is_left(monkeypatch):
    monkeypatch.setattr(listening, "HEAD_SECONDS", 0.05)
    monkeypatch.setattr(uvicorn.Server, "capture_signals", lambda self: contextlib.nullcontext())

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    async def run():
        config = uvicorn.Config(app, http=listening.Patient, ws="none", log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        sock = listening.listening("127.0.0.1", 0)
        port = sock.getsockname()[1]
        serving = asyncio.ensure_future(server.serve([sock]))
        while not server.started:
            await asyncio.sleep(0.01)
        ends = []
        for said in (b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: x\r\n\r\nGET"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(said)
            try:
                ends.append(await asyncio.wait_for(reader.read(), 20))
            except ConnectionResetError:
                ends.append(b"")
            writer.close()
        server.should_exit = True
        await serving
        return ends

    ends = asyncio.run(run())
    assert ends[:2] == [b"", b""] and ends[2].count(b"200 OK") == 1


def test_words_that_are_wrong(two_labels, tmp_path):
    assert list(named([f"a={two_labels}", str(two_labels)])) == ["a", two_labels.name]
    for words, what in (
        ([str(two_labels)] * 2, "two models are called"),
        (["a b=x"], "expected a folder"),
        (["a="], "expected a folder"),
    ):
        with pytest.raises(UsageError, match=what):
            named(words)
    assert seconds_of("5ms", "--wait") == 0.005 and seconds_of("2min", "--wait") == 120
    assert bytes_of("4MB") == 4 << 20 and bytes_of("10") == 10
    for call in (
        lambda: seconds_of("soon", "--wait"),
        lambda: seconds_of("1.2.3s", "--wait"),
        lambda: bytes_of("0"),
    ):
        with pytest.raises(UsageError):
            call()
    with (
        listening.listening("127.0.0.1", 0) as taken,
        pytest.raises(MachineError, match="choose another --port"),
    ):
        taken.listen()
        listening.listening("127.0.0.1", taken.getsockname()[1])
