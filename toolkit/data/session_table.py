"""Which area each unit lies in: the table of banks that goes with the sessions of Xiao et al."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from toolkit.data.dataset import check_unique, shortened
from toolkit.data.errors import DataError, MissingDataError

CHANNELS_PER_BANK = 32
_COLUMNS = ("session", "bank", "array", "hemisphere", "region")
_SESSION_NAME = re.compile(r"sub-(?P<animal>[^_]+)_ses-20(?P<date>\d{6})T\d{6}")

Banks = Mapping[str, Mapping[int, str]]


def read_session_table(path: Path) -> Banks:
    """Read session → bank → area.

    Parameters
    ----------
    path
        ``.csv`` with the columns session, bank, array (or Array ID), hemisphere, region in any
        spelling of case; one row per bank of a session.

    Raises
    ------
    DataError
        If the file or a column is missing, or a bank has two areas.
    """
    if not path.is_file():
        raise MissingDataError(f"{path}: no such file")
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except ValueError as error:
        raise DataError(f"{path}: not a readable CSV file ({error})") from error
    columns = [str(name).strip().lower().removesuffix(" id") for name in table]
    check_unique(columns, "column", path)
    table.columns = pd.Index(columns)
    missing = [name for name in _COLUMNS if name not in columns]
    if missing:
        raise DataError(f"{path}: no column {', '.join(missing)}; it has {', '.join(columns)}")
    banks: dict[str, dict[int, str]] = {}
    for session, bank, region in zip(table["session"], table["bank"], table["region"], strict=True):
        if not bank.isdecimal():
            raise DataError(f"{path}: session {session} has bank {bank!r}, expected a number")
        if banks.setdefault(session, {}).setdefault(int(bank), region) != region:
            raise DataError(f"{path}: bank {bank} of session {session} has two regions")
    return banks


def areas_of_units(
    session: str, unit_names: Sequence[str], banks: Banks, path: Path
) -> tuple[str, ...]:
    """Area of each unit of a session.

    A unit's name begins with its channel, from 1 ("30a"); 32 channels make a bank, from 0.

    Parameters
    ----------
    session
        Name of the session's files, ``sub-An_ses-20220105T173929``. The table may call it so, or
        ``An220105`` as its authors do (``An220105_1`` where a day had several).
    unit_names
        The units.
    banks
        From :func:`read_session_table`.
    path
        The table, for messages.

    Raises
    ------
    DataError
        If the table lacks the session or a bank, is not clear about which session it is, or a
        unit's name has no channel.
    """
    area_of = _banks_of(session, banks, path)
    areas = []
    for unit in unit_names:
        channel = re.search(r"\d+", unit)
        if channel is None:
            raise DataError(f"session {session}: unit {unit!r} has no channel number in its name")
        bank = (int(channel.group()) - 1) // CHANNELS_PER_BANK
        if bank not in area_of:
            raise DataError(
                f"{path}: no row for bank {bank} of session {session}, which unit {unit!r} is on; "
                f"it has banks {shortened(sorted(area_of))}"
            )
        areas.append(area_of[bank])
    return tuple(areas)


def _banks_of(session: str, banks: Banks, path: Path) -> Mapping[int, str]:
    if session in banks:
        return banks[session]
    parts = _SESSION_NAME.fullmatch(session)
    short = f"{parts['animal']}{parts['date']}" if parts else session
    if short in banks:
        return banks[short]
    of_day = {name: rows for name, rows in banks.items() if re.fullmatch(rf"{short}_\d+", name)}
    if not of_day:
        raise DataError(f"{path}: no row for session {session}; call it so or {short}")
    if any(rows != next(iter(of_day.values())) for rows in of_day.values()):
        raise DataError(
            f"{path}: {', '.join(of_day)} differ, and which of them session {session} is cannot be "
            f"told; add rows that call it {session}"
        )
    return next(iter(of_day.values()))
