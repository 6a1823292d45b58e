"""What a bench measured, against what was promised."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

OUT = Path("out/bench")
"""Where the results go, under the working directory."""


@dataclass(frozen=True)
class Check:
    """One figure and its bar."""

    name: str
    value: float
    """The figure, in `unit`."""
    unit: str
    bar: str
    """What it must keep, like `<= 1`; empty where it is only reported."""
    ok: bool
    """Whether it keeps the bar."""


def write(name: str, checks: Sequence[Check]) -> None:
    """Prints the checks as a table and writes them to out/bench/NAME.json."""
    show(name, checks)
    save(OUT / f"{name}.json", checks)


def show(title: str, checks: Sequence[Check]) -> None:
    """Prints the checks as a table."""
    table = Table(title=title)
    for column in ("check", "value", "unit", "bar", ""):
        table.add_column(column, justify="right" if column == "value" else "left")
    for check in checks:
        verdict = ("[green]ok[/]" if check.ok else "[red]missed[/]") if check.bar else ""
        table.add_row(check.name, f"{check.value:.4g}", check.unit, check.bar, verdict)
    Console().print(table)


def save(path: Path, checks: Sequence[Check]) -> None:
    """Writes the checks as JSON, `{"checks": [{name, value, unit, bar, ok}]}`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"checks": [asdict(check) for check in checks]}
    path.write_text(json.dumps(content, indent=2) + "\n")
