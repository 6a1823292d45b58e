"""`python -m evaluation.bench.crowd`: many clients at once, more than there is room for, and a receiver that stops.

The three services are real processes, each client has a connection of its own, and each transmission a link of its
own. What waits for one of two cores is overhead here: the promise is that all complete, and that nobody's memory
grows; how long it takes is told.
"""

import asyncio
import math
import os
import signal
import time
from collections.abc import Mapping, Sequence
from random import Random
from typing import Final, TypeAlias

import numpy as np

from evaluation.bench.checks import Check, write
from evaluation.bench.memory import peak_resident_mb
from evaluation.bench.photos import coffee_480x320
from evaluation.endurance.calls import Ending, link, set_link, transmitting
from evaluation.endurance.draws import SERVICES
from evaluation.endurance.services import Services
from shared.arrays import UInt8Array
from shared.pictures import png_bytes
from shared.stubs.mmsc.v1 import channel_pb2, transmitter_pb2

_CROWD: Final = 64
"""As many as the transmitter takes in at once."""

_RATE_BPS: Final = 10e6
_ROUNDS: Final = 5
_SETTLED_ROUNDS: Final = 2
"""After these, the receiver's memory is as full as it gets, and everything that is loaded late is loaded."""

_BUDGET_BYTES: Final = 23_040
_TOO_MANY: Final = 200
_DEADLINE_S: Final = 300.0

_SLOW_STREAMS: Final = 4
_SLOW_SHAPE: Final = (1_000, 1_500, 3)
_SLOW_RATE_BPS: Final = 50e6
_QUESTIONS_BYTES: Final = 2_000
"""What senders that hear nothing may go on asking."""

_SETTLING_S: Final = 4.0
_STANDSTILL_S: Final = 4.0

_GROWTH: Final = 0.05
_GROWTH_MB: Final = 20.0

_Memory: TypeAlias = Mapping[str, float]
"""Resident memory of each service in MB."""


def growth_checks(what: str, before: _Memory, after: _Memory, services: Sequence[str] = SERVICES) -> list[Check]:
    """How much services have grown, and whether that is next to nothing.

    Args:
        what: happened meanwhile.
        before: then, in MB.
        after: now, in MB.
        services: those that matter.
    """
    bar = f"<= {100 * _GROWTH:g} % + {_GROWTH_MB:g} MB"
    return [
        Check(f"{what}: memory of the {name} grew by", grown, "MB", bar, grown <= _GROWTH * before[name] + _GROWTH_MB)
        for name in services
        for grown in (after[name] - before[name],)
    ]


def _memory(services: Services) -> _Memory:
    return {name: size / 1e6 for name, size in services.resident_bytes().items()}


def _picture() -> UInt8Array:
    """The midst of the cup, 240 x 160 pixels."""
    return coffee_480x320()[80:240, 120:360]


def _request(image: UInt8Array, budget_bytes: int) -> transmitter_pb2.TransmitRequest:
    """What costs little to compute, so that many are under way together: the ladder, and a map of the client's own."""
    relevance_png = png_bytes(np.full(image.shape[:2], 255, np.uint8))
    return transmitter_pb2.TransmitRequest(
        image=png_bytes(image),
        budget=transmitter_pb2.Budget(wire_bytes=budget_bytes),
        options=transmitter_pb2.TransmitOptions(codec="ladder", relevance_png=relevance_png),
    )


async def _at_once(services: Services, request: transmitter_pb2.TransmitRequest, count: int) -> list[Ending]:
    address = services.addresses["transmitter"]
    return await asyncio.gather(*(transmitting(address, request, _DEADLINE_S) for _ in range(count)))


# ---- as many as there are places ----------------------------------------------------------------


async def _crowd_checks(services: Services) -> list[Check]:
    request = _request(_picture(), _BUDGET_BYTES)
    endings: list[Ending] = []
    memories: list[_Memory] = []
    start_s = time.monotonic()
    for _ in range(_ROUNDS):
        endings += await _at_once(services, request, _CROWD)
        memories.append(_memory(services))
    took_s = time.monotonic() - start_s
    complete = sum(ending.outcome == "complete" for ending in endings)
    name = f"{_CROWD} at once, {_RATE_BPS / 1e6:g} Mbit/s each"
    return [
        Check(f"{name}: complete", 100 * complete / len(endings), "%", ">= 100", complete == len(endings)),
        Check(f"{name}: transmissions per second", len(endings) / took_s, "/s", "", ok=True),
        *_percentiles(f"{name}: beyond compute and wire", [_overhead_s(ending) for ending in endings]),
        *_percentiles(f"{name}: after the plan, beyond wire", [_sending_s(ending) for ending in endings]),
        *growth_checks(f"{name}, rounds {_SETTLED_ROUNDS} to {_ROUNDS}", memories[_SETTLED_ROUNDS - 1], memories[-1]),
    ]


def _overhead_s(ending: Ending) -> float:
    """Seconds that were neither computing nor the link's: waiting for a core, for the most part."""
    return math.nan if ending.delivered is None else ending.delivered.stages.overhead_s


def _sending_s(ending: Ending) -> float:
    """Seconds from plan to report that were neither the link's nor the receiver's painting."""
    if ending.delivered is None:
        return math.nan
    stages = ending.delivered.stages
    return ending.ended_s - ending.planned_s - stages.serialization_s - stages.propagation_s - stages.reconstruct_s


def _percentiles(name: str, values: Sequence[float]) -> list[Check]:
    known = np.array([value for value in values if math.isfinite(value)] or [math.nan])
    return [
        Check(f"{name}, p{share}", 1e3 * float(np.percentile(known, share)), "ms", "", ok=True) for share in (50, 99)
    ]


# ---- more than there are places -----------------------------------------------------------------


async def _excess_checks(services: Services) -> list[Check]:
    request = _request(_picture(), _BUDGET_BYTES)
    before = _memory(services)
    endings = await _at_once(services, request, _TOO_MANY)
    after_once = _memory(services)
    refused = [ending for ending in endings if ending.code == "RESOURCE_EXHAUSTED"]
    told = [ending for ending in refused if ending.retry_s > 0]
    accepted = len(endings) - len(refused)
    complete = sum(ending.outcome == "complete" for ending in endings)
    patient = await asyncio.gather(*(_patient(services, request, number) for number in range(_TOO_MANY)))
    served = sum(ending.outcome == "complete" for ending in patient)
    name = f"{_TOO_MANY} at once"
    return [
        Check(f"{name}: refused with RESOURCE_EXHAUSTED", len(refused), "", ">= 1", bool(refused)),
        Check(f"{name}: of these, with RetryInfo", len(told), "", f">= {len(refused)}", len(told) == len(refused)),
        Check(f"{name}: longest wait for a refusal", _longest_s(refused), "s", "", ok=True),
        Check(f"{name}: accepted and complete", complete, "", f">= {accepted}", complete == accepted),
        *growth_checks(name, before, after_once),
        Check(f"{name}, trying again as told: complete", served, "", f">= {_TOO_MANY}", served == _TOO_MANY),
        *growth_checks(f"{name}, trying again", before, _memory(services)),
    ]


def _longest_s(endings: Sequence[Ending]) -> float:
    return max((ending.elapsed_s for ending in endings), default=0.0)


async def _patient(services: Services, request: transmitter_pb2.TransmitRequest, number: int) -> Ending:
    """A client that tries again when it was told to, give or take a little, until it is served."""
    random = Random(number)  # noqa: S311 - no secret
    until_s = time.monotonic() + _DEADLINE_S
    while True:
        ending = await transmitting(services.addresses["transmitter"], request, _DEADLINE_S)
        if ending.code != "RESOURCE_EXHAUSTED" or time.monotonic() > until_s:
            return ending
        await asyncio.sleep(ending.retry_s * random.uniform(1, 3))


# ---- a receiver that stands still ---------------------------------------------------------------


async def _standstill_checks(services: Services) -> list[Check]:
    """The receiver stands still while large transmissions begin, and goes on after some seconds."""
    noise = np.random.default_rng(0).integers(0, 256, _SLOW_SHAPE, np.uint8)
    request = _request(noise, noise.nbytes * 2)
    transmitter, channel = services.addresses["transmitter"], services.addresses["channel"]
    set_link(channel, channel_pb2.LinkSettings(rate_bps=_SLOW_RATE_BPS, per_stream=True))
    start_bytes = _accepted_bytes(channel)
    planned: asyncio.Queue[str] = asyncio.Queue()
    services.signal("receiver", signal.SIGSTOP)
    try:
        calls = [transmitting(transmitter, request, _DEADLINE_S, planned.put_nowait) for _ in range(_SLOW_STREAMS)]
        sending = asyncio.gather(*calls)
        for _ in range(_SLOW_STREAMS):
            await asyncio.wait_for(planned.get(), _DEADLINE_S)
        before = _memory(services)
        await asyncio.sleep(_SETTLING_S)
        held_bytes = _accepted_bytes(channel)
        await asyncio.sleep(_STANDSTILL_S)
        more_bytes, after = _accepted_bytes(channel) - held_bytes, _memory(services)
    finally:
        services.signal("receiver", signal.SIGCONT)
    complete = sum(ending.outcome == "complete" for ending in await sending)
    name = "receiver stands still"
    held_mb = (held_bytes - start_bytes) / _SLOW_STREAMS / 1e6
    return [
        Check(f"{name}: sent of each {noise.nbytes / 1e6:g} MB", held_mb, "MB", "<= 2.5", held_mb <= 2.5),
        Check(
            f"{name}: bytes sent after {_SETTLING_S:g} s of it",
            more_bytes,
            "",
            f"<= {_QUESTIONS_BYTES}",
            more_bytes <= _QUESTIONS_BYTES,
        ),
        *growth_checks(name, before, after, ("transmitter", "channel")),
        Check(f"{name}, then goes on: complete", complete, "", f">= {_SLOW_STREAMS}", complete == _SLOW_STREAMS),
    ]


def _accepted_bytes(address: str) -> int:
    with link(address) as stub:
        return stub.GetLink(channel_pb2.GetLinkRequest(), timeout=10).link.accepted_bytes


async def _measure() -> list[Check]:
    with Services() as services:
        settings = channel_pb2.LinkSettings(rate_bps=_RATE_BPS, propagation_s=0.02, per_stream=True)
        set_link(services.addresses["channel"], settings)
        load = Check("load average when it began", os.getloadavg()[0], "", "", ok=True)
        checks = [load, *await _crowd_checks(services), *await _excess_checks(services)]
        checks += await _standstill_checks(services)
        peaks = {name: peak_resident_mb(services.pid(name)) for name in SERVICES}
    return [*checks, *(Check(f"memory of the {name}, peak", mb, "MB", "", ok=True) for name, mb in peaks.items())]


def main() -> None:
    """Measures, prints and writes out/bench/crowd.json."""
    write("crowd", asyncio.run(_measure()))


if __name__ == "__main__":
    main()
