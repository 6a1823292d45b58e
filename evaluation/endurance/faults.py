"""`python -m evaluation.endurance.faults`: are the three services as robust as they promise to be?

```
round ─► four transmissions at once ─► a fault in their midst ─► mended ─► every promise checked
draws           calls                       inject                           rounds, stored
```
The services are real processes; the faults are SIGKILL, SIGSTOP, a bad or dead link, a full disk and a wall clock
that jumps. Results are kept as they come (`FILE.partial.jsonl`): an interrupted run goes on with the next round, on
a new store.
"""

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Final

import click
from rich.console import Console

from evaluation.bench.checks import OUT, Check, show
from evaluation.endurance.clock import compiler, jumping_clock
from evaluation.endurance.disk import Disk, can_mount, disk_at, run_again_on_a_disk
from evaluation.endurance.draws import KINDS, Round, draw
from evaluation.endurance.log import Log
from evaluation.endurance.rounds import PROMISES, STALL_TIMEOUT_S, Rounds
from evaluation.endurance.services import Services
from evaluation.partial import Partial, Record, check_result, write_whole
from shared.errors import MmscError

_MODULE: Final = "evaluation.endurance.faults"
_FEWEST_BYTES: Final = 16_000_000
_ROUND_BYTES: Final = 150_000
"""Room on the disk that a round takes at most."""

_CHECK_ALL: Final = 100
"""After so many rounds every picture that there ever was is asked for."""

_AGE_S: Final = 100 * 365 * 86_400
"""Nothing gets too old, whatever the clock says."""


@click.command(context_settings={"show_default": True})
@click.option("--faults", "count", type=click.IntRange(1), default=1000, help="Rounds, each with one fault.")
@click.option("--seed", type=int, default=0, help="Of what is sent, what goes wrong, and when.")
@click.option("--clients", type=click.IntRange(1, 16), default=4, help="Transmissions at once.")
@click.option("--kind", "kinds", type=click.Choice(KINDS), multiple=True, help="Only these faults; may be repeated.")
@click.option("--json", "path", type=click.Path(path_type=Path), default=OUT / "faults.json", help="Result file.")
@click.option("--restart", is_flag=True, help="Throw away what an earlier run left.")
@click.option("--disk", type=click.Path(path_type=Path), default=None, hidden=True)
def main(
    *, count: int, seed: int, clients: int, kinds: tuple[str, ...], path: Path, restart: bool, disk: Path | None
) -> None:
    """Strikes the services with seeded faults, and checks after each that all is as promised."""
    if disk is None and can_mount():
        folder = Path(tempfile.mkdtemp(prefix="mmsc-disk-"))
        size_bytes = _FEWEST_BYTES + count * _ROUND_BYTES
        run_again_on_a_disk(folder, size_bytes, ["-m", _MODULE, *sys.argv[1:], "--disk", str(folder)])
    console = Console(stderr=True)
    chosen = kinds or tuple(kind for kind in KINDS if compiler() or not kind.startswith("clock"))
    header = {"seed": seed, "clients": clients, "kinds": list(chosen)}
    try:
        check_result(path, ("checks",), console.print)
        with Partial(path, header, console.print, restart=restart) as partial:
            missing = range(len(partial.records), count)
            about = _run(partial, [draw(seed, number, chosen, clients) for number in missing], disk, console)
            checks = checked(partial.records)
            content = {"checks": [asdict(check) for check in checks], **header, **about}
            broken = [record for record in partial.records if record["broken"]]
            write_whole(path, {**content, "broken": broken, "rounds": partial.records})
        partial.path.unlink()
    except MmscError as error:
        raise click.ClickException(str(error)) from error
    show("faults", checks)
    sys.exit(not all(check.ok for check in checks))


def checked(records: Sequence[Record]) -> list[Check]:
    """The promises and what happened to them.

    Args:
        records: of all rounds.
    """
    broken = Counter(dict.fromkeys(PROMISES, 0))
    codes: Counter[str] = Counter()
    taken_up: Counter[str] = Counter()
    for record in records:
        broken.update({promise: len(words) for promise, words in record["broken"].items()})
        codes.update(record["codes"])
        taken_up.update(record["taken_up"])
    checks = [Check(promise, count, "", "<= 0", count <= 0) for promise, count in broken.items()]
    told = {
        "faults": len(records),
        "transmissions": codes.total(),
        "transmissions that were accepted": sum(record["accepted"] for record in records),
        **{f"transmissions that ended {code.lower()}": number for code, number in sorted(codes.items())},
        **{f"asked for once more, ended {code.lower()}": number for code, number in sorted(taken_up.items())},
        "transmissions that broke and were taken up again": sum(record["resumed"] for record in records),
        "delivered, not all on the disk when the receiver was killed": sum(record["lost"] for record in records),
    }
    checks += [Check(name, number, "", "", ok=True) for name, number in told.items()]
    longest_s = max(record["longest_s"] for record in records)
    return [*checks, Check("longest transmission", longest_s, "s", "", ok=True)]


def _run(partial: Partial, rounds: Sequence[Round], own_disk: Path | None, console: Console) -> Record:
    """Runs rounds; gives what the faults were made of.

    Raises:
        UnavailableError, DeadlineError: the services do not start.
    """
    log = Log()
    with disk_at(own_disk) as disk, tempfile.TemporaryDirectory() as folder, jumping_clock(Path(folder)) as clock:
        with Services(_arguments(disk), log) as services:
            runner = Rounds(services, disk, clock, log)
            for drawn in rounds:
                record = _record(drawn, runner)
                partial.append([record])
                console.print(_line(record), highlight=False, soft_wrap=True)
        return {"disk": disk.name}


def _record(drawn: Round, runner: Rounds) -> Record:
    """Runs one round."""
    start_s = time.monotonic()
    result = runner.run(drawn)
    if drawn.number % _CHECK_ALL == _CHECK_ALL - 1:
        runner.check_all(result)
    return {"round": drawn.number, **asdict(result), "took_s": round(time.monotonic() - start_s, 2)}


def _line(record: Record) -> str:
    ends = ", ".join(f"{number} {code.lower()}" for code, number in sorted(record["codes"].items()))
    again = ", ".join(f"{number} {code.lower()}" for code, number in sorted(record["taken_up"].items()))
    ends += f" (once more: {again})" if again else ""
    words = "; ".join(f"[red]{promise}: {'; '.join(how)}[/]" for promise, how in record["broken"].items())
    return f"{record['round']:5}  {record['kind']:24}  {record['took_s']:5.1f} s  {ends}  {words}"


def _arguments(disk: Disk) -> dict[str, tuple[str, ...]]:
    return {
        "receiver": ("--store", str(disk.store), "--store-age", str(_AGE_S)),
        "transmitter": ("--stall-timeout", str(STALL_TIMEOUT_S)),
    }


if __name__ == "__main__":
    main()
