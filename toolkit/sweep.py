"""Predict neurons from networks: plan a sweep, run it, see how it stands, collect its scores.

    python -m toolkit.sweep CONFIG             run everything that is not done yet
    python -m toolkit.sweep plan CONFIG        what would run, and how large it is
    python -m toolkit.sweep status RUN         how far a run is, and why tasks wait or failed
    python -m toolkit.sweep logs RUN [TASK]    the end of a task's log
    python -m toolkit.sweep retry RUN          run the failed tasks of a run again
    python -m toolkit.sweep cancel RUN         stop a run; what is done stays done
    python -m toolkit.sweep collect RUN        write the result tables from what is there
    python -m toolkit.sweep report RUN...      one HTML page of a run, or of several side by side

Exit status: 0 everything is done; 1 some tasks are not, their rows say why, or a disk failed; 2 the
config or the command is wrong and nothing was started.
"""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Callable, Sequence

from rich.console import Console

from toolkit.terminal import make_console, not_empty, run_command
from toolkit.yaml_source import ConfigError

EXIT_DONE, EXIT_UNFINISHED, EXIT_REFUSED = 0, 1, 2

EXECUTORS = ("inprocess", "local", "slurm")
_BUG = (
    "This is a fault of the toolkit, not of your config: please report it, with the command, the "
    "config and the lines above."
)
VERBS = ("run", "plan", "status", "logs", "retry", "cancel", "collect", "report")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words and words[0] not in VERBS and words[0] not in ("-h", "--help"):
        words.insert(0, "run")
    options = _parser().parse_args(words)
    from toolkit import verbs
    from toolkit.cluster.run_folder import RunFolderError

    act: Callable[[argparse.Namespace, Console], int] = getattr(verbs, options.verb)
    try:
        return act(options, make_console())
    except (ConfigError, RunFolderError) as error:
        make_console(stderr=True).print(str(error), soft_wrap=True)
        return EXIT_REFUSED
    except KeyboardInterrupt:
        return EXIT_UNFINISHED
    except BrokenPipeError:
        raise
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"{where}{error.strerror or error}", file=sys.stderr)
        return EXIT_UNFINISHED
    except Exception:
        traceback.print_exc()
        print(_BUG, file=sys.stderr)
        return EXIT_UNFINISHED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m toolkit.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="python -m toolkit.sweep [VERB] CONFIG|RUN [options]   (VERB -h: its options)",
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB", title="verbs")
    run = verbs.add_parser("run", help="run everything that is not done yet (the default)")
    plan = verbs.add_parser("plan", help="what would run, and how large it is")
    for verb in (run, plan):
        verb.add_argument(
            "config", type=not_empty, help="YAML file, such as configs/quickstart.yaml"
        )
        verb.add_argument(
            "--out", type=not_empty, metavar="DIR", help="run folder; runs/NAME if left out"
        )
        verb.add_argument(
            "--set",
            dest="overrides",
            metavar="KEY=VALUE",
            action="append",
            default=[],
            help="replace a value of the config: dataset.seed=1, models.0.weights=pretrained "
            "(repeatable)",
        )
    for verb in (run, plan):
        verb.add_argument(
            "--profile",
            type=not_empty,
            metavar="SITE",
            help="of slurm/profiles, or a .yaml file (slurm)",
        )
    status = _add_verb_on_run(verbs, "status", "how far a run is, and why tasks wait or failed")
    status.add_argument("--watch", action="store_true", help="go on showing it until it is over")
    logs = _add_verb_on_run(verbs, "logs", "the end of a task's log")
    logs.add_argument(
        "task", nargs="?", help="task id or part of its label; the latest log if left out"
    )
    logs.add_argument("-n", dest="n_lines", type=int, default=40, help="lines to show (40)")
    retry = _add_verb_on_run(verbs, "retry", "run the failed tasks of a run again")
    retry.add_argument(
        "--class",
        type=not_empty,
        dest="error_class",
        metavar="CLASS",
        help="only failures of this class",
    )
    retry.add_argument(
        "--error",
        type=not_empty,
        metavar="REGEX",
        help="only failures whose message matches this expression",
    )
    for verb, places in ((run, EXECUTORS), (plan, EXECUTORS), (retry, EXECUTORS[:2])):
        verb.add_argument(
            "--executor", choices=places, help="where jobs run; as before, or the config's"
        )
    for verb in (run, retry):
        verb.add_argument(
            "--detach", action="store_true", help="return when all is submitted, or run on behind"
        )
    _add_verb_on_run(verbs, "cancel", "stop a run; what is done stays done")
    _add_verb_on_run(verbs, "collect", "write the result tables from what is there")
    report = verbs.add_parser("report", help="one HTML page of a run, or of several side by side")
    report.add_argument("runs", type=not_empty, nargs="+", metavar="RUN", help="run folder")
    report.add_argument(
        "--out",
        type=not_empty,
        metavar="FILE",
        help="the page; report.html of the run if left out",
    )
    report.add_argument(
        "--figures", action="store_true", help="also each figure as PNG, SVG and PDF, beside it"
    )
    return parser


def _add_verb_on_run(
    verbs: argparse._SubParsersAction, name: str, text: str
) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    verb.add_argument("run", type=not_empty, help="run folder, such as runs/quickstart")
    return verb


if __name__ == "__main__":
    sys.exit(run_command(main))
