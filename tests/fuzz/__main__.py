"""`python -m tests.fuzz --inputs N --seed S [--target NAME ...]`: fuzzes the decoders and writes a report as JSON.

```
this process ── "packets 0 2000" ──► worker ── one JSON line for each range of inputs ──► report
                                       └── writes the number of each input before it runs it: what killed it is known
```
A worker that dies, or stands still, is a finding; another takes over behind the input that did it. Everything
follows from the seed: `--target NAME --only NUMBER` runs one input again, in this process and with its whole trace.
"""

import faulthandler
import json
import mmap
import os
import resource
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from pathlib import Path
from typing import Any, Final

import click
import torch

from .runner import Outcome, run
from .targets import TARGETS

_CHUNK: Final = 500  # inputs of a share of 1 that a worker is given at a time
_STILL_S: Final = 120.0  # without a new input; on a busy machine an input may take many times its processor time
_ADDRESS_SPACE: Final = 6 << 30  # beyond what a worker has at its start; ends what would fill the machine
_NUMBER_BYTES: Final = 8

Range = tuple[str, int, int]
"""A target's name, and its inputs from one number up to another."""


# ---- worker ----------------------------------------------------------------------------------------


def _work(seed: int, shared: str, stop_s: float) -> None:
    """Runs the ranges that come as lines, until there are no more."""
    torch.set_num_threads(1)  # there are as many workers as cores
    with Path(shared).open("r+b") as file:
        window = mmap.mmap(file.fileno(), _NUMBER_BYTES)
    faulthandler.enable(Path(shared + ".trace").open("w"))  # noqa: SIM115 - must stay open to the end
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + _ADDRESS_SPACE, resource.RLIM_INFINITY))
    targets: dict[str, Any] = {}

    def announce(number: int) -> None:
        window[:] = (number + 1).to_bytes(_NUMBER_BYTES, "little")

    for line in sys.stdin:
        name, start, stop = line.split()
        announce(-1)
        warm = name in targets
        target = targets[name] if warm else targets.setdefault(name, TARGETS[name]())
        _hush()
        outcome = run(target, seed, range(int(start), int(stop)), announce, stop_s, warm=warm)
        print(json.dumps(outcome.to_json()), flush=True)


def _hush() -> None:
    """Picture libraries write to the error output about every damaged file."""
    with Path(os.devnull).open("w") as nothing:
        os.dup2(nothing.fileno(), 2)


class _Worker:
    """A worker process."""

    def __init__(self, seed: int, stop_s: float, folder: Path) -> None:
        self._shared = folder / f"worker-{threading.get_ident()}"
        self._shared.write_bytes(bytes(_NUMBER_BYTES))
        command = [sys.executable, "-m", "tests.fuzz", "--seed", str(seed), "--worker", str(self._shared)]
        command += ["--stop-at", str(stop_s)]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, bufsize=1)

    def run(self, wanted: Range) -> tuple[dict[str, Any] | None, int, str]:
        """Runs a range.

        Returns:
            The outcome as JSON, or None, the number of the input that ended the worker, and how.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._shared.write_bytes(bytes(_NUMBER_BYTES))
        try:
            print(*wanted, file=self._process.stdin, flush=True)
        except BrokenPipeError:
            return None, wanted[1], "broken pipe"
        last, since_s = -1, time.monotonic()
        while not select.select([self._process.stdout], [], [], 1.0)[0]:
            number = self._number()
            if number != last:
                last, since_s = number, time.monotonic()
            elif time.monotonic() - since_s > _STILL_S:
                self._process.kill()
                self._process.wait()
                return None, number, f"stood still for {_STILL_S:.0f} s"
        line = self._process.stdout.readline()
        if line:
            return json.loads(line), 0, ""
        return None, self._number(), f"exit code {self._process.wait()}, {self._trace()}"

    def _number(self) -> int:
        return int.from_bytes(self._shared.read_bytes(), "little") - 1

    def _trace(self) -> str:
        path = Path(f"{self._shared}.trace")
        return " ".join(path.read_text().split())[:300] if path.exists() else ""

    def close(self) -> None:
        """Lets it end."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


# ---- all of them -----------------------------------------------------------------------------------


def ranges_of(names: list[str], inputs: int) -> list[Range]:
    """Splits a number of inputs among targets by their shares, in turns, so that an early end finds all begun."""
    shares = {name: _SHARES.get(name, 1.0) for name in names}
    left = {name: round(inputs * share / sum(shares.values())) for name, share in shares.items()}
    begun, found = dict.fromkeys(names, 0), []
    while any(left.values()):
        for name in names:
            size = min(left[name], max(round(_CHUNK * shares[name]), 10))
            if size:
                found.append((name, begun[name], begun[name] + size))
                begun[name] += size
                left[name] -= size
    return found


_SHARES: Final = {
    "packets": 6.0,
    "reports": 6.0,
    "headers": 6.0,
    "feedback": 6.0,
    "sender": 1.0,
    "repair": 3.0,
    "repair-making": 1.0,
    "fragments": 3.0,
    "container": 3.0,
    "journal": 3.0,
    "level-map-ladder": 2.0,
    "weights": 2.0,
    "traces": 2.0,
    "level-map-entropy": 0.3,
    "background": 0.3,
    "pictures": 0.5,
    "relevance-maps": 0.3,
    "bodies-entropy": 0.1,
    "bodies-entropy-cut": 0.1,
    "lossless": 0.1,
    "stream-ladder": 0.1,
    "stream-entropy": 0.05,
    "revisions-ladder": 0.1,
    "revisions-entropy": 0.05,
    "replanning-ladder": 0.1,
    "replanning-entropy": 0.02,
    "files": 0.05,
    "models": 0.05,
    "queries": 1.0,
    "units": 3.0,
    "tokens": 3.0,
    "status-details": 3.0,
    "link-settings": 1.0,
    "transmit-ladder": 0.5,
    "transmit-entropy": 0.05,
    "rpc-receiver": 0.2,
    "rpc-channel": 0.1,
    "rpc-set-link": 0.05,
    "rpc-transmitter": 0.1,
    "rpc-taking-up": 0.03,
    "rpc-answers": 0.05,
    "rpc-transmitter-whole": 0.01,
}
"""How many inputs a target gets, relative to the others: what costs a thousand times as much gets fewer."""


def _drain(todo: deque[Range], seed: int, stop_s: float, folder: Path, outcomes: dict[str, Outcome]) -> None:
    worker: _Worker | None = None
    while todo and time.monotonic() < stop_s:
        worker = worker or _Worker(seed, stop_s, folder)
        wanted = todo.popleft()
        found, number, how = worker.run(wanted)
        outcome = outcomes.setdefault(wanted[0], Outcome(wanted[0]))
        if found is None:
            worker = None
            outcome.note("death" if "still" not in how else "hang", how, number, ())
            if 0 <= number < wanted[2] - 1:
                todo.appendleft((wanted[0], number + 1, wanted[2]))
        else:
            _add(outcome, found)
    if worker is not None:
        worker.close()


def _add(outcome: Outcome, found: dict[str, Any]) -> None:
    outcome.inputs += found["inputs"]
    outcome.accepted += found["accepted"]
    outcome.refused += Counter(found["refused"])
    outcome.seconds += found["seconds"]
    outcome.grown_bytes += found["grown_bytes"]
    if found["slowest_s"] > outcome.slowest_s:
        outcome.slowest_s, outcome.slowest_number = found["slowest_s"], found["slowest_number"]
    outcome.most_bytes = max(outcome.most_bytes, found["most_bytes"])
    outcome.most_traced_bytes = max(outcome.most_traced_bytes, found["most_traced_bytes"])
    for item in found["findings"]:
        for number, sample in zip(item["numbers"], item["inputs"], strict=True):
            outcome.note(item["kind"], item["what"], number, tuple(map(bytes.fromhex, sample)))
        known = next(f for f in outcome.findings if (f.kind, f.what) == (item["kind"], item["what"]))
        known.count += item["count"] - len(item["numbers"])


def _report(outcomes: dict[str, Outcome], seed: int, wall_s: float) -> dict[str, Any]:
    done = [outcomes[name] for name in TARGETS if name in outcomes]
    inputs = sum(outcome.inputs for outcome in done)
    return {
        "seed": seed,
        "inputs": inputs,
        "bad_inputs": sum(outcome.bad for outcome in done),
        "wall_s": round(wall_s, 1),
        "inputs_per_s": round(inputs / max(wall_s, 1e-9), 1),
        "targets": [outcome.to_json() for outcome in done],
    }


def _again(name: str, seed: int, number: int) -> None:
    """Runs one input with nothing around it."""
    target = TARGETS[name]()
    sample = target.input(seed, number)
    click.echo(f"{name} {number}: {[len(part) for part in sample]} bytes")
    try:
        target.decode(sample)
    except target.errors as error:
        click.echo(f"refused: {error!r}")
    else:
        click.echo("accepted")


@click.command(context_settings={"show_default": True})
@click.option("--inputs", type=click.IntRange(1), default=20_000, help="Of all targets together.")
@click.option("--seed", type=click.IntRange(0), default=0, help="The same seed makes the same inputs.")
@click.option("--target", "names", multiple=True, type=click.Choice(sorted(TARGETS)), help="Default: all of them.")
@click.option("--only", type=click.IntRange(0), help="Runs this input of the one target again.")
@click.option("--seconds", type=click.FloatRange(1), help="Ends after that time, however many inputs are left.")
@click.option("--jobs", type=click.IntRange(1), default=1, help="Worker processes.")
@click.option("--json", "path", type=click.Path(path_type=Path), default=Path("out/fuzz.json"), help="The report.")
@click.option("--worker", "shared", hidden=True)
@click.option("--stop-at", type=float, hidden=True)
def main(
    inputs: int,
    seed: int,
    names: tuple[str, ...],
    only: int | None,
    seconds: float | None,
    jobs: int,
    path: Path,
    shared: str | None,
    stop_at: float | None,
) -> None:
    """Damages real inputs of every decoder and counts crashes, hangs and memory without bound: exit code 1 if any."""
    if shared is not None:
        _work(seed, shared, float("inf") if stop_at is None else stop_at)
        return
    if only is not None:
        _again(*names, seed=seed, number=only)
        return
    start_s = time.monotonic()
    stop_s = start_s + (seconds or float("inf"))
    todo, outcomes = deque(ranges_of(list(names or TARGETS), inputs)), dict[str, Outcome]()
    with tempfile.TemporaryDirectory(prefix="mmsc-fuzz-") as folder:
        arguments = (todo, seed, stop_s, Path(folder), outcomes)
        threads = [threading.Thread(target=_drain, args=arguments) for _ in range(jobs)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            threads[0].join(10)
            _save(path, _report(dict(outcomes), seed, time.monotonic() - start_s))
    report = _report(outcomes, seed, time.monotonic() - start_s)
    _save(path, report)
    _tell(report)
    sys.exit(1 if report["bad_inputs"] else 0)


def _save(path: Path, report: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


def _tell(report: dict[str, Any]) -> None:
    for target in report["targets"]:
        taken = f"{target['most_bytes'] / 2**20:.0f} MiB, {target['slowest_s']:.2f} s at most"
        taken += f", {target['grown_bytes'] / 2**20:+.0f} MiB in all"
        click.echo(f"{target['target']:20} {target['inputs']:8} inputs {target['inputs_per_s']:9.1f}/s  {taken}")
        for finding in target["findings"]:
            click.echo(f"  {finding['kind']}: {finding['what']} ({finding['count']}: {finding['numbers']})")
    click.echo(f"{report['inputs']} inputs, {report['bad_inputs']} of them bad")


if __name__ == "__main__":
    main()
