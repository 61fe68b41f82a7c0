from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from threading import Thread

import pytest

from bigbatch.errors import UsageError
from bigbatch.watch.runs import key_of
from bigbatch.watch.server import WatchServer
from tests.report.fake_run import RECIPE, records, write_run

EVIL = "</script><script>alert(1)</script><img src=x onerror='alert(2)'>\"'&\u202e"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[WatchServer]:
    write_run(tmp_path / "runs" / "tweets")
    with WatchServer([tmp_path / "runs"], token="t0ken") as found:
        thread = Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def get(
    server: WatchServer, path: str, method: str = "GET", **headers: str
) -> tuple[int, dict[str, str], str]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    connection.request(method, path, headers={key.replace("_", "-"): value for key, value in headers.items()})
    answer = connection.getresponse()
    found = answer.status, dict(answer.getheaders()), answer.read().decode()
    connection.close()
    return found


def test_the_page_shows_a_run_and_loads_nothing(server: WatchServer) -> None:
    status, headers, page = get(server, "/t0ken/")
    assert status == 200 and "tweets" in page and "<svg" in page
    assert "http://" not in page.replace("http://www.w3.org", "") and "https://" not in page
    policy = headers["Content-Security-Policy"]
    nonce = policy.split("script-src 'nonce-")[1].split("'")[0]
    assert policy.startswith("default-src 'none'") and page.count(f'nonce="{nonce}"') == 2
    assert nonce not in get(server, "/t0ken/")[2]  # another one each time


def test_figures_are_those_of_the_journal(server: WatchServer, tmp_path: Path) -> None:
    lines = records()
    updates = [line for line in lines if line["kind"] == "update"]
    status, _, text = get(server, f"/t0ken/figures.json?run={key_of(tmp_path / 'runs/tweets')}")
    found = json.loads(text)
    (run,) = found["runs"]
    assert status == 200 and list(found["known"].values()) == ["tweets"]
    assert (run["name"], run["state"], run["update"], run["samples"]) == ("tweets", "finished", 88, 88 * 256)
    assert run["curves"]["lr"] == [[line["samples"], line["lr"]] for line in updates]
    assert run["curves"]["loss"] == [
        [line["samples"], line["loss"]] for line in updates if line["loss"] is not None
    ]
    assert run["evaluations"]["test"]["f1_macro"] == [[88 * 256, lines[-1]["f1_macro"]]]
    assert run["predicted"]["train_seconds"] == [
        498.0,
        pytest.approx(sum(line["seconds"] for line in updates)),
    ]
    assert [event["event"] for event in run["events"]] == ["nonfinite", "resumed"]


def test_a_look_that_finds_nothing_new_sends_nothing(server: WatchServer, tmp_path: Path) -> None:
    status, headers, body = get(server, "/t0ken/view")
    assert status == 200 and set(json.loads(body)) == {"choice", "view"}
    assert get(server, "/t0ken/view", If_None_Match=headers["ETag"])[::2] == (304, "")
    with (tmp_path / "runs/tweets/metrics.jsonl").open("a") as file:
        file.write(
            json.dumps({"kind": "event", "step": 88, "event": "brand_new", "why": "w", "did": "d"}) + "\n"
        )
    status, _, body = get(server, "/t0ken/view", If_None_Match=headers["ETag"])
    assert status == 200 and "brand new" in json.loads(body)["view"]


def test_only_the_address_that_was_printed_is_answered(server: WatchServer) -> None:
    port = server.server_address[1]
    assert server.address == f"http://127.0.0.1:{port}/t0ken/"
    for path in (
        "/",
        "/view",
        "/t0ke/",
        "/t0ken2/view",
        "/t0ken/../../etc/passwd",
        "/t0ken/recipe.yaml",
    ):
        assert get(server, path)[0] == 404, path
    assert get(server, "/t0ken/", Host=f"evil.example:{port}")[0] == 403
    assert get(server, "/t0ken/", Host=f"localhost:{port}")[0] == 200
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        status, headers, _ = get(server, "/t0ken/", method)
        assert status == 501 and "Access-Control-Allow-Origin" not in headers
    assert get(server, "/t0ken/view?" + "&".join(["run=x"] * 100))[0] == 400
    with pytest.raises(UsageError, match=f"port {port}: .*--port N"):
        WatchServer([Path()], port=port)


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.scripts = 0
        self.bad: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.scripts += tag == "script"
        self.bad += [f"{tag} {name}" for name, _ in attrs if name.startswith("on") or name in ("src", "href")]
        self.bad += [tag] if tag in ("img", "iframe", "object") else []


def test_a_hostile_run_folder_is_text(tmp_path: Path) -> None:
    """Names of the folder, figures, splits, events, hosts, phases, recipe keys: each holds markup."""
    lines = records(8)
    for number, line in enumerate(lines):
        if line["kind"] == "eval":
            line["split"] = EVIL if number % 2 else "validation"
            line[EVIL] = 0.5
        line |= {"loss." + EVIL: 1.0} if line["kind"] == "update" else {}
        line |= {"event": EVIL, "why": EVIL, "did": EVIL, EVIL: EVIL} if line["kind"] == "event" else {}
    name = EVIL.replace("/", "_")
    choice = {"value": EVIL, "reason": EVIL, "source": "user", "prediction": 5.0, "unit": EVIL}
    for folder in (name, name + "2"):
        run = write_run(
            tmp_path / "runs" / folder,
            files={"recipe.yaml": RECIPE + f"x: {json.dumps(EVIL + folder)}\nbest: {json.dumps(EVIL)}\n",
                   "plan.json": {"train_seconds": choice, EVIL: choice}},
        )  # fmt: skip
        (run / "metrics.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines) + "{" + EVIL + "\n"
        )
        (run / "logs").mkdir(exist_ok=True)
        sign = {"rank": 0, "size": 1, "host": EVIL, "pid": 7, "restart": 0, "update": 5, "phase": "reduce", "beats": 1,
                "ticks": 3, "at": 100.0}  # fmt: skip
        (run / "logs" / "beat-0000.json").write_text(json.dumps(sign))
    with WatchServer([tmp_path / "runs"]) as server:
        keys = list(json.loads(json.dumps(server.page.figures([])))["known"])
        for chosen in (keys[:1], keys):
            page, tags = server.page.whole(chosen, "nonce"), Tags()
            tags.feed(page)
            assert (tags.scripts, tags.bad) == (1, [])
            assert "alert(1)" in page and "\u202e" not in page
