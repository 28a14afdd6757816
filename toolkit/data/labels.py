"""Labels of images that are known by file name: face, non-face, pareidolia, or any others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from toolkit.data.dataset import check_unique
from toolkit.data.images import default_id
from toolkit.data.naming import normal_form, without_image_suffix
from toolkit.data.tables import read_stimulus_table, split_indices


class LabelTable:
    """Labels by file name, whatever folder the table thinks the file is in.

    Parameters
    ----------
    path
        ``.csv`` or ``.parquet`` with ``filename`` (or ``stimulus_id``, the file name without
        suffix) and any of ``label``, ``object_name``, ``split``; see
        :func:`toolkit.data.tables.read_stimulus_table`.

    Raises
    ------
    DataError
        If the table is not readable as such, or names a file twice.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._table = read_stimulus_table(path)
        names = self._table.filenames
        self._by_file = names is not None
        keys = (
            [PurePosixPath(normal_form(name)).name for name in names]
            if names
            else [without_image_suffix(normal_form(id_)) for id_ in self._table.ids or ()]
        )
        check_unique(keys, "file name", path)
        self._row_of = {key: row for row, key in enumerate(keys)}

    def names(self, files: Sequence[str]) -> np.ndarray:
        """(n_files,) bool: which files it has a row for."""
        return np.array([self._key(file) in self._row_of for file in files], dtype=bool)

    def categories(self, files: Sequence[str]) -> tuple[str, ...] | None:
        """Label of each file, None without that column; each file must have a row."""
        return self._values(self._table.category_names, files)

    def objects(self, files: Sequence[str]) -> tuple[str, ...] | None:
        """Object name of each file, None without that column."""
        return self._values(self._table.object_names, files)

    def splits(self, files: Sequence[str]) -> dict[str, np.ndarray]:
        """Split → increasing indices of its files; empty without that column."""
        return split_indices(self._values(self._table.split_names, files))

    def _key(self, file: str) -> str:
        name = normal_form(file)
        return name if self._by_file else default_id(name)

    def _values(
        self, column: tuple[str, ...] | None, files: Sequence[str]
    ) -> tuple[str, ...] | None:
        if column is None:
            return None
        return tuple(column[self._row_of[self._key(file)]] for file in files)
