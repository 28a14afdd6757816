"""The page in a real browser: it sorts, filters, tells exact numbers, and asks no network."""

import base64
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from report_browser import (
    assert_quiet,
    hide,
    hovered,
    needs_browser,
    open_page,
    plot,
    start_browser,
    table,
    wait_for,
)
from report_runs import SMALL_NETWORKS, break_a_network, run_networks, write_synthetic_tables
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

from toolkit import report
from toolkit.report.study import read_study

pytestmark = [
    pytest.mark.slow,
    needs_browser,
]

MOST_BYTES = 8_000_000
# W3C, Web Content Accessibility Guidelines 2.2, 1.4.3 (AA).
LEAST_CONTRAST = 4.5
CONTRAST = """
const channel = (v) => (v / 255 <= 0.04045 ? v / 255 / 12.92 : ((v / 255 + 0.055) / 1.055) ** 2.4);
const light = (text) => {
  const [r, g, b] = text.match(/[\\d.]+/g).map(Number).map(channel);
  return 0.2126 * r + 0.7152 * g + 0.0722 * b + 0.05;
};
const paper = light(getComputedStyle(document.body).backgroundColor);
const texts = "p, li, dt, dd, th button, td, figcaption, summary, select";
return [...document.querySelectorAll(texts)].filter((e) => e.textContent.trim())
  .map((e) => light(getComputedStyle(e).color) / paper)
  .reduce((least, ratio) => Math.min(least, Math.max(ratio, 1 / ratio)), 21);
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    yield from start_browser(tmp_path_factory.mktemp("downloads"))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = run_networks(tmp_path_factory.mktemp("networks"), SMALL_NETWORKS)
    break_a_network(path)
    return path


@pytest.fixture(scope="module")
def page(run: Path) -> Path:
    (written,) = report.main([run])
    return written


@pytest.fixture(scope="module")
def best(run: Path) -> pd.DataFrame:
    return read_study([run]).best


@pytest.fixture
def opened(browser: webdriver.Chrome, page: Path) -> Iterator[webdriver.Chrome]:
    open_page(browser, page, width=1200)
    yield browser
    assert_quiet(browser)


def sort_by(browser: webdriver.Chrome, name: str, title: str) -> None:
    for button in browser.find_elements(By.CSS_SELECTOR, f"#{name} thead button"):
        if button.text.rstrip(" ▲▼") == title:
            button.send_keys(Keys.ENTER)
            return
    raise AssertionError(title)


def test_the_page_is_one_file_of_bearable_size(page: Path) -> None:
    assert page.stat().st_size <= MOST_BYTES
    text = page.read_text(encoding="utf-8")
    own = text[: text.index("plotly.js v")] + text[text.rindex('id="data"') :]
    assert "http://" not in own
    assert "https://" not in own


def test_the_answer_comes_first(opened: webdriver.Chrome, best: pd.DataFrame) -> None:
    first = best[best["r_mean"].notna()].iloc[0]
    answer = opened.find_element(By.CSS_SELECTOR, ".answer li").text
    assert f"{first['network']}, {first['layer']}: r = {first['r_mean']:.3f}" in answer
    assert f"{first['r_mean_low']:.3f} to {first['r_mean_high']:.3f}" in answer
    assert f"ceiling {first['ceiling_median']:.3f}" in answer


def test_the_headline_sorts_by_any_column(opened: webdriver.Chrome, best: pd.DataFrame) -> None:
    assert list(table(opened, "headline")["network"]) == list(best["network"])
    expected = best["ev_mean"].dropna().sort_values(ascending=False)
    for shown in (expected, expected[::-1]):
        sort_by(opened, "headline", "EV")
        cells = table(opened, "headline")["EV"]
        assert list(cells[: len(shown)]) == [f"{value:.4f}" for value in shown]
        assert set(cells[len(shown) :]) == {"–"}
    sorted_head = opened.find_element(By.CSS_SELECTOR, "#headline th[aria-sort=ascending]")
    assert sorted_head.text.startswith("EV")


def test_the_headline_is_searched(opened: webdriver.Chrome) -> None:
    search = opened.find_element(By.CSS_SELECTOR, "#headline input[type=search]")
    search.send_keys("vit ridge")
    shown = table(opened, "headline")
    assert len(shown) == 3
    assert shown["network"].str.contains("vit").all()
    assert "3 of " in opened.find_element(By.CSS_SELECTOR, "#headline .count").text


def test_the_filter_reaches_tables_and_figures(
    opened: webdriver.Chrome, best: pd.DataFrame, run: Path
) -> None:
    winner = best[best["r_mean"].notna()].iloc[0]
    names = "return [...arguments[0].querySelectorAll('.ytick text')].map((e) => e.textContent)"
    assert opened.execute_script(names, plot(opened, "comparison")).count(winner["network"]) == 1
    hide(opened, "layer", winner["layer"])
    results = read_study([run]).results
    rest = results[
        (results["network"] == winner["network"]) & (results["layer"] != winner["layer"])
    ]
    second = rest.loc[rest["r_mean"].idxmax()]
    shown = table(opened, "headline")
    row = shown[(shown["network"] == winner["network"]) & (shown["r"] != "–")].iloc[0]
    assert (row["layer"], row["r"]) == (second["layer"], f"{second['r_mean']:.4f}")
    hide(opened, "model", winner["model"])
    assert winner["network"] not in set(table(opened, "headline")["network"])
    drawn = plot(opened, "comparison")
    wait_for(lambda: winner["network"] not in opened.execute_script(names, drawn))


def test_hovering_tells_the_number_of_the_table(
    opened: webdriver.Chrome, best: pd.DataFrame
) -> None:
    host = plot(opened, "comparison")
    winner = best[best["r_mean"].notna()].iloc[0]
    bars = host.find_elements(By.CSS_SELECTOR, ".bars .point path")
    longest = max(bars, key=lambda bar: bar.size["width"])
    label = hovered(opened, longest, host)
    assert winner["network"] in label
    assert f"r: {winner['r_mean']:.4f}" in label
    assert f"r, low end: {winner['r_mean_low']:.4f}" in label


def test_a_panel_is_chosen_by_its_menu(opened: webdriver.Chrome, run: Path) -> None:
    host = plot(opened, "by_layer")
    menu = opened.find_element(By.CSS_SELECTOR, "[aria-label='Layer by layer: shown']")
    Select(menu).select_by_visible_text("test_vit")
    results = read_study([run]).results
    layers = results[(results["model"] == "test_vit") & results["r_mean"].notna()]
    points = "return arguments[0].data.map((trace) => trace.y)"
    (drawn,) = opened.execute_script(points, host)
    assert drawn == pytest.approx(list(layers["r_mean"]), abs=1e-9)


def test_failed_and_blocked_tasks_are_listed_with_class_and_reason(
    opened: webdriver.Chrome,
) -> None:
    shown = table(opened, "unfinished")
    failed = shown[shown["status"] == "failed"].iloc[0]
    assert failed["class"] == "cuda_out_of_memory"
    assert "45 GiB asked for, </script> <b>39</b> GiB free" in failed["reason"]
    assert (shown["status"] == "blocked").sum() == len(shown) - 1
    assert "1 failed (1 cuda_out_of_memory)" in opened.find_element(By.ID, "tasks").text


def test_a_network_leads_to_all_of_its_layers(opened: webdriver.Chrome, best: pd.DataFrame) -> None:
    first = best.iloc[0]
    opened.find_element(By.CSS_SELECTOR, "#headline tbody button").click()
    shown = table(opened, "results")
    assert set(shown["network"]) == {first["network"]}
    assert len(shown) > 2
    assert opened.find_element(By.CSS_SELECTOR, "#results table").is_displayed()


def test_what_was_run_is_told(opened: webdriver.Chrome) -> None:
    facts = opened.find_element(By.CSS_SELECTOR, "dl").text
    for told in ("24 neurons", "pca20-ridge", "fixed", "cpu", "inprocess", "torch ", "UTC"):
        assert told in facts


def test_every_figure_draws_and_says_what_it_shows(opened: webdriver.Chrome) -> None:
    figures = opened.find_elements(By.CSS_SELECTOR, "figure")
    assert len(figures) >= 11
    for figure in figures:
        name = figure.get_attribute("id").removeprefix("chart-")  # type: ignore[union-attr]
        host = plot(opened, name)
        assert len(host.get_attribute("aria-label") or "") > 60
        assert host.get_attribute("role") == "img"
    unnamed = opened.execute_script(
        "return [...document.querySelectorAll('main button, main select, main input')]"
        ".filter((e) => !(e.textContent.trim() || e.ariaLabel || e.closest('label'))).length"
    )
    assert unnamed == 0


def test_what_is_drawn_can_be_saved(opened: webdriver.Chrome, best: pd.DataFrame) -> None:
    folder: Path = opened.downloads  # type: ignore[attr-defined]
    plot(opened, "comparison")
    for form in ("PNG", "SVG", "CSV"):
        opened.find_element(
            By.XPATH, f"//figure[@id='chart-comparison']//button[.='{form}']"
        ).click()
        path = folder / f"comparison.{form.lower()}"
        wait_for(lambda path=path: path.is_file() and path.stat().st_size > 0)
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "test_resnet (random)" in (folder / "comparison.svg").read_text(encoding="utf-8")
    saved = pd.read_csv(folder / "comparison.csv").set_index("network")["r_mean"]
    expected = best.dropna(subset="r_mean").set_index("network")["r_mean"]
    pd.testing.assert_series_equal(saved.sort_index(), expected.sort_index(), check_exact=False)


def test_the_numbers_of_a_figure_open_as_a_table(opened: webdriver.Chrome) -> None:
    plot(opened, "neuron_pairs")
    figure = opened.find_element(By.ID, "chart-neuron_pairs")
    figure.find_element(By.XPATH, ".//button[.='Numbers']").send_keys(Keys.ENTER)
    rows = figure.find_elements(By.CSS_SELECTOR, ".numbers tbody tr")
    assert len(rows) == 100
    assert "120 rows" in figure.find_element(By.CSS_SELECTOR, ".numbers .count").text


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_both_themes_are_readable(browser: webdriver.Chrome, page: Path, theme: str) -> None:
    open_page(browser, page, width=1200, theme=theme)
    paper = "return getComputedStyle(document.body).backgroundColor"
    first = browser.execute_script(paper)
    assert browser.execute_script(CONTRAST) >= LEAST_CONTRAST
    browser.find_element(By.ID, "theme").click()
    assert browser.execute_script(paper) != first
    assert browser.execute_script(CONTRAST) >= LEAST_CONTRAST
    assert_quiet(browser)


def test_a_phone_shows_everything_without_scrolling_sideways(
    browser: webdriver.Chrome, page: Path
) -> None:
    open_page(browser, page, width=390)
    for figure in browser.find_elements(By.CSS_SELECTOR, "figure"):
        name = figure.get_attribute("id").removeprefix("chart-")  # type: ignore[union-attr]
        svg = plot(browser, name).find_element(By.CSS_SELECTOR, ".main-svg")
        assert svg.size["width"] <= 390
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    browser.execute_script("scrollTo(0, 0)")
    browser.find_element(By.CSS_SELECTOR, "[data-filter=model] summary").click()
    options = browser.find_element(By.CSS_SELECTOR, "[data-filter=model] .options")
    assert options.is_displayed()
    assert options.rect["x"] >= 0
    assert options.rect["x"] + options.rect["width"] <= 390
    assert_quiet(browser)


def test_a_hundred_thousand_scores_of_neurons(browser: webdriver.Chrome, tmp_path: Path) -> None:
    tables = write_synthetic_tables(tmp_path / "big", n_networks=100, n_layers=10, n_neurons=100)
    page = tmp_path / "big.html"
    report.write_page([tables], page)
    assert page.stat().st_size <= MOST_BYTES
    open_page(browser, page, width=1200)
    assert len(table(browser, "headline")) == 100
    plot(browser, "neuron_violins")
    hide(browser, "layer", "stages.5")
    study = read_study([tables])
    rest = study.results[study.results["layer"] != "stages.5"]
    expected = rest.loc[rest.groupby("network")["r_mean"].idxmax()].sort_values("r_mean")
    top = expected.iloc[-1]
    first = table(browser, "headline").iloc[0]
    assert (first["network"], first["layer"]) == (top["network"], top["layer"])
    plot(browser, "neuron_pairs")
    host = plot(browser, "neuron_histogram")
    own = study.neurons[study.neurons["row"] == top["row"]]["r"]
    values = browser.execute_script("return arguments[0].data[0].x", host)
    assert sorted(values) == pytest.approx(sorted(own), abs=1e-6)
    assert_quiet(browser)


def test_two_runs_are_shown_side_by_side(browser: webdriver.Chrome, tmp_path: Path) -> None:
    runs = [
        write_synthetic_tables(tmp_path / name, n_networks=4, n_layers=3, n_neurons=20, seed=seed)
        for name, seed in (("before", 0), ("after", 1))
    ]
    page = tmp_path / "compare.html"
    report.write_page(runs, page)
    open_page(browser, page, width=1200)
    expected = report.compare(read_study(runs))
    shown = table(browser, "compared")
    assert list(shown["difference"].astype(float)) == pytest.approx(
        list(expected["difference"]), abs=6e-5
    )
    plot(browser, "differences")
    screenshot = browser.get_screenshot_as_base64()
    assert len(base64.b64decode(screenshot)) > 10_000
    assert_quiet(browser)
