"""The documentation site: generated pages are up to date, links hold, nothing comes from afar."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.options import Options
from selenium.webdriver.chrome.service import Service

from docs.generate import config_keys
from docs.generate.__main__ import DOCS, PAGES
from toolkit.cluster.profiles import SiteProfile, StageProfile
from toolkit.cluster.retries import RetryPolicy
from toolkit.config import Section
from toolkit.models.network_spec import DecoderSpec
from toolkit.training import Recipe
from toolkit.training.hmo.space import ModuleSpace
from toolkit.training.recipe import Augmentation, Optimizer, Schedule

ROOT = Path(__file__).resolve().parents[1]
DRIVER = shutil.which("chromedriver")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")

needs_mkdocs = pytest.mark.skipif(
    find_spec("material") is None or find_spec("mkdocs_jupyter") is None,
    reason="without the extra 'docs'",
)


def sections_of(kind: type[Section]) -> list[type]:
    return [kind, *(below for one in kind.__subclasses__() for below in sections_of(one))]


MAPPINGS: list[type] = [
    *sections_of(Section)[1:],
    *(SiteProfile, StageProfile, RetryPolicy),
    *(Recipe, Optimizer, Schedule, Augmentation, DecoderSpec, ModuleSpace),
]


def build(folder: Path, out: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    done = build(ROOT, out)
    assert done.returncode == 0, done.stderr
    return out


@pytest.mark.parametrize("name", PAGES)
def test_generated_pages_are_those_that_are_committed(name: str) -> None:
    text = (DOCS / name).read_text(encoding="utf-8")
    assert text == PAGES[name](), f"{name} is out of date: python -m docs.generate"


@pytest.mark.parametrize("kind", MAPPINGS, ids=lambda kind: kind.__name__)
def test_every_key_has_a_sentence(kind: type) -> None:
    """The section of the page that begins with the mapping's own summary lists all of its keys."""
    summary = " ".join((inspect.getdoc(kind) or "").split("\n\n")[0].split()).replace("``", "`")
    (section,) = [
        text
        for text in re.split(r"^##.*\n\n", config_keys.page(), flags=re.MULTILINE)
        if f"{summary}\n\n| key" in text
    ]
    rows = re.findall(r"^\| `(\w+)` \| (.+) \| (.+) \| (.+) \|$", section, flags=re.MULTILINE)
    is_dataclass = dataclasses.is_dataclass(kind)
    keys = {f.name for f in dataclasses.fields(kind)} if is_dataclass else set(kind.model_fields)
    # Written beside the recipe.
    keys -= {"objectives", "seed"} if kind is Recipe else set()
    assert {name for name, *_ in rows} == keys
    for name, allowed, _, meaning in rows:
        assert allowed.strip() and re.search(r"[a-z]{3}", meaning), f"{kind.__name__}.{name}"


@needs_mkdocs
def test_every_page_of_the_plan_is_built(site: Path) -> None:
    pages = {path.stem for path in site.glob("*.html")} - {"404"}
    sources = {path.stem for path in DOCS.iterdir() if path.suffix in (".md", ".ipynb")}
    assert pages == sources
    assert not (site / "generate").exists()


@needs_mkdocs
@pytest.mark.parametrize(
    "line",
    ["[no such page](nowhere.md)", "[no such heading](cluster.md#nowhere)", "[own](#nowhere)"],
)
def test_a_broken_link_fails_the_build(line: str, tmp_path: Path) -> None:
    shutil.copytree(DOCS, tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    with (tmp_path / "docs" / "concepts.md").open("a", encoding="utf-8") as page:
        page.write(f"\n{line}\n")
    done = build(tmp_path, tmp_path / "site")
    assert done.returncode != 0
    assert "nowhere" in done.stderr


@needs_mkdocs
def test_no_page_names_a_remote_resource(site: Path) -> None:
    loads = re.compile(
        r"<(?:script|img|iframe|link|source|video|audio|embed)\b[^>]*"
        r"(?:src|href)=[\"']?(?:https?:)?//[^>]*>|url\([\"']?(?:https?:)?//[^)]*|@import[^;]*//"
    )
    files = [*site.rglob("*.html"), *site.rglob("*.css")]
    found = {path.name: loads.findall(path.read_text(encoding="utf-8")) for path in files}
    assert {name: remote for name, remote in found.items() if remote} == {}


@needs_mkdocs
@pytest.mark.skipif(not (DRIVER and BROWSER), reason="no Chromium with its driver")
def test_no_page_asks_a_network(site: Path) -> None:
    options = Options()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.binary_location = str(BROWSER)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL"})
    browser = webdriver.Chrome(options=options, service=Service(DRIVER))
    try:
        for page in sorted(site.glob("*.html")):
            browser.get(page.as_uri())
        entries = browser.get_log("performance")
    finally:
        browser.quit()
    messages = [json.loads(entry["message"])["message"] for entry in entries]
    sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    urls = {params["request"]["url"] for params in sent}
    assert any(url.endswith("config.html") for url in urls)
    assert {url for url in urls if url.split(":")[0] not in ("file", "data", "blob")} == set()
