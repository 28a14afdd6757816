"""Files over a network that breaks, lies and ends, from a server on this machine."""

import errno
import hashlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from flaky_server import FlakyServer

from toolkit.download import Digest, DownloadError, WrongHashError, download

CONTENT = bytes(range(256)) * 4096  # 1 MiB
SHA256 = Digest("sha256", hashlib.sha256(CONTENT).hexdigest())


@pytest.fixture
def server() -> Iterator[FlakyServer]:
    server = FlakyServer()
    server.files["/a.bin"] = CONTENT
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def pauses_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What it would have waited for before it asked again."""
    pauses_s: list[float] = []
    monkeypatch.setattr("toolkit.download.time", SimpleNamespace(sleep=pauses_s.append))
    return pauses_s


def files_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def ranges(server: FlakyServer) -> list[str | None]:
    return [wanted for _, wanted in server.requests]


@pytest.mark.parametrize(
    "expected", [None, SHA256, Digest("sha1", "")], ids=["no hash", "sha256", "any"]
)
def test_a_file_appears_whole_and_alone(server, tmp_path, expected) -> None:
    seen: list[tuple[int, int | None]] = []
    path = download(
        f"{server.url}/a.bin",
        tmp_path / "deep" / "a.bin",
        expected=expected,
        progress=lambda n, total: seen.append((n, total)),
    )
    assert path.read_bytes() == CONTENT
    assert files_in(path.parent) == {"a.bin"}
    assert path.stat().st_mode & 0o777 == 0o644
    assert seen[-1] == (len(CONTENT), len(CONTENT))


def test_what_is_there_with_the_right_hash_is_not_asked_for(server, tmp_path) -> None:
    (tmp_path / "a.bin").write_bytes(CONTENT)
    download(f"{server.url}/a.bin", tmp_path / "a.bin", expected=SHA256)
    assert server.requests == []


def test_what_is_there_with_a_wrong_hash_is_replaced(server, tmp_path) -> None:
    (tmp_path / "a.bin").write_bytes(CONTENT[:-1])
    path = download(f"{server.url}/a.bin", tmp_path / "a.bin", expected=SHA256)
    assert path.read_bytes() == CONTENT


def test_a_cut_connection_is_taken_up_where_it_broke(server, tmp_path) -> None:
    server.cut_after["/a.bin"] = [100_000, 200_000, 1]
    path = download(f"{server.url}/a.bin", tmp_path / "a.bin", expected=SHA256)
    assert path.read_bytes() == CONTENT
    assert ranges(server) == [None, "bytes=100000-", "bytes=300000-", "bytes=300001-"]


def test_a_connection_that_brings_nothing_is_given_up_and_later_continued(server, tmp_path) -> None:
    server.cut_after["/a.bin"] = [100_000, *[0] * 20]
    with pytest.raises(DownloadError, match=r"broke after 100000 bytes.*100000 bytes are kept"):
        download(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert "a.bin" not in files_in(tmp_path)
    server.cut_after.clear()
    server.requests.clear()
    assert download(f"{server.url}/a.bin", tmp_path / "a.bin").read_bytes() == CONTENT
    assert ranges(server) == ["bytes=100000-"]
    assert files_in(tmp_path) == {"a.bin"}


def broken_off(server: FlakyServer, target: Path, expected: Digest | None = None) -> None:
    server.cut_after["/a.bin"] = [100_000, *[0] * 20]
    with pytest.raises(DownloadError):
        download(f"{server.url}/a.bin", target, expected=expected)
    server.cut_after.clear()
    server.requests.clear()


def test_the_beginning_of_another_version_is_not_continued(server, tmp_path) -> None:
    broken_off(server, tmp_path / "a.bin")
    server.files["/a.bin"], server.etags["/a.bin"] = CONTENT[::-1], "two"
    assert download(f"{server.url}/a.bin", tmp_path / "a.bin").read_bytes() == CONTENT[::-1]


def test_without_tag_and_hash_nothing_is_continued(server, tmp_path) -> None:
    server.without_tags = True
    broken_off(server, tmp_path / "a.bin")
    assert download(f"{server.url}/a.bin", tmp_path / "a.bin").read_bytes() == CONTENT
    assert ranges(server) == [None]


def test_without_tag_the_hash_finds_a_wrong_beginning_and_all_is_fetched(server, tmp_path) -> None:
    server.without_tags = True
    broken_off(server, tmp_path / "a.bin", SHA256)
    [partial] = tmp_path.iterdir()
    partial.write_bytes(bytes(100_000))
    path = download(f"{server.url}/a.bin", tmp_path / "a.bin", expected=SHA256)
    assert path.read_bytes() == CONTENT
    assert ranges(server) == ["bytes=100000-", None]


def test_a_server_without_ranges_sends_all_again(server, tmp_path) -> None:
    server.without_ranges = True
    server.cut_after["/a.bin"] = [100_000]
    assert download(f"{server.url}/a.bin", tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_partial_that_is_too_long_is_fetched_anew(server, tmp_path) -> None:
    (tmp_path / ".a.bin.partial").write_bytes(CONTENT * 2)
    path = download(f"{server.url}/a.bin", tmp_path / "a.bin", expected=SHA256)
    assert path.read_bytes() == CONTENT


def test_a_wrong_hash_is_refused_and_leaves_nothing(server, tmp_path) -> None:
    server.files["/a.bin"] = CONTENT[:-1] + b"x"
    with pytest.raises(WrongHashError, match=f"sha256 .*{SHA256.digits}: refused"):
        download(f"{server.url}/a.bin", tmp_path / "a.bin", expected=SHA256)
    assert files_in(tmp_path) == set()


def test_missing_on_the_server(server, tmp_path) -> None:
    with pytest.raises(DownloadError, match="404"):
        download(f"{server.url}/b.bin", tmp_path / "b.bin")
    assert files_in(tmp_path) == set()
    assert len(server.requests) == 1


def test_an_overloaded_server_is_asked_again_after_longer_and_longer(
    server, tmp_path, pauses_s
) -> None:
    server.statuses["/a.bin"] = [503, 429]
    assert download(f"{server.url}/a.bin", tmp_path / "a.bin").read_bytes() == CONTENT
    assert 0 < pauses_s[0] < pauses_s[1] < 5


def test_offline_is_said_at_once(server, tmp_path, pauses_s) -> None:
    server.stop()
    with pytest.raises(DownloadError, match="could not be fetched from http:"):
        download(f"{server.url}/a.bin", tmp_path / "a.bin")
    assert not pauses_s
    assert files_in(tmp_path) == set()


def test_local_files_and_file_addresses(tmp_path) -> None:
    source = tmp_path / "with space.bin"
    source.write_bytes(CONTENT)
    for number, place in enumerate((str(source), source.as_uri())):
        path = download(place, tmp_path / "to" / f"{number}.bin", expected=SHA256)
        assert path.read_bytes() == CONTENT
    with pytest.raises(DownloadError, match="No such file"):
        download(str(tmp_path / "absent"), tmp_path / "to" / "b.bin")


def test_many_at_once_fetch_it_once(server, tmp_path) -> None:
    found: list[bytes] = []

    def fetch() -> None:
        found.append(download(f"{server.url}/a.bin", tmp_path / "a.bin").read_bytes())

    threads = [threading.Thread(target=fetch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT] * 8
    assert len(server.requests) == 1
    assert files_in(tmp_path) == {"a.bin"}


def test_many_at_once_of_which_some_fail(server, tmp_path) -> None:
    server.statuses["/a.bin"] = [404, 404, 404]
    found: list[bytes | None] = []

    def fetch() -> None:
        try:
            found.append(download(f"{server.url}/a.bin", tmp_path / "a.bin").read_bytes())
        except DownloadError:
            found.append(None)

    threads = [threading.Thread(target=fetch) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found.count(None) == 3
    assert found.count(CONTENT) == 3


def test_a_killed_process_is_continued_by_the_next(server, tmp_path) -> None:
    """The first process is killed while the server stalls halfway."""
    target = tmp_path / "a.bin"
    code = (
        "import sys; from pathlib import Path; from toolkit.download import download\n"
        "download(sys.argv[1], Path(sys.argv[2]), progress=lambda n, _: print(n, flush=True) or "
        "__import__('time').sleep(60))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, f"{server.url}/a.bin", str(target)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert not target.exists()
    partial = tmp_path / ".a.bin.partial"
    os.truncate(partial, 500_000)
    server.requests.clear()
    assert download(f"{server.url}/a.bin", target).read_bytes() == CONTENT
    assert ranges(server) == ["bytes=500000-"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 512 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_too_small_is_not_filled(server, small_disk) -> None:
    with pytest.raises(DownloadError, match=f"{len(CONTENT)} bytes are still to come.* left"):
        download(f"{server.url}/a.bin", small_disk / "a.bin")
    assert not [p for p in small_disk.iterdir() if p.stat().st_size]


def test_a_disk_that_fills_up_keeps_what_came_and_goes_on_with_more_room(
    server, small_disk
) -> None:
    server.silent_about_size = True
    with pytest.raises(DownloadError, match=os.strerror(errno.ENOSPC)):
        download(f"{server.url}/a.bin", small_disk / "a.bin")
    assert len(server.requests) == 1
    partial = small_disk / ".a.bin.partial"
    n_kept = partial.stat().st_size
    assert 400_000 < n_kept < 524_289
    assert partial.read_bytes() == CONTENT[:n_kept]
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    assert download(f"{server.url}/a.bin", small_disk / "a.bin").read_bytes() == CONTENT
    assert ranges(server)[-1] == f"bytes={n_kept}-"
