"""The few things that all generated pages write alike."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence


def notice(source: str) -> str:
    """First line of a generated page: what to edit instead; not shown on the site."""
    return f"<!-- Made by python -m docs.generate; edit {source} instead. -->"


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown themselves."""
    lines = [headings, ["---"] * len(headings), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def code(text: object) -> str:
    """Text as it is typed."""
    return f"`{text}`"


def anchor(heading: str) -> str:
    """What a link to a heading of the same page ends in, on the site and on forges alike."""
    words = re.sub(r"[^\w\s-]", "", heading).strip().lower()
    return "#" + re.sub(r"\s", "-", words)


def from_docstring(text: str) -> str:
    """A sentence of a docstring on one line, its roles and double backticks as code."""
    plain = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", " ".join(text.split()))
    return plain.replace("``", "`")


def _cell(text: str) -> str:
    return text.replace("|", r"\|")
