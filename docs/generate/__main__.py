"""Write the generated pages of the documentation: ``python -m docs.generate``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from docs.generate import columns, config_keys, reports

DOCS = Path(__file__).resolve().parents[1]
PAGES: dict[str, Callable[[], str]] = {
    "config.md": config_keys.page,
    "columns.md": columns.page,
    "reports.md": reports.page,
}


def main() -> None:
    """Write each page over the one that is there."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
