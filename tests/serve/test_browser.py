"""The page to try a server by hand, in a real browser: `pytest -m browser tests/serve` (chromium, chromedriver, selenium)."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.browser, pytest.mark.filterwarnings("ignore")]


@pytest.fixture(scope="module")
def address(two_labels):
    words = [
        sys.executable,
        "-m",
        "bigbatch",
        "serve",
        f"flights={two_labels}",
        "--port",
        "0",
        "--device",
        "cpu",
    ]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    line = next(line for line in process.stderr if "http://" in line)
    yield "http://" + line.partition("http://")[2].split()[0]
    process.terminate()
    assert process.wait(60) == 0


@pytest.fixture(params=[390, 1280])
def browser(request):
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
        metrics = {"width": 390, "height": 844, "pixelRatio": 2}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    found = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield found
    found.quit()


def test_the_page_asks_and_fits(browser, address, tmp_path: Path):
    from selenium.webdriver.support.ui import WebDriverWait

    def said(name):
        return str(browser.execute_script(f"return document.getElementById('{name}').textContent"))

    def until(true):
        WebDriverWait(None, 30, poll_frequency=0.1).until(lambda _: true())  # type: ignore[arg-type]

    browser.get(address)
    until(lambda: "/predict" in said("path"))
    assert "flights (classify): ready" in said("models")
    browser.execute_script("document.getElementById('ask').click()")
    until(lambda: "probability" in said("answer"))
    assert said("time").startswith("200, ")
    assert browser.execute_script("return document.getElementById('path').options.length") == 1
    browser.execute_script(
        "document.getElementById('body').value = '{\"rows\": [\"<img src=x onerror=alert(1)>\"'"
    )
    browser.execute_script("document.getElementById('ask').click()")
    until(lambda: said("time").startswith("400, "))
    until(lambda: "Invalid JSON" in said("answer"))
    wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert browser.execute_script(wide) == 0
    assert browser.execute_script("return document.images.length") == 0
    browser.save_screenshot(str(tmp_path / "page.png"))
    loud = [
        each
        for each in browser.get_log("browser")
        if "400" not in str(each["message"]) and each["level"] != "DEBUG"
    ]
    assert loud == []  # no error of the page's own, nothing refused by its policy
