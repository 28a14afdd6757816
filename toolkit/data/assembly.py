"""Neural assemblies in NetCDF as BrainIO writes them: presentation × neuroid × time bin."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from toolkit.data.dataset import shortened
from toolkit.data.errors import DataError, MissingDataError
from toolkit.data.hdf5 import as_text

if TYPE_CHECKING:
    import xarray as xr

_BLOCK_BYTES = 64 * 2**20
_ID_COLUMNS = ("stimulus_id", "image_id")  # BrainIO renamed it


class Assembly:
    """An open assembly; coordinates are read one at a time, values in blocks of presentations.

    Parameters
    ----------
    path
        A NetCDF-4 file with one array whose dimensions are ``presentation``, ``neuroid`` and
        perhaps a ``time_bin`` of length 1, in any order.

    Raises
    ------
    DataError
        If the file is missing, unreadable, or holds no such array.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = _open(path)
        try:
            self._values = self._find_values()
        except DataError:
            self._file.close()
            raise

    def __enter__(self) -> Assembly:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()

    @property
    def n_presentations(self) -> int:
        """Number of presentations."""
        return self._values.sizes["presentation"]

    @property
    def n_neuroids(self) -> int:
        """Number of neuroids."""
        return self._values.sizes["neuroid"]

    @property
    def id_column(self) -> str:
        """Name of the coordinate that says which stimulus was presented."""
        for name in _ID_COLUMNS:
            if name in self.columns("presentation"):
                return name
        raise DataError(
            f"{self.path}: no coordinate stimulus_id of presentations; it has "
            f"{', '.join(self.columns('presentation'))}"
        )

    def columns(self, dimension: str) -> list[str]:
        """Names of the coordinates along ``"presentation"`` or ``"neuroid"``."""
        return [str(n) for n, v in self._file.variables.items() if v.dims == (dimension,)]

    def column(self, dimension: str, name: str) -> np.ndarray:
        """Values of a coordinate; texts as objects of type str.

        Raises
        ------
        DataError
            If there is no such coordinate.
        """
        names = self.columns(dimension)
        if name not in names:
            raise DataError(
                f"{self.path}: no coordinate {name} of {dimension}s; it has {', '.join(names)}"
            )
        values = self._file.variables[name].values
        return values if values.dtype.kind in "biuf" else _texts(values)

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """Rows and their values, (n_rows, n_neuroids), a bounded number of bytes at a time."""
        row_bytes = self.n_neuroids * self._values.dtype.itemsize
        n_rows = max(1, _BLOCK_BYTES // row_bytes)
        for start in range(0, self.n_presentations, n_rows):
            rows = slice(start, min(start + n_rows, self.n_presentations))
            block = self._values.isel(presentation=rows).transpose("presentation", "neuroid")
            yield rows, np.asarray(block.values)

    def _find_values(self) -> xr.Variable:
        wanted = {"presentation", "neuroid"}
        found = [v for v in self._file.variables.values() if wanted <= set(v.dims)]
        if len(found) != 1:
            raise DataError(
                f"{self.path}: {len(found)} arrays of presentation × neuroid, expected one; it has "
                f"{shortened(list(self._file.variables))}"
            )
        values = found[0]
        if not set(values.dims) <= {*wanted, "time_bin"} or values.sizes.get("time_bin", 1) != 1:
            raise DataError(
                f"{self.path}: its array has dimensions {dict(values.sizes)}; expected one time bin"
            )
        return values.isel(time_bin=0) if "time_bin" in values.dims else values


def repetition_array(
    assembly: Assembly,
    neuroids: np.ndarray,
    stimulus_of: np.ndarray,
    repetition_of: np.ndarray,
) -> np.ndarray:
    """Every presentation at its place; one block of the file is in memory besides the result.

    Parameters
    ----------
    assembly
        The open assembly.
    neuroids
        (m,) indices of the neuroids to take.
    stimulus_of, repetition_of
        (n_presentations,) index of the stimulus and of the repetition; -1 leaves the presentation
        out.

    Returns
    -------
    float32 (n_stimuli, m, n_repetitions), NaN where there was no such presentation.
    """
    shape = (int(stimulus_of.max()) + 1, len(neuroids), int(repetition_of.max()) + 1)
    repetitions = np.full(shape, np.nan, dtype=np.float32)
    for rows, block in assembly.blocks():
        kept = np.flatnonzero(stimulus_of[rows] >= 0)
        stimulus, repetition = stimulus_of[rows][kept], repetition_of[rows][kept]
        repetitions[stimulus, :, repetition] = block[np.ix_(kept, neuroids)]
    return repetitions


def _open(path: Path) -> xr.Dataset:
    import xarray as xr

    if not path.is_file():
        raise MissingDataError(f"{path}: no such file")
    try:
        # Nothing in an assembly is a time, but xarray may take what has the unit "ms" for one.
        return xr.open_dataset(path, engine="h5netcdf", cache=False, decode_times=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: not a readable NetCDF-4 file ({error})") from error


def _texts(values: Sequence[object] | np.ndarray) -> np.ndarray:
    texts = [as_text(v) if isinstance(v, bytes) else str(v) for v in values]
    return np.array(texts, dtype=object)
