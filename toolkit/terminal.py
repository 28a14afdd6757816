"""What a command prints: foreign text as text, on terminals and in pipes of any encoding.

Names, messages and logs come from configs, data sets, libraries and other people's run folders. On
their way out nothing in them is taken for markup of Rich or for a command to the terminal.
"""

from __future__ import annotations

import argparse
import codecs
import io
import os
import re
import select
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

EXIT_UNREAD = 1

# Control characters, line breaks, what turns the direction of writing, halves of characters.
_CONTROL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)

# What our own words hold beyond ASCII, where the encoding of a stream lacks it.
_PLAIN = str.maketrans(
    {
        "·": "-",
        "–": "-",
        "−": "-",
        "×": "x",
        "→": "->",
        "…": "...",
        "°": " deg",
        "²": "^2",
        "√": "sqrt ",
        "±": "+-",
        "≤": "<=",
        "μ": "u",
    }
)
_IN_PLAIN_LETTERS = "toolkit.in_plain_letters"
_WIDTH_OF_A_FILE = 200  # columns


def visible(text: str, keep: str = "\n\t") -> str:
    r"""The text with what a terminal does not print as Python would write it, such as ``\x1b``.

    These are control characters, marks that change the direction of writing, spaces other than the
    space, and halves of characters.

    Parameters
    ----------
    text
        Any text.
    keep
        Characters that stay.
    """
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() or c in keep else c.encode("unicode_escape").decode("ascii")
        for c in text
    )


def one_line(text: str) -> str:
    """The same with line breaks and tabs written out too."""
    return visible(text, keep="")


def control_character(text: str) -> str | None:
    """The first character that no name, path or option may hold, written out; None without one."""
    found = _CONTROL.search(text)
    return one_line(found[0]) if found else None


def not_empty(text: str) -> str:
    """A word of a command line; empty it is what a variable of the shell gives that was never set.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty")
    return text


def make_console(**options: Any) -> Console:
    """A console on which ``[bold]`` is six letters, wherever it is: in a line, a table, a title.

    Parameters
    ----------
    **options
        Where it prints and how wide, as :class:`rich.console.Console` takes them. What is no
        terminal and has no ``COLUMNS`` is wide enough to break no path.
    """
    from rich.console import Console
    from rich.text import Text

    class PlainConsole(Console):
        def render_str(self, text: str, **options: Any) -> Text:
            return super().render_str(visible(text), **options)

    console = PlainConsole(markup=False, highlight=False, emoji=False, **options)
    if not (console.is_terminal or "width" in options or "COLUMNS" in os.environ):
        console.width = _WIDTH_OF_A_FILE
    return console


def run_command(command: Callable[[], int]) -> int:
    """Run a command line whose output may go into any encoding, and to a reader who leaves early.

    Where there is no standard output or error, what is printed there goes nowhere.

    Parameters
    ----------
    command
        Gives the exit status.

    Returns
    -------
    The exit status; 1 if nobody reads the output any more.
    """
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # it was closed by who started this process
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_IN_PLAIN_LETTERS)
    try:
        try:
            return command()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        if not _is_unread():
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_UNREAD


def _is_unread() -> bool:
    """Whether the other end of standard output is closed."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _in_plain_letters(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    text = error.object[error.start : error.end].translate(_PLAIN)
    return text.encode("ascii", "backslashreplace").decode("ascii"), error.end


codecs.register_error(_IN_PLAIN_LETTERS, _in_plain_letters)
