"""Execute the notebook of questions anew: ``python -m docs.generate.questions``.

It needs the run that the README's first command makes. Nothing that differs from one execution to
the next, or from machine to machine, is kept but the outputs.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[1] / "questions.ipynb"


def main() -> None:
    """Write the notebook over itself, executed."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=300, kernel_name="python3", record_timing=False).execute()
    notebook.metadata["language_info"] = {"name": "python"}
    for cell in notebook.cells:
        cell.metadata = {}
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
