"""Who may import whom, as docs/architecture.md draws it, and what must stay light."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

MAY_IMPORT = {
    "atomic": set(),
    "download": set(),
    "task": set(),
    "yaml_reader": set(),
    "terminal": set(),
    "yaml_source": {"yaml_reader"},
    "metrics": set(),
    "data": {"atomic", "download", "metrics", "terminal", "yaml_source"},
    "models": {"download"},
    "config": {"task", "terminal", "yaml_source"},
    "cluster": {"atomic", "task", "terminal", "yaml_source"},
    "features": {"atomic", "data", "models"},
    "encoding": {"features", "metrics"},
    "training": {"atomic", "data", "metrics", "models"},
    "results": {"atomic", "cluster", "task", "terminal"},
    "catalog": {"atomic", "download", "models", "task"},
    "plan": {
        "catalog",
        "config",
        "data",
        "encoding",
        "features",
        "models",
        "task",
        "training",
        "yaml_source",
    },
    "forecast": {"cluster", "plan", "results", "task", "terminal"},
    "report": {"atomic", "cluster", "data", "encoding", "metrics", "plan", "results", "task"},
    "verbs": {"*"},
    "sweep": {"verbs", "cluster", "terminal", "yaml_source"},
}


def rooms() -> list[Path]:
    return [p for p in sorted((ROOT / "toolkit").iterdir()) if not p.name.startswith("__")]


def imported_rooms(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "jobs":
                found.add("jobs")
            if (
                parts[0] == "toolkit"
                and len(parts) > 1
                and (ROOT / "toolkit").joinpath(parts[1]).exists()
            ) or (
                parts[0] == "toolkit"
                and len(parts) > 1
                and (ROOT / "toolkit" / f"{parts[1]}.py").exists()
            ):
                found.add(parts[1])
    return found


@pytest.mark.parametrize("room", rooms(), ids=lambda path: path.name)
def test_rooms_import_only_what_the_house_allows(room: Path) -> None:
    name = room.stem
    allowed = MAY_IMPORT[name]
    for file in [room] if room.is_file() else sorted(room.rglob("*.py")):
        extra = imported_rooms(file) - {name} - allowed
        assert "*" in allowed or not extra, f"{file.relative_to(ROOT)} imports {sorted(extra)}"


@pytest.mark.parametrize(
    "code",
    [
        "import toolkit",
        "import toolkit.config, toolkit.plan",
        "import toolkit.sweep as s; s._parser()",
    ],
)
def test_torch_is_not_imported_before_it_is_needed(code: str) -> None:
    check = f"{code}\nimport sys\nprint(*sorted({{'torch', 'dask', 'zarr'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_help_is_worth_reading_and_quick_to_get() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "toolkit.sweep", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    for verb in ("plan", "status", "logs", "retry", "cancel", "collect"):
        assert verb in done.stdout
    assert " torch\n" not in done.stderr
