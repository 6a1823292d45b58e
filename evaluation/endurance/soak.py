"""`python -m evaluation.endurance.soak`: do the services take as much after half an hour as after ten minutes?

Clients send pictures of all sizes one after the other, some of which make no sense and some of which nobody waits
for, while the link changes every few seconds. Memory, threads and open files of the services are looked at once a
second. The receiver keeps what it gets, within limits that are soon reached.
"""

import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random
from threading import Event, Lock
from typing import Final

import click

from evaluation.bench.checks import OUT, Check, show
from evaluation.endurance.calls import TYPED, Ending, set_link, transmit
from evaluation.endurance.calls import show as picture_of
from evaluation.endurance.draws import SERVICES, Job
from evaluation.endurance.log import Log
from evaluation.endurance.rounds import request_of
from evaluation.endurance.services import Services, resident_bytes
from evaluation.partial import check_result, write_whole
from shared.errors import MmscError
from shared.stubs.mmsc.v1 import channel_pb2, transmitter_pb2

_DEADLINE_S: Final = 90.0
_IMPATIENT_S: Final = 0.3
_LINK_S: Final = (3.0, 8.0)
_STORE_BYTES: Final = 8_000_000
_MEMORY_BYTES: Final = 32_000_000
_SAMPLES: Final = 300
"""So many are written, whatever the time that it ran."""

_GROWTH: Final = 0.05
_GROWTH_BYTES: Final = 20e6
_MORE_HANDLES: Final = 40


@dataclass(frozen=True)
class Sample:
    """What a service took at some moment."""

    at_s: float
    """Since the beginning."""
    resident_bytes: int
    threads: int
    files: int
    """Open ones, sockets among them."""


def sampled(pid: int, at_s: float) -> Sample:
    """Looks at a running process."""
    process = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
    return Sample(at_s, resident_bytes(pid), int(status["Threads"]), len(list((process / "fd").iterdir())))


def grown(values: Sequence[float]) -> tuple[float, float]:
    """Where the last two thirds of a series begin and end.

    Args:
        values: evenly spaced, at least one.

    Returns:
        The medians of the tenth of the series that follows its first third, and of its last tenth.
    """
    tenth = max(len(values) // 10, 1)
    third = len(values) // 3
    return statistics.median(values[third : third + tenth]), statistics.median(values[-tenth:])


def growth_checks(name: str, samples: Sequence[Sample]) -> list[Check]:
    """Whether a service takes more and more.

    Args:
        name: of the service.
        samples: of it, evenly spaced.
    """
    before, after = grown([sample.resident_bytes for sample in samples])
    most = _GROWTH * before + _GROWTH_BYTES
    bar = f"<= {100 * _GROWTH:g} % + {_GROWTH_BYTES / 1e6:g} MB"
    what = f"memory of the {name} after a third of the time"
    checks = [
        Check(what, before / 1e6, "MB", "", ok=True),
        Check(f"{what}: grew by", (after - before) / 1e6, "MB", bar, after - before <= most),
    ]
    handles = {
        "threads": [sample.threads for sample in samples],
        "open files": [sample.files for sample in samples],
    }
    for kind, values in handles.items():
        first, last = grown(values)
        bar = f"<= {_MORE_HANDLES}"
        checks.append(Check(f"{kind} of the {name}: more", last - first, "", bar, last - first <= _MORE_HANDLES))
    return checks


def draw_link(random: Random) -> channel_pb2.LinkSettings:
    """A link of any kind, on which something may go wrong."""
    impairments = channel_pb2.Impairments(
        loss_rate=random.choice((0, 0, 0.01, 0.1)),
        burst_rate=random.choice((0, 0, 0.005)),
        burst_packets=random.randint(1, 8),
        bit_error_rate=random.choice((0, 0, 1e-6, 1e-5)),
        duplicate_rate=random.choice((0, 0, 0.05)),
        reorder_rate=random.choice((0, 0, 0.05)),
        reorder_s=0.05,
        jitter_s=random.choice((0, 0.01)),
        blackouts=channel_pb2.Blackouts(),
    )
    if random.random() < 0.2:
        begin_s = random.uniform(0, 2)
        blackout = channel_pb2.Interval(begin_s=begin_s, end_s=begin_s + random.uniform(0.1, 2))
        impairments.blackouts.CopyFrom(channel_pb2.Blackouts(intervals=[blackout]))
    settings = channel_pb2.LinkSettings(
        propagation_s=random.choice((0.001, 0.02, 0.1)),
        queue_bytes=random.choice((4_000, 65_536, 500_000)),
        per_stream=random.random() < 0.3,
        impairments=impairments,
    )
    if random.random() < 0.3:
        name = random.choice(("lte", "drone", "satellite"))
        settings.model.CopyFrom(channel_pb2.RateModel(trace=channel_pb2.TraceReplay(name=name)))
    else:
        settings.rate_bps = 10 ** random.uniform(5.5, 7.5)
    return settings


def draw_request(random: Random) -> transmitter_pb2.TransmitRequest:
    """A picture of any size, with a budget or a deadline; now and then one that makes no sense."""
    height, width = (int(10 ** random.uniform(1, 2.47)) for _ in range(2))
    top, left = random.randint(0, 300 - height), random.randint(0, 450 - width)
    codec = random.choice(("ladder", "ladder", "ladder", "entropy"))
    wire_bytes = int(10 ** random.uniform(2.7, 4.7))
    request = request_of(Job(top, left, height, width, wire_bytes, codec, random.choice(("cat", ""))))
    request.options.return_maps = random.random() < 0.3
    if random.random() < 0.2:
        request.options.deadline_s = random.uniform(0.3, 3)
    if random.random() < 0.03:
        request.image = request.image[: random.randint(0, len(request.image) // 2)]
    return request


class Soak:
    """Clients that send until they are told to stop.

    Args:
        services: those that run.
        seed: of what is sent.
    """

    def __init__(self, services: Services, seed: int) -> None:
        self._services, self._seed = services, seed
        self._stopped, self._lock = Event(), Lock()
        self.codes: Counter[str] = Counter()
        """How the transmissions ended: an outcome, or the name of a gRPC status."""
        self.wrong: list[str] = []
        """What may not happen, in words."""

    def run(self, seconds: float, clients: int) -> dict[str, list[Sample]]:
        """Lets clients send for a time.

        Returns:
            What each service took, once a second.
        """
        samples: dict[str, list[Sample]] = {name: [] for name in SERVICES}
        start_s = time.monotonic()
        with ThreadPoolExecutor(clients + 1) as threads:
            running = [threads.submit(self._client, number) for number in range(clients)]
            running.append(threads.submit(self._change_link))
            try:
                while (at_s := time.monotonic() - start_s) < seconds and not any(each.done() for each in running):
                    for name in SERVICES:
                        samples[name].append(sampled(self._services.pid(name), at_s))
                    time.sleep(1)
            finally:
                self._stopped.set()
            for each in running:
                each.result()
        return samples

    def _change_link(self) -> None:
        random = Random(f"{self._seed}/link")  # noqa: S311 - no secret
        while not self._stopped.wait(random.uniform(*_LINK_S)):
            set_link(self._services.addresses["channel"], draw_link(random))

    def _client(self, number: int) -> None:
        random = Random(f"{self._seed}/{number}")  # noqa: S311 - no secret
        while not self._stopped.is_set():
            impatient = random.random() < 0.05
            timeout_s = _IMPATIENT_S if impatient else _DEADLINE_S
            ending = transmit(self._services.addresses["transmitter"], draw_request(random), timeout_s)
            if impatient and ending.code == "DEADLINE_EXCEEDED":
                ending = replace(ending, code="ABANDONED")
            self._note(ending, [*self._wrong_with(ending)])

    def _note(self, ending: Ending, wrong: Sequence[str]) -> None:
        with self._lock:
            self.codes[ending.outcome or ending.code] += 1
            self.wrong += wrong

    def _wrong_with(self, ending: Ending) -> Iterator[str]:
        name = f"{ending.transmission_id} after {ending.elapsed_s:.1f} s"
        if ending.code not in {*TYPED, "ABANDONED"}:
            yield f"{name}: {ending.code} {ending.words!r}"
        if ending.elapsed_s > _DEADLINE_S - 1:
            yield f"{name}: hung"
        if ending.outcome in {"complete", "partial"}:
            shown = picture_of(self._services.addresses["receiver"], ending.transmission_id, _DEADLINE_S)
            if not shown.image_png:
                yield f"{name}: {ending.outcome}, but {shown.code} and no picture"


def checked(soak: Soak, samples: Mapping[str, Sequence[Sample]], traces: Sequence[str]) -> list[Check]:
    """What came of it, against what is promised."""
    counts = {f"transmissions that ended {code.lower()}": count for code, count in sorted(soak.codes.items())}
    return [
        Check("ran for", samples["receiver"][-1].at_s, "s", "", ok=True),
        Check("transmissions", soak.codes.total(), "", ">= 1", bool(soak.codes)),
        *(Check(name, count, "", "", ok=True) for name, count in counts.items()),
        Check("ended without a picture or a typed error, or hung", len(soak.wrong), "", "<= 0", not soak.wrong),
        Check("stack traces", len(traces), "", "<= 0", not traces),
        *(check for name in SERVICES for check in growth_checks(name, samples[name])),
    ]


@click.command(context_settings={"show_default": True})
@click.option("--seconds", type=click.FloatRange(1), default=1800.0, help="How long.")
@click.option("--clients", type=click.IntRange(1, 64), default=6, help="Transmissions at once.")
@click.option("--seed", type=int, default=0, help="Of what is sent, and of the link.")
@click.option("--json", "path", type=click.Path(path_type=Path), default=OUT / "soak.json", help="Result file.")
def main(*, seconds: float, clients: int, seed: int, path: Path) -> None:
    """Lets clients send for a long time, and looks at what the services take."""
    log = Log()
    try:
        check_result(path, ("checks",), click.echo)
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder, Services(_arguments(folder), log) as services:
            soak = Soak(services, seed)
            samples = soak.run(seconds, clients)
            services.check()
        traces = log.traces()
        checks = checked(soak, samples, traces)
        step = {name: -(-len(values) // _SAMPLES) for name, values in samples.items()}
        thinned = {name: [asdict(each) for each in values[:: step[name]]] for name, values in samples.items()}
        content = {"seconds": seconds, "clients": clients, "seed": seed, "wrong": soak.wrong, "traces": traces}
        write_whole(path, {"checks": [asdict(check) for check in checks], **content, "samples": thinned})
    except MmscError as error:
        raise click.ClickException(str(error)) from error
    show("soak", checks)
    sys.exit(not all(check.ok for check in checks))


def _arguments(store: str) -> dict[str, tuple[str, ...]]:
    limits = ("--store-bytes", str(_STORE_BYTES), "--max-stored-bytes", str(_MEMORY_BYTES))
    return {"receiver": ("--store", store, *limits), "transmitter": ("--stall-timeout", "20")}


if __name__ == "__main__":
    main()
