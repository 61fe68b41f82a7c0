"""The page in a real browser: chromium, chromedriver and selenium have to be there (`pytest -m browser tests/watch`)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread
from typing import Protocol

import pytest

from bigbatch.watch.server import WatchServer
from tests.report.fake_run import write_run

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore")]


class Browser(Protocol):
    def get(self, url: str) -> None: ...
    def execute_script(self, script: str) -> object: ...
    def get_log(self, kind: str) -> list[dict[str, object]]: ...
    def quit(self) -> None: ...


@pytest.fixture(params=[390, 1280])
def browser(request: pytest.FixtureRequest) -> Iterator[Browser]:
    webdriver = pytest.importorskip("selenium.webdriver")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no chromium, or no chromedriver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1280,900"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    if request.param < 500:
        options.add_experimental_option(
            "mobileEmulation", {"deviceMetrics": {"width": 390, "height": 844, "pixelRatio": 2}}
        )
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


def until(true: Callable[[], object]) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(None, 30, poll_frequency=0.1).until(lambda _: true())  # type: ignore[arg-type]


def test_the_page_follows_a_run_and_fits(browser: Browser, tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_run(tmp_path / name, finished=False)
    with WatchServer([tmp_path]) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            browser.get(server.address)
            until(
                lambda: browser.execute_script(
                    "return document.getElementById('news').textContent.startsWith('Looked')"
                )
            )
            assert browser.execute_script("return document.querySelectorAll('#view section.run').length") == 1
            browser.execute_script(
                "for (const box of document.querySelectorAll('#choice input:not(:checked)')) box.click()"
            )
            until(
                lambda: browser.execute_script(
                    "return document.querySelectorAll('#view section.run').length === 2"
                )
            )
            assert len(str(browser.execute_script("return location.search")).split("run=")) == 3
            event = {
                "kind": "event",
                "step": 88,
                "event": "brand_new",
                "why": "<img src=x onerror=alert(1)>",
                "did": "d",
            }
            with (tmp_path / "one" / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(event) + "\n")
            until(
                lambda: (
                    "brand new"
                    in str(browser.execute_script("return document.getElementById('view').textContent"))
                )
            )
            wide = browser.execute_script(
                "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            assert wide == 0
            assert browser.execute_script("return document.images.length") == 0
            assert browser.get_log("browser") == []  # no error, nothing refused by the page's policy
        finally:
            server.shutdown()
            thread.join()
