"""Fetching data sets: from a mirror, a folder, an archive's listing; and what is said when not."""

import hashlib
import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from flaky_server import FlakyServer

from toolkit.data import DataError
from toolkit.data.__main__ import main
from toolkit.data.archive import ARCHIVES, RemoteFile
from toolkit.data.fetch import Fetched, fetch
from toolkit.download import Digest, DownloadError, WrongHashError

SESSION = "sub-An_ses-20220105T173929"
CONTENTS = {"a.nc": b"assembly" * 5000, "b.csv": b"table", "c.zip": b"images" * 9000}


@pytest.fixture
def server() -> Iterator[FlakyServer]:
    server = FlakyServer()
    yield server
    server.stop()


@pytest.fixture
def published(server: FlakyServer, monkeypatch: pytest.MonkeyPatch) -> FlakyServer:
    """Majaj-Hong's three files, small ones, with their hashes, at an address on this machine."""
    files = []
    for name, content in CONTENTS.items():
        server.files[f"/bucket/{name}"] = content
        digest = Digest("sha1", hashlib.sha1(content).hexdigest())
        files.append(RemoteFile(name, f"{server.url}/bucket/{name}", digest))
    small = replace(ARCHIVES["majaj_hong"], files=tuple(files))
    monkeypatch.setitem(ARCHIVES, "majaj_hong", small)
    return server


def fetched(name: str, **params) -> list[Fetched]:
    return list(fetch(name, **params))


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_published_files_arrive_checked_and_recorded(published, tmp_path) -> None:
    progress: dict[str, int] = {}
    files = fetched(
        "majaj_hong",
        to=tmp_path / "to",
        progress=lambda name, n_bytes, _: progress.update({name: n_bytes}),
    )
    assert [file.path.read_bytes() for file in files] == list(CONTENTS.values())
    assert all(file.is_verified for file in files)
    assert progress == {name: len(content) for name, content in CONTENTS.items()}
    check = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=tmp_path / "to")
    assert check.returncode == 0
    n_requests = len(published.requests)
    fetched("majaj_hong", to=tmp_path / "to")
    assert len(published.requests) == n_requests


def test_the_default_folder_is_the_archives_own(published, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert fetched("majaj_hong")[0].path == Path("data/majaj_hong/a.nc")


def test_a_cut_transfer_goes_on_and_a_changed_file_is_refused(published, tmp_path) -> None:
    published.cut_after["/bucket/a.nc"] = [1000, 2000]
    assert fetched("majaj_hong", to=tmp_path)[0].path.read_bytes() == CONTENTS["a.nc"]
    (tmp_path / "a.nc").unlink()
    published.files["/bucket/a.nc"] = b"x" + CONTENTS["a.nc"][1:]
    with pytest.raises(WrongHashError, match="refused"):
        fetched("majaj_hong", to=tmp_path)
    assert not (tmp_path / "a.nc").exists()


@pytest.mark.parametrize("kind", ["folder", "url"])
def test_a_mirror_is_checked_like_the_original(published, tmp_path, kind) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    for name, content in CONTENTS.items():
        (mirror / name).write_bytes(content)
        published.files[f"/mirror/{name}"] = content
    source = str(mirror) if kind == "folder" else f"{published.url}/mirror/"
    assert all(
        file.is_verified for file in fetched("majaj_hong", to=tmp_path / "to", source=source)
    )
    assert not any("/bucket/" in path for path, _ in published.requests)
    (tmp_path / "to" / "b.csv").unlink()
    (mirror / "b.csv").write_bytes(b"other")
    published.files["/mirror/b.csv"] = b"other"
    with pytest.raises(WrongHashError):
        fetched("majaj_hong", to=tmp_path / "to", source=source)


def test_offline_says_what_to_do(published, tmp_path) -> None:
    published.stop()
    with pytest.raises(DownloadError) as caught:
        fetched("majaj_hong", to=tmp_path)
    message = str(caught.value)
    for words in ("a.nc could not be fetched from", f"copy a.nc into {tmp_path}", "--from"):
        assert words in message
    (tmp_path / "a.nc").write_bytes(CONTENTS["a.nc"])
    with pytest.raises(DownloadError, match=r"copy b\.csv"):
        fetched("majaj_hong", to=tmp_path)


def test_a_full_disk_says_what_to_do(published, tmp_path, monkeypatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(DownloadError) as caught:
        fetched("majaj_hong", to=tmp_path)
    assert f"Make room in {tmp_path}, or give --to another folder." in str(caught.value)
    assert "Without a network" not in str(caught.value)


@pytest.mark.parametrize("source", ["file", "folder", "url", "folder url"])
def test_nx414_comes_from_a_path_or_address(server, tmp_path, source) -> None:
    (tmp_path / "IT_data.h5").write_bytes(b"spikes")
    server.files["/course/IT_data.h5"] = b"spikes"
    place = {
        "file": str(tmp_path / "IT_data.h5"),
        "folder": str(tmp_path),
        "url": f"{server.url}/course/IT_data.h5",
        "folder url": f"{server.url}/course",
    }[source]
    [file] = fetched("nx414", to=tmp_path / "to", source=place)
    assert file.path.read_bytes() == b"spikes"
    assert not file.is_verified
    assert file.sha256 == sha256(b"spikes")
    [again] = fetched("nx414", to=tmp_path / "to", source=place)
    assert again.is_verified  # with the hash noted the first time


def test_hashes_beside_a_mirror_count(server, tmp_path) -> None:
    server.files["/course/IT_data.h5"] = b"spikes"
    server.files["/course/SHA256SUMS"] = f"{sha256(b'other')} *IT_data.h5\n".encode()
    with pytest.raises(WrongHashError):
        fetched("nx414", to=tmp_path, source=f"{server.url}/course")
    with pytest.raises(WrongHashError):
        fetched("nx414", to=tmp_path, source=f"{server.url}/course", sha256="0" * 64)
    [file] = fetched("nx414", to=tmp_path, source=f"{server.url}/course", sha256=sha256(b"spikes"))
    assert file.is_verified


def dandi(server: FlakyServer) -> str:
    """What DANDI's REST interface answers, with the files elsewhere, as it really does."""
    contents = {f"{SESSION}.nwb": b"rasters" * 2000, f"{SESSION}_image.nwb": b"images" * 2000}
    results = []
    for i, (name, content) in enumerate(contents.items()):
        results.append({"asset_id": f"id{i}", "path": f"sub-An/{name}", "size": len(content)})
        about = {"digest": {"dandi:sha2-256": sha256(content), "dandi:dandi-etag": "x-1"}}
        server.files[f"/api/assets/id{i}/"] = json.dumps(about).encode()
        server.redirects[f"/api/assets/id{i}/download/"] = f"/blobs/{i}"
        server.files[f"/blobs/{i}"] = content
    results.append({"asset_id": "id9", "path": f"sub-An/{SESSION}_2.nwb", "size": 1})
    listing = json.dumps({"count": len(results), "next": None, "results": results}).encode()
    server.files["/api/dandisets/000628/versions/draft/assets/"] = listing
    return f"{server.url}/api"


def test_sessions_come_from_dandi_with_its_hashes(server, tmp_path) -> None:
    api = dandi(server)
    server.cut_after["/blobs/0"] = [500]
    files = fetched("xiao2024", to=tmp_path, sessions=[SESSION], dandi_api=api)
    assert [f.path.name for f in files] == [f"{SESSION}.nwb", f"{SESSION}_image.nwb"]
    assert all(file.is_verified for file in files)
    assert f"path=sub-An%2F{SESSION}" in server.requests[0][0]
    assert ("/blobs/0", "bytes=500-") in server.requests
    (tmp_path / f"{SESSION}.nwb").unlink()
    server.files["/blobs/0"] = b"changed"
    with pytest.raises(WrongHashError):
        fetched("xiao2024", to=tmp_path, sessions=[SESSION], dandi_api=api)


def test_sessions_from_a_folder_need_no_archive(tmp_path) -> None:
    for suffix in ("", "_image"):
        (tmp_path / f"{SESSION}{suffix}.nwb").write_bytes(suffix.encode() or b"r")
    sums = f"{sha256(b'r')}  ./{SESSION}.nwb\n"
    (tmp_path / "SHA256SUMS").write_text(sums)
    files = fetched("xiao2024", to=tmp_path / "to", source=str(tmp_path), sessions=[SESSION])
    assert [file.is_verified for file in files] == [True, False]


def test_the_real_session_from_the_folder_it_is_in(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "xiao2024"
    files = fetched("xiao2024", to=tmp_path, source=str(folder), sessions=[SESSION])
    listed = (shared_data / "SHA256SUMS").read_text()
    for file in files:
        assert f"{file.sha256}  ./xiao2024/{file.path.name}" in listed


def test_requests_that_make_no_sense(server, tmp_path) -> None:
    api = dandi(server)
    for params, words in (
        ({"name": "hvm"}, "no data set 'hvm' to fetch; there are majaj_hong, nx414, xiao2024"),
        ({"name": "nx414"}, "IT_data.h5 of nx414 is not published: give .* --from"),
        ({"name": "nx414", "source": str(tmp_path / "absent")}, "absent/IT_data.h5: no such file"),
        ({"name": "xiao2024"}, "fetched by session; say which"),
        ({"name": "majaj_hong", "sessions": ["x"]}, "fetched whole; leave out --session"),
        ({"name": "majaj_hong", "sha256": "00"}, "for a data set of one file"),
        ({"name": "xiao2024", "sessions": ["sub-Zz_x"], "dandi_api": api}, "has 0 of the files"),
    ):
        with pytest.raises(DataError, match=words):
            fetched(**params, to=tmp_path / "to")


def test_an_archive_that_cannot_be_asked(server, tmp_path) -> None:
    server.files["/api/dandisets/000628/versions/draft/assets/"] = b"<html>"
    for api in (f"{server.url}/api", f"{server.url}/none"):
        with pytest.raises(DownloadError, match="DANDI could not be asked at"):
            fetched("xiao2024", to=tmp_path, sessions=[SESSION], dandi_api=api)


def run(*words: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "toolkit.data", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd)


def test_the_command(tmp_path, monkeypatch, capsys) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "IT_data.h5").write_bytes(b"spikes")
    done = run("fetch", "nx414", "--from", tmp_path / "in", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"data/IT_data.h5  sha256 {sha256(b'spikes')}  (no hash known")
    assert not done.stderr
    monkeypatch.chdir(tmp_path)
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert "13d28ca0ce88ee550b54db3004374ae19096e9b9" in listed
    assert "IT_data.h5  no hash  (here)" in listed
    for words in (["fetch", "nx414"], ["describe", "absent"]):
        assert main(words) == 2
        assert capsys.readouterr().err.strip()
    refused = run("fetch", "hvm", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr.strip()
    assert "Traceback" not in refused.stderr


def test_what_is_printed_stays_whole_on_a_narrow_terminal(tmp_path) -> None:
    folder = tmp_path / ("long" * 20)
    folder.mkdir()
    (folder / "IT_data.h5").write_bytes(b"spikes")
    command = [sys.executable, "-m", "toolkit.data", "fetch", "nx414", "--from", str(folder)]
    controller, terminal = pty.openpty()
    environment = {**os.environ, "COLUMNS": "60", "TERM": "xterm"}
    done = subprocess.run(
        [*command, "--to", str(folder / "to")], stdout=terminal, stderr=terminal, env=environment
    )
    os.close(terminal)
    shown = b""
    with suppress(OSError):  # the end of a terminal
        while piece := os.read(controller, 65536):
            shown += piece
    os.close(controller)
    assert done.returncode == 0
    line = f"{folder}/to/IT_data.h5  sha256 {sha256(b'spikes')}  (no hash known"
    assert line in shown.decode()
    assert "6/6 bytes" in shown.decode()


def test_help_is_quick_to_get() -> None:
    words = [sys.executable, "-X", "importtime", "-m", "toolkit.data", "fetch", "--help"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert "--session" in done.stdout
    for heavy in ("torch", "xarray", "matplotlib.figure", "zarr", "sklearn"):
        assert f" {heavy}\n" not in done.stderr
