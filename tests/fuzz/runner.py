"""Runs one decoder on damaged inputs and says what it did wrong: crash, hang, or memory without bound.

An input follows from (seed, target, number) alone, so that a finding is named by its number and can be run again.
"""

import contextlib
import gc
import random
import resource
import signal
import time
import traceback
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from .mutations import Sample, mutated

_MIB = 1024 * 1024
_TRACED_EVERY = 50  # inputs; tracing makes a decoder several times slower
_KEPT_INPUTS = 3  # of each finding
_BLIND = 0.3  # of the inputs whose format is known, those that are damaged all the same as if it were not


@dataclass(frozen=True)
class Target:
    """A decoder of bytes from outside."""

    name: str
    corpus: Sequence[Sample]
    """Real inputs."""
    decode: Callable[[Sample], object]
    errors: tuple[type[Exception], ...]
    """What it may raise, and nothing else."""
    limit_s: float = 2.0
    """Processor time that one input may take."""
    limit_bytes: int = 64 * _MIB
    """Memory that one input may take, beyond what the process held before."""
    seal: Callable[[bytes], bytes] | None = None
    """Puts checksums right."""
    tokens: Sequence[bytes] = ()
    """Words of the format, where it has such."""
    change: Callable[[random.Random, Sample], Sample] | None = None
    """Damage that knows the format: most inputs get it, some of these the other kind as well."""

    def input(self, seed: int, number: int) -> Sample:
        """The damaged input of a number."""
        rng = random.Random(f"{seed}/{self.name}/{number}")
        if self.change is None or rng.random() < _BLIND:
            return mutated(rng, self.corpus, self.seal, self.tokens)
        sample = self.change(rng, rng.choice(self.corpus))
        return mutated(rng, [sample], self.seal, self.tokens) if rng.random() < _BLIND else sample


@dataclass
class Finding:
    """Something that a decoder did wrong, however often."""

    kind: str
    """"crash", "hang", "memory" or "death" (of the process)."""
    what: str
    """The error and where it was raised, or the amount."""
    count: int = 0
    numbers: list[int] = field(default_factory=list)
    inputs: list[list[str]] = field(default_factory=list)
    """In hexadecimal, of the first few."""


@dataclass
class Outcome:
    """What a run came to."""

    target: str
    inputs: int = 0
    accepted: int = 0
    """Inputs that were decoded to something."""
    refused: Counter[str] = field(default_factory=Counter)
    """Inputs that were answered with an error of its kind, by its name."""
    seconds: float = 0.0
    slowest_s: float = 0.0
    slowest_number: int = -1
    most_bytes: int = 0
    """Most memory that an input took, by the process's size."""
    most_traced_bytes: int = 0
    """Most memory that Python and numpy allocated for an input, of those that were traced."""
    grown_bytes: int = 0
    """By how much the process has grown from the first input to the last."""
    findings: list[Finding] = field(default_factory=list)

    @property
    def bad(self) -> int:
        """Inputs that something went wrong with."""
        return sum(finding.count for finding in self.findings)

    def note(self, kind: str, what: str, number: int, sample: Sample) -> None:
        """Counts a finding."""
        found = next((f for f in self.findings if (f.kind, f.what) == (kind, what)), None)
        if found is None:
            found = Finding(kind, what)
            self.findings.append(found)
        found.count += 1
        if len(found.inputs) < _KEPT_INPUTS:
            found.numbers.append(number)
            found.inputs.append([part.hex() for part in sample])

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        rate = self.inputs / self.seconds if self.seconds else 0.0
        return {**asdict(self), "refused": dict(self.refused), "inputs_per_s": round(rate, 1)}


class _HangError(BaseException):
    """Time is up; not an Exception, so that no decoder takes it for one of its own."""


def run(
    target: Target,
    seed: int,
    numbers: range,
    announce: Callable[[int], None] = lambda _: None,
    stop_s: float = float("inf"),
    *,
    warm: bool = False,
) -> Outcome:
    """Runs a target on the inputs of some numbers.

    Args:
        target: to be run.
        seed: of all inputs.
        numbers: of the inputs.
        announce: told each number before its input is run.
        stop_s: `time.monotonic()` after which no further input is run.
        warm: whether this process has run the target before; else every sample of its corpus comes first, and
            nothing is measured by it.
    """
    outcome = Outcome(target.name)
    for sample in () if warm else target.corpus:
        try:
            with contextlib.suppress(*target.errors):
                target.decode(sample)
        except Exception as error:  # noqa: BLE001 - as below
            outcome.note("crash", f"undamaged: {_where(error)}", -1, sample)
    _forget_peak()
    start_s, start_bytes = time.monotonic(), _resident_bytes()
    for number in numbers:
        if time.monotonic() > stop_s:
            break
        announce(number)
        _run_one(target, target.input(seed, number), number, outcome)
    outcome.seconds = time.monotonic() - start_s
    outcome.grown_bytes = _resident_bytes() - start_bytes
    return outcome


def _run_one(target: Target, sample: Sample, number: int, outcome: Outcome) -> None:
    outcome.inputs += 1
    before, peak_before, start_s = _resident_bytes(), _peak_bytes(), time.process_time()
    try:
        with _traced(outcome, enabled=number % _TRACED_EVERY == 0), _time_limit(target.limit_s):
            target.decode(sample)
        outcome.accepted += 1
    except target.errors as error:
        outcome.refused[type(error).__name__] += 1
    except _HangError:
        outcome.note("hang", f"over {target.limit_s} s", number, sample)
    except Exception as error:  # noqa: BLE001 - this is what is looked for
        outcome.note("crash", _where(error), number, sample)
    elapsed_s = time.process_time() - start_s
    if elapsed_s > outcome.slowest_s:
        outcome.slowest_s, outcome.slowest_number = elapsed_s, number
    peak = _peak_bytes()
    taken = peak - before if peak > peak_before else 0
    outcome.most_bytes = max(outcome.most_bytes, taken)
    if taken > target.limit_bytes:
        outcome.note("memory", f"over {target.limit_bytes // _MIB} MiB", number, sample)
    if taken > target.limit_bytes // 4:
        _forget_peak()


@contextlib.contextmanager
def _time_limit(limit_s: float) -> Iterator[None]:
    """Ends what runs in Python code after that much processor time; library code that never returns is up to others."""

    def ring(_: int, __: FrameType | None) -> None:
        raise _HangError

    previous = signal.signal(signal.SIGPROF, ring)
    signal.setitimer(signal.ITIMER_PROF, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)


@contextlib.contextmanager
def _traced(outcome: Outcome, *, enabled: bool) -> Iterator[None]:
    if not enabled:
        yield
        return
    tracemalloc.start()
    try:
        yield
    finally:
        outcome.most_traced_bytes = max(outcome.most_traced_bytes, tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()


def _where(error: Exception) -> str:
    """The error, and the last line of ours that it passed."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "site-packages" not in frame.filename and "/fuzz/" not in frame.filename]
    last = ours[-1] if ours else frames[-1]
    place = f"{'/'.join(Path(last.filename).parts[-2:])}:{last.lineno}"
    return f"{type(error).__name__} at {place}: {' '.join(str(error).split())[:60]}"


# ---- the process's size ----------------------------------------------------------------------------


def _resident_bytes() -> int:
    fields = Path("/proc/self/statm").read_bytes().split()
    return int(fields[1]) * resource.getpagesize()


def _peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _forget_peak() -> None:
    """Lets the peak be what the process takes now; where the system has no such thing, the peak stays."""
    gc.collect()
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_bytes(b"5")
