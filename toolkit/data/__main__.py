"""Data sets: what there is, fetching them, and how good they are.

    python -m toolkit.data list                     what can be fetched, and what is here
    python -m toolkit.data fetch NAME               fetch a data set, its hashes checked
    python -m toolkit.data describe NAME|PATH       counts, ceilings, drift, duplicates, leaks

Exit status: 0 done; 2 the command, the network or the data are not as they should be.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from toolkit.terminal import make_console, not_empty, one_line, run_command, visible

EXIT_DONE, EXIT_REFUSED = 0, 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        options.act(options)
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        print(visible(str(error)), file=sys.stderr)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        print("Stopped; the same command goes on from there.", file=sys.stderr)
        return EXIT_REFUSED
    return EXIT_DONE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m toolkit.data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="python -m toolkit.data VERB [options]   (VERB -h: its options)",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", title="verbs")

    listing = verbs.add_parser("list", help="what can be fetched, and what is here")
    listing.set_defaults(act=_list)

    fetch = verbs.add_parser("fetch", help="fetch a data set, its hashes checked")
    fetch.add_argument("name", metavar="NAME", help="majaj_hong, nx414 or xiao2024")
    fetch.add_argument("--to", type=_path, metavar="DIR", help="where to put it (see list)")
    fetch.add_argument(
        "--from",
        type=not_empty,
        dest="source",
        metavar="DIR|URL",
        help="a folder or mirror that has the files side by side, or nx414's file itself",
    )
    fetch.add_argument(
        "--session",
        dest="sessions",
        action="append",
        default=[],
        metavar="NAME",
        help="a session of xiao2024, such as sub-An_ses-20220105T173929; may be repeated",
    )
    fetch.add_argument("--sha256", metavar="HEX", help="hash of nx414's file, if you know it")
    fetch.set_defaults(act=_fetch)

    describe = verbs.add_parser("describe", help="what a data set holds and how good it is")
    describe.add_argument(
        "source",
        type=not_empty,
        metavar="NAME|PATH",
        help="a fetched data set, an .nwb session or folder of them, an assembly (.nc) beside its "
        ".csv and .zip, IT_data.h5, or a config (.yaml) with a dataset",
    )
    describe.add_argument("--html", type=_path, metavar="FILE", help="write a page with plots too")
    describe.add_argument(
        "--set",
        dest="overrides",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a key of the dataset section: regions=[V4], label_table=faces.csv; may be repeated",
    )
    describe.set_defaults(act=_describe)
    return parser


def _list(_: argparse.Namespace) -> None:
    from toolkit.data.archive import ARCHIVES

    for archive in ARCHIVES.values():
        print(f"{archive.name}: {archive.about}")
        if archive.remark:
            print(f"  {archive.remark}")
        here = (
            sorted(p.name for p in Path(archive.folder).glob("*.nwb")) if archive.by_session else []
        )
        print(f"  {archive.folder}/" + (f": {len(here)} files here" if archive.by_session else ""))
        for file in archive.files:
            is_here = (Path(archive.folder) / file.name).is_file()
            digest = f"{file.digest.algorithm} {file.digest.digits}" if file.digest else "no hash"
            print(f"    {file.name}  {digest}{'  (here)' if is_here else ''}")


def _fetch(options: argparse.Namespace) -> None:
    from toolkit.data.fetch import Fetched, fetch

    files: list[Fetched] = []
    try:
        with _progress_bar() as progress:
            for file in fetch(
                options.name,
                to=options.to,
                source=options.source,
                sessions=options.sessions,
                sha256=options.sha256,
                progress=progress,
            ):
                files.append(file)
    finally:
        for file in files:
            how = "hash verified" if file.is_verified else "no hash known to compare with"
            print(one_line(f"{file.path}  sha256 {file.sha256}  ({how})"))


def _describe(options: argparse.Namespace) -> None:
    from toolkit.data.quality import assess
    from toolkit.data.report import as_text, write_page
    from toolkit.data.sources import before_onset_at, dataset_at

    quality = assess(
        dataset_at(options.source, options.overrides),
        before_onset_at(options.source, options.overrides),
    )
    print(visible(as_text(quality)))
    if options.html is not None:
        write_page(options.html, quality)
        print(f"\n{one_line(str(options.html))}")


@contextmanager
def _progress_bar() -> Iterator[Callable[[str, int, int | None], None]]:
    """A bar per file on a terminal, nothing elsewhere."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TaskID,
        TextColumn,
        TransferSpeedColumn,
    )

    console = make_console(stderr=True)
    bars: dict[str, TaskID] = {}
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    silent = not console.is_terminal
    with Progress(*columns, console=console, transient=True, disable=silent) as display:

        def show(name: str, n_bytes: int, n_total: int | None) -> None:
            if name not in bars:
                bars[name] = display.add_task(one_line(name), total=n_total)
            display.update(bars[name], completed=n_bytes, total=n_total)

        yield show


def _path(text: str) -> Path:
    return Path(not_empty(text))


if __name__ == "__main__":
    sys.exit(run_command(main))
