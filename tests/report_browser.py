"""Pages of reports in a headless Chromium."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

DRIVER = shutil.which("chromedriver")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")

needs_browser = pytest.mark.skipif(not (DRIVER and BROWSER), reason="no Chromium with its driver")


def start_browser(downloads: Path) -> Iterator[webdriver.Chrome]:
    """A browser that notes what it logs and asks of networks; for a fixture."""
    options = Options()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.binary_location = str(BROWSER)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)}
    )
    driver.downloads = downloads  # type: ignore[attr-defined]
    yield driver
    driver.quit()


def open_page(browser: webdriver.Chrome, page: Path, *, width: int, theme: str = "light") -> None:
    browser.get_log("browser"), browser.get_log("performance")
    features = [{"name": "prefers-color-scheme", "value": theme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(page.as_uri())


def assert_quiet(browser: webdriver.Chrome) -> None:
    """Nothing in the console, and nothing asked of any network."""
    assert browser.get_log("browser") == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert {p["request"]["url"].split(":")[0] for p in sent} <= {"file", "data", "blob"}


def wait_for(condition: Callable[[], object]) -> object:
    deadline = time.monotonic() + 30
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def table(browser: webdriver.Chrome, name: str) -> pd.DataFrame:
    """What a table shows, as text."""
    head, *rows = browser.execute_script(
        "return [...document.querySelectorAll(`#${arguments[0]} tr`)]"
        ".map((row) => [...row.children].map((cell) => cell.textContent))",
        name,
    )
    return pd.DataFrame(rows, columns=[title.rstrip(" ▲▼") for title in head])


def plot(browser: webdriver.Chrome, name: str) -> WebElement:
    """A figure, scrolled to and drawn."""
    found = browser.find_element(By.CSS_SELECTOR, f"#chart-{name} .plot")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", found)
    wait_for(lambda: found.find_elements(By.CSS_SELECTOR, ".main-svg"))
    return found


def hovered(browser: webdriver.Chrome, mark: WebElement, host: WebElement) -> str:
    ActionChains(browser).move_to_element(mark).perform()
    wait_for(lambda: host.find_elements(By.CSS_SELECTOR, ".hoverlayer .hovertext"))
    label = host.find_element(By.CSS_SELECTOR, ".hoverlayer .hovertext")
    return (
        "\n".join(span.text for span in label.find_elements(By.CSS_SELECTOR, "text")) or label.text
    )


def hide(browser: webdriver.Chrome, filter_name: str, value: str) -> None:
    chosen = f"[data-filter={filter_name}]"
    browser.find_element(By.CSS_SELECTOR, f"{chosen} summary").click()
    browser.find_element(By.CSS_SELECTOR, f"{chosen} input[value='{value}']").click()
    browser.find_element(By.CSS_SELECTOR, f"{chosen} summary").click()
