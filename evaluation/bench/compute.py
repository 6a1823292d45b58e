"""`python -m evaluation.bench.compute`: what both ends compute for one 320x480 photo, without any link."""

import os
import time

# As the transmitter does.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from evaluation.bench.checks import Check, write
from evaluation.bench.photos import coffee_480x320
from receiver.assembly import Assembly
from receiver.codecs import load_receiver
from receiver.contract import ReceiverCodecs, by_number
from shared.codec.registry import DEFAULT_CODEC
from shared.packets import Packet
from shared.pictures import png_bytes
from transmitter.budget import Budget
from transmitter.codecs import load_sender
from transmitter.pipeline import Job, Pipeline, PlanStage, StageClock
from transmitter.relevance import load_embedded

_REPEATS = 7
_PERCENTS = (1, 5, 20)


def _prepare(pipeline: Pipeline, percent: float) -> tuple[PlanStage, dict[str, float]]:
    clock = StageClock(time.perf_counter)
    job = Job(png_bytes(coffee_480x320()), "cup of coffee", Budget("percent_of_raw", percent), 1)
    *_, plan = pipeline.run(job, 1e6, clock)
    assert isinstance(plan, PlanStage)
    return plan, clock.seconds


def _reconstruct(packets: list[bytes], codecs: ReceiverCodecs) -> float:
    start_s = time.perf_counter()
    assembly = Assembly(1, codecs, 0.0)
    for data in packets:
        assembly.accept(Packet.from_bytes(data), 0.0)
    arrived = assembly.snapshot()
    assert arrived is not None
    arrived.decode().paint()
    return time.perf_counter() - start_s


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


def main() -> None:
    """Measures, prints and writes out/bench/compute.json; medians of several runs at several budgets."""
    extractor, receivers = load_embedded(), by_number(load_receiver(DEFAULT_CODEC))
    pipeline = Pipeline({DEFAULT_CODEC: load_sender(DEFAULT_CODEC)}, {extractor.name: extractor})
    _prepare(pipeline, 1)
    stages: dict[str, list[float]] = {}
    received: list[float] = []
    for percent in _PERCENTS:
        for _ in range(_REPEATS):
            plan, seconds = _prepare(pipeline, percent)
            for name, value in {**seconds, "total": sum(seconds.values())}.items():
                stages.setdefault(name, []).append(value)
            received.append(_reconstruct(plan.packets, receivers))
    total, reconstruct = _median(stages.pop("total")), _median(received)
    parts = [Check(f"of this, {name}", _median(values), "s", "", True) for name, values in stages.items()]
    sending = Check("transmit compute, 320x480", total, "s", "<= 0.6", total <= 0.6)
    receiving = Check("receive compute, 320x480", reconstruct, "s", "<= 0.3", reconstruct <= 0.3)
    write("compute", [sending, *parts, receiving])


if __name__ == "__main__":
    main()
