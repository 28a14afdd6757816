"""Names in reports are text: on the page no element, in a figure no formula."""

import json
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from report_runs import write_synthetic_tables

from toolkit.report import all_charts, draw, read_study, write_page
from toolkit.report.recordings import Recordings

HOSTILE = "</script><script>alert(1)</script><!--<b onclick='x'>\"&amp; $\\bad$ {x} %{y} \u2028"
NAMES = ("dataset", "model", "layer", "readout", "features")


class Elements(HTMLParser):
    """Counts elements with the names of their attributes, and keeps text by element."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.found: Counter[tuple[str, ...]] = Counter()
        self.values: list[str] = []
        self.texts: list[str] = []
        self.data = ""
        self._is_data = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found[(tag, *(name for name, _ in attrs))] += 1
        self.values += [value or "" for _, value in attrs]
        self._is_data = ("id", "data") in attrs

    def handle_data(self, data: str) -> None:
        self.texts.append(data)
        if self._is_data:
            self.data += data
            self._is_data = False

    def handle_comment(self, data: str) -> None:
        self.found["comment", data] += 1


def named(folder: Path, suffix: str) -> Path:
    """Tables whose names end in it."""
    write_synthetic_tables(folder, n_networks=4, n_layers=3, n_neurons=12)
    for path in folder.glob("*.parquet"):
        table = pq.read_table(path)
        for name in NAMES:
            if name in table.column_names:
                texts = [None if v is None else v + suffix for v in table[name].to_pylist()]
                place, field = table.column_names.index(name), table.schema.field(name)
                table = table.set_column(place, field, pa.array(texts, field.type))
        pq.write_table(table, path)
    return folder


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return named(tmp_path_factory.mktemp("runs") / "a'b\"<i>&$\\x$", HOSTILE)


def test_names_add_no_element_to_the_page(hostile: Path, tmp_path: Path) -> None:
    write_page([hostile], tmp_path / "hostile.html")
    write_page([named(tmp_path / "plain", "")], tmp_path / "plain.html")
    found, plain = (
        Elements((tmp_path / f"{name}.html").read_text(encoding="utf-8"))
        for name in ("hostile", "plain")
    )
    assert found.found == plain.found
    titles = [text for text in found.texts if text.startswith("a'b\"<i>&$\\x$: report")]
    assert len(titles) == 2
    assert any(HOSTILE in text for text in found.texts)
    columns = json.loads(found.data)["frames"]["results"]["columns"]
    for name in NAMES:
        assert all(text.endswith(HOSTILE) for text in columns[name]["values"]), name


def test_names_are_no_formulas_in_figures(hostile: Path) -> None:
    from matplotlib.text import Text

    study = read_study([hostile])
    charts = all_charts(study, Recordings(study))
    assert len(charts) > 4
    seen = ""
    for chart in charts:
        before = chart.rows.copy()
        figure = draw(chart)
        figure.draw_without_rendering()  # a formula that is none would raise
        texts = [text.get_text() for text in figure.findobj(Text)]
        seen += "".join(texts)
        pd.testing.assert_frame_equal(chart.rows, before)
    assert r"\$" in seen
