"""Zarr arrays of numbers from anybody: checked before a byte of them is decoded."""

from __future__ import annotations

import base64
import json
import math
import re
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from toolkit.data.dataset import shortened
from toolkit.data.errors import DataError

_PIPELINE = "zarr.core.codec_pipeline.BatchedCodecPipeline"
_ARRAY_KEY = "responses"
_NUMBER_V2 = re.compile(r"[<>|][fiu]\d+")
_NUMBER_V3 = re.compile(r"(int|uint|float)\d+")
# Whole numbers, and texts that are stored as nothing but their characters.
_NAME_V2 = re.compile(r"[<>|][iuUS]\d+")
_NAME_V3 = re.compile(r"(int|uint)\d+|string|fixed_length_utf32|null_terminated_bytes")
_TEXT_CODEC = "vlen-utf8"
# Codecs turn bytes into numbers; some (pickle, json2 of objects) run or build what the file says.
_COMPRESSORS = frozenset({"blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd"})
_FILTERS = frozenset(
    {"adler32", "astype", "bitround", "crc32", "crc32c", "delta", "fixedscaleoffset"}
) | frozenset({"fletcher32", "jenkins_lookup3", "quantize", "shuffle"})
_CODECS_V2 = _COMPRESSORS | _FILTERS
_CODECS_V3 = frozenset({"blosc", "bytes", "crc32c", "gzip", "sharding_indexed", "transpose"}) | (
    frozenset({"zstd"}) | {f"numcodecs.{name}" for name in _CODECS_V2}
)
_CF_ENCODING = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned")


@dataclass(frozen=True)
class StoredArray:
    """An array of numbers on disk, known from its metadata alone.

    Parameters
    ----------
    path
        Folder of the array.
    zarr_format
        2 or 3.
    shape
        Its shape.
    dimensions
        Names of its axes, where xarray or netCDF wrote them.
    encoding
        What the climate and forecast (CF) conventions say of it: ``scale_factor``,
        ``_FillValue`` and the like.
    """

    path: Path
    zarr_format: int
    shape: tuple[int, ...]
    dimensions: tuple[str, ...] | None
    encoding: Mapping[str, Any]

    def read(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """Its values, decoded by the CF conventions, and a line that says so if they were.

        Raises
        ------
        DataError
            If a chunk is damaged, or the encoding makes no sense.
        """
        import xarray as xr
        import zarr

        try:
            # The faster pipeline of feature stores reads no big-endian numbers.
            with zarr.config.set({"codec_pipeline.path": _PIPELINE}):
                array = zarr.open_array(self.path, mode="r", zarr_format=self.zarr_format)
                values = np.asarray(array[...])
            if not self.encoding:
                return values, ()
            names = [f"axis_{axis}" for axis in range(values.ndim)]
            stored = xr.Variable(names, values, dict(self.encoding))
            decoded = xr.conventions.decode_cf_variable(
                _ARRAY_KEY, stored, decode_times=False, decode_timedelta=False
            )
            by = ", ".join(f"{key} {value}" for key, value in self.encoding.items())
            return decoded.values, (f"{self.path}: decoded as xarray does, by {by}",)
        except (OSError, RuntimeError, TypeError, ValueError) as error:
            raise DataError(f"{self.path}: cannot be decoded ({error})") from error


def stored_array(path: Path) -> StoredArray:
    """Find the array at ``path``: itself, the only one of a group, or its ``responses``.

    Only metadata are read, and only as JSON: no codec sees a chunk unless its name and the type of
    the values are known to be harmless.

    Raises
    ------
    DataError
        If there is none or several, it is no array of numbers, or is stored with a codec that is
        not known to only decompress numbers.
    """
    if not path.is_dir():
        raise DataError(f"{path}: not a readable zarr store (it is a file)")
    found = _array_at(path)
    if found is not None:
        return found
    members = member_shapes(path)
    if not members:
        raise DataError(f"{path}: not a readable zarr store (no array in it)")
    member = _array_at(path / only_key(path, members))
    assert member is not None
    return member


def stored_names(path: Path, key: str) -> StoredArray:
    """Find an array of texts or whole numbers in a group, with the cautions of `stored_array`.

    Raises
    ------
    DataError
        If its values are others, or stored with a codec that is not known to be harmless.
    """
    found = _array_at(path / key, are_names=True)
    assert found is not None
    return replace(found, encoding={})


def member_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Key → shape of the arrays of a group; empty if ``path`` is an array itself."""
    shapes = {}
    for child in sorted(path.iterdir()):
        if not _is_array(path) and _is_array(child):
            document = child / "zarr.json"
            shape = _json(document if document.is_file() else child / ".zarray").get("shape")
            shapes[child.name] = tuple(shape) if isinstance(shape, list) else ()
    return shapes


def only_key(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> str:
    """Key of the responses: the only array, the one called so, or the only one with two axes."""
    keys = list(shapes)
    if _ARRAY_KEY in keys:
        return _ARRAY_KEY
    candidates = [key for key in keys if len(keys) == 1 or len(shapes[key]) >= 2]
    if len(candidates) == 1:
        return candidates[0]
    raise DataError(f"{path}: has arrays {shortened(keys)}; call the responses {_ARRAY_KEY!r}")


def _is_array(folder: Path) -> bool:
    if (folder / ".zarray").is_file():
        return True
    document = folder / "zarr.json"
    return document.is_file() and _json(document).get("node_type") == "array"


def _array_at(folder: Path, *, are_names: bool = False) -> StoredArray | None:
    """What the metadata in a folder say, if they are those of an array."""
    if not _is_array(folder):
        return None
    document = folder / "zarr.json"
    try:
        if document.is_file():
            return _of_format_3(folder, _json(document), are_names)
        document = folder / ".zarray"
        return _of_format_2(folder, _json(document), are_names)
    except DataError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError, struct.error) as error:
        raise DataError(f"{document}: not the metadata of an array ({error!r})") from error


def _json(document: Path) -> dict[str, Any]:
    try:
        content = json.loads(document.read_bytes())
    except (OSError, RecursionError, ValueError) as error:
        raise DataError(f"{document}: not the metadata of a zarr store ({error})") from error
    if not isinstance(content, dict):
        raise DataError(f"{document}: not the metadata of a zarr store (no mapping)")
    return content


def _of_format_2(folder: Path, array: Mapping[str, Any], are_names: bool) -> StoredArray:
    stored = [codec["id"] for codec in (*(array["filters"] or ()), array["compressor"]) if codec]
    if are_names and array["dtype"] == "|O" and stored[:1] == [_TEXT_CODEC]:
        _refuse_codecs(folder, stored[1:], _COMPRESSORS)
    else:
        _refuse_type(folder, array["dtype"], _NAME_V2 if are_names else _NUMBER_V2)
        _refuse_codecs(folder, stored, _CODECS_V2)
    attributes = _json(folder / ".zattrs") if (folder / ".zattrs").is_file() else {}
    dimensions = attributes.get("_ARRAY_DIMENSIONS")
    if dimensions is not None and array["fill_value"] is not None:
        # Where xarray wrote format 2, the array's own fill value stands for a missing one.
        attributes = {"_FillValue": array["fill_value"], **attributes}
    return StoredArray(folder, 2, tuple(array["shape"]), _names(dimensions), _encoding(attributes))


def _of_format_3(folder: Path, array: Mapping[str, Any], are_names: bool) -> StoredArray:
    if array.get("storage_transformers"):
        raise DataError(f"{folder}: has storage transformers, which are not known")
    codecs = _codec_names(array["codecs"])
    data_type = array["data_type"]
    if are_names and isinstance(data_type, Mapping):
        data_type = data_type.get("name")
    _refuse_type(folder, data_type, _NAME_V3 if are_names else _NUMBER_V3)
    _refuse_codecs(folder, codecs, _CODECS_V3 | ({_TEXT_CODEC} if are_names else set()))
    dimensions = _names(array.get("dimension_names"))
    encoding = _encoding(array.get("attributes", {}))
    return StoredArray(folder, 3, tuple(array["shape"]), dimensions, encoding)


def _codec_names(codecs: Sequence[Any]) -> list[str]:
    """Every codec of an array, those within its shards too."""
    found = []
    for codec in codecs:
        name = codec if isinstance(codec, str) else codec["name"]
        found.append(name)
        if name == "sharding_indexed":
            within = codec["configuration"]
            found += _codec_names([*within["codecs"], *within.get("index_codecs", ())])
    return found


def _refuse_type(folder: Path, data_type: object, known: re.Pattern[str]) -> None:
    if not isinstance(data_type, str) or not known.fullmatch(data_type):
        are_names = known in (_NAME_V2, _NAME_V3)
        expected = "texts or whole numbers" if are_names else "real numbers"
        raise DataError(f"{folder}: values are {data_type!r}, expected {expected}")


def _refuse_codecs(folder: Path, codecs: Sequence[str], known: frozenset[str]) -> None:
    unknown = [repr(codec) for codec in codecs if codec not in known]
    if unknown:
        raise DataError(
            f"{folder}: is stored with {shortened(unknown)}, which may run code from the file; "
            f"store it with {', '.join(sorted(_COMPRESSORS))} or uncompressed"
        )


def _names(dimensions: Sequence[str | None] | None) -> tuple[str, ...] | None:
    return None if dimensions is None or None in dimensions else tuple(map(str, dimensions))


def _encoding(attributes: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: attributes[key] for key in _CF_ENCODING if key in attributes}
    if isinstance(found.get("_FillValue"), str):
        found["_FillValue"] = _fill_value(found["_FillValue"])
    return {k: v for k, v in found.items() if not isinstance(v, float) or not math.isnan(v)}


def _fill_value(text: str) -> float:
    """A fill value that JSON has no number for; xarray writes doubles in base 64."""
    try:
        return float(text)
    except ValueError:
        return float(struct.unpack("<d", base64.standard_b64decode(text))[0])
