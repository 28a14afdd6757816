"""What the DANDI archive says of the files of a session: addresses, sizes and hashes."""

from __future__ import annotations

import json
import urllib.request
from http.client import HTTPException
from typing import Any
from urllib.parse import urlencode

from toolkit.data.archive import RemoteFile
from toolkit.data.errors import DataError
from toolkit.download import TIMEOUT_S, Digest, DownloadError

API = "https://api.dandiarchive.org/api"
DANDISET = "000628"
_SHA256 = "dandi:sha2-256"


def session_files(session: str, api: str = API) -> list[RemoteFile]:
    """Files of a session of Xiao et al. 2024.

    Parameters
    ----------
    session
        Name of its files: ``sub-An_ses-20220105T173929``.
    api
        Address of the archive's REST interface.

    Raises
    ------
    DataError
        If the archive has no such session.
    DownloadError
        If the archive cannot be asked.
    """
    folder = session.split("_")[0]
    query = urlencode({"path": f"{folder}/{session}", "page_size": 100})
    listing = _get(f"{api}/dandisets/{DANDISET}/versions/draft/assets/?{query}")
    wanted = {f"{session}.nwb", f"{session}_image.nwb"}
    found = [asset for asset in listing["results"] if asset["path"].split("/")[-1] in wanted]
    if len(found) != len(wanted):
        raise DataError(
            f"DANDI {DANDISET} has {len(found)} of the files {', '.join(sorted(wanted))}; sessions "
            "are called as in sub-An_ses-20220105T173929"
        )
    return [_remote_file(asset, api) for asset in found]


def _remote_file(asset: dict[str, Any], api: str) -> RemoteFile:
    address = f"{api}/assets/{asset['asset_id']}/"
    sha256 = _get(address)["digest"].get(_SHA256)
    return RemoteFile(
        name=asset["path"].split("/")[-1],
        url=f"{address}download/",
        digest=Digest("sha256", sha256) if sha256 else None,
        n_bytes=asset["size"],
    )


def _get(url: str) -> Any:
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as response:
            return json.load(response)
    except (OSError, HTTPException, ValueError) as error:
        raise DownloadError(
            f"DANDI could not be asked at {url}: {error}\nWithout a network, give --from a folder "
            "or another address that has the two files of the session."
        ) from error
