"""Data sets that can be fetched: their files, where these lie, and their published hashes."""

from __future__ import annotations

from dataclasses import dataclass

from toolkit.data.errors import DataError
from toolkit.download import Digest

_BRAINSCORE = "https://brainscore-storage.s3.amazonaws.com/brainio-brainscore"


@dataclass(frozen=True)
class RemoteFile:
    """A file of a data set.

    Parameters
    ----------
    name
        Its name on this machine.
    url
        Where it lies; None if nobody publishes it.
    digest
        Its published hash; None if there is none.
    n_bytes
        Its size; None if unknown.
    """

    name: str
    url: str | None = None
    digest: Digest | None = None
    n_bytes: int | None = None


@dataclass(frozen=True)
class Archive:
    """A data set as its publishers offer it.

    Parameters
    ----------
    name
        What it is called here.
    about
        One line for people.
    folder
        Where its files are put unless the user says otherwise.
    files
        Its files; those of session archives come from the archive's own listing.
    by_session
        Whether it is fetched session by session.
    remark
        What else a user needs.
    """

    name: str
    about: str
    folder: str
    files: tuple[RemoteFile, ...]
    by_session: bool = False
    remark: str = ""


ARCHIVES = {
    archive.name: archive
    for archive in (
        Archive(
            name="majaj_hong",
            about="Majaj, Hong et al. 2015, public part: 168 IT and 88 V4 sites, 3200 images",
            folder="data/majaj_hong",
            files=tuple(
                RemoteFile(name, f"{_BRAINSCORE}/{name}", Digest("sha1", sha1))
                for name, sha1 in (
                    (
                        "assy_dicarlo_MajajHong2015_public.nc",
                        "13d28ca0ce88ee550b54db3004374ae19096e9b9",
                    ),
                    ("stimulus_hvm-public.csv", "5ca7a3da00d8e9c694a9cd725df5ba0ad6d735af"),
                    ("stimulus_hvm-public.zip", "8aa44e038d7b551efa8077467622f9d48d72e473"),
                )
            ),
        ),
        Archive(
            name="nx414",
            about="NX-414 course file: 168 IT sites averaged, 2592 + 288 + 320 images",
            folder="data",
            files=(RemoteFile("IT_data.h5"),),
            remark="not published: give the file or its address with --from",
        ),
        Archive(
            name="xiao2024",
            about="Xiao et al. 2024, DANDI 000628: free viewing, V1 to AIT, 679 sessions",
            folder="data/xiao2024",
            files=(),
            by_session=True,
            remark="images lie at osf.io/sde8m, the table of areas (bank_array_regions.csv) in the "
            "authors' github.com/willwx/free_viewing",
        ),
    )
}


def archive_named(name: str) -> Archive:
    """Return the archive of this name.

    Raises
    ------
    DataError
        If there is none.
    """
    if name not in ARCHIVES:
        raise DataError(f"no data set {name!r} to fetch; there are {', '.join(ARCHIVES)}")
    return ARCHIVES[name]
