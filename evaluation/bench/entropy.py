"""`python -m evaluation.bench.entropy`: what the entropy codec takes, in time and in bytes, and how both grow.

The photos are scikit-image's own; times are medians of several runs in this process, with as many threads as the
services use. Growth compares the time per pixel of sixteen photos side by side with that of one.
"""

import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

# As the services do.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from evaluation.bench.checks import Check, write
from evaluation.bench.memory import peak_resident_mb
from evaluation.bench.photos import coffee_480x320
from receiver.codecs import load_receiver
from receiver.contract import ArrivedPatches, DecodedPatches, Layout, ReceiverCodec
from shared.arrays import Float32Array, UInt8Array
from shared.packets import DEFAULT_PACKET_BYTES, MAX_PACKET_BYTES
from shared.patches import PATCH_SIZE
from transmitter.codecs import load_sender
from transmitter.planning import Body, Plan, PlanRequest, SenderCodec

_REPEATS = 5
_PERCENTS = (1.0, 2.0, 5.0, 10.0)
_TILES = 4
_GROWTH_PERCENT = 2.0

_T = TypeVar("_T")


def main() -> None:
    """Measures, prints and writes out/bench/entropy.json."""
    sender, receiver = load_sender("entropy"), load_receiver("entropy")
    photo = coffee_480x320()
    relevance = _cup(photo)
    _plan(sender, photo, relevance, 2.0)
    plans = [(percent, *_timed(partial(_plan, sender, photo, relevance, percent))) for percent in _PERCENTS]
    whole = _timed(partial(_plan, sender, photo, np.zeros_like(relevance), 5.0))
    checks = [
        Check(f"encode 320x480 at {percent:g} %, a mask", seconds, "s", "<= 0.6", seconds <= 0.6)
        for percent, _, seconds in plans
    ]
    checks.append(Check("encode 320x480 at 5 %, no mask", whole[1], "s", "<= 0.6", whole[1] <= 0.6))
    for name, plan in (*((f"{percent:g} %, a mask", plan) for percent, plan, _ in plans), ("5 %, no mask", whole[0])):
        _, seconds = _timed(partial(_shown, receiver, plan))
        checks.append(Check(f"decode and paint 320x480 at {name}", seconds, "s", "<= 0.4", seconds <= 0.4))
    checks += [*_exact(sender, receiver, photo), _loss(sender, receiver, photo, relevance)]
    write("entropy", [*checks, _growth(sender, photo, relevance), _memory()])


def _plan(sender: SenderCodec, photo: UInt8Array, relevance: Float32Array, percent: float) -> Plan:
    budget_bytes = int(photo.nbytes * percent / 100)
    return sender.prepare(photo).plan(relevance, PlanRequest(budget_bytes, MAX_PACKET_BYTES))


def _shown(receiver: ReceiverCodec, plan: Plan) -> UInt8Array:
    return _decoded(receiver, plan, plan.bodies).paint()


def _decoded(receiver: ReceiverCodec, plan: Plan, bodies: Sequence[Body]) -> DecodedPatches:
    layout = Layout.of(receiver.open(plan.header), receiver.entry)
    pieces = [piece for body in bodies for piece in receiver.pieces(layout, body.position, body.content)]
    return ArrivedPatches(receiver, plan.header, layout, tuple(pieces), 0).decode()


def _loss(sender: SenderCodec, receiver: ReceiverCodec, photo: UInt8Array, relevance: Float32Array) -> Check:
    """What the loss of every tenth packet of 1,200 bytes does to the patches of the others."""
    plan = sender.prepare(photo).plan(relevance, PlanRequest(int(photo.nbytes * 0.05), DEFAULT_PACKET_BYTES))
    fewer = _decoded(receiver, plan, [body for i, body in enumerate(plan.bodies) if i % 10 != 5])
    survive = np.repeat(np.repeat(fewer.level_picture > 0, PATCH_SIZE, axis=0), PATCH_SIZE, axis=1)
    before, after = (
        np.square(photo.astype(np.float64) - shown)[survive].mean() for shown in (_shown(receiver, plan), fewer.paint())
    )
    change_db = float(10 * np.log10(before / after))
    return Check("PSNR of surviving patches at 10 % loss, change", change_db, "dB", ">= -0.05", change_db >= -0.05)


def _exact(sender: SenderCodec, receiver: ReceiverCodec, photo: UInt8Array) -> list[Check]:
    """Of the whole photo, exactly; coffee is busier than most photos."""
    plan, encode_s = _timed(lambda: sender.plan_exactly(photo, packet_bytes=MAX_PACKET_BYTES))
    shown, decode_s = _timed(partial(_shown, receiver, plan))
    if not np.array_equal(shown, photo):
        raise AssertionError("an exact picture came out changed")
    share = plan.wire_bytes / photo.nbytes
    return [
        Check("exact 320x480, share of raw", 100 * share, "%", "", True),
        Check("encode 320x480 exactly", encode_s, "s", "<= 0.6", encode_s <= 0.6),
        Check("decode 320x480 exactly", decode_s, "s", "<= 0.4", decode_s <= 0.4),
    ]


def _growth(sender: SenderCodec, photo: UInt8Array, relevance: Float32Array) -> Check:
    """Both planned at the same share of raw; the large one shows the photo many times, so that it is as busy."""
    large, mask = np.tile(photo, (_TILES, _TILES, 1)), np.tile(relevance, (_TILES, _TILES))
    _, small_s = _timed(partial(_plan, sender, photo, relevance, _GROWTH_PERCENT))
    _, large_s = _timed(partial(_plan, sender, large, mask, _GROWTH_PERCENT), repeats=1)
    ratio = large_s / small_s / _TILES**2
    return Check("encode time per pixel, 2.4 megapixels over 0.15", ratio, "", "<= 1.2", ratio <= 1.2)


def _memory() -> Check:
    peak_mb = peak_resident_mb(os.getpid())
    return Check("peak memory of this process", peak_mb, "MB", "<= 2000", peak_mb <= 2_000)


def _cup(photo: UInt8Array) -> Float32Array:
    """A mask of about the cup: an ellipse in the middle."""
    rows, columns = np.indices(photo.shape[:2])
    inside = ((rows - 150) / 95) ** 2 + ((columns - 235) / 110) ** 2 < 1
    return np.asarray(inside, np.float32)


def _timed(function: Callable[[], _T], repeats: int = _REPEATS) -> tuple[_T, float]:
    """The last result and the median of the seconds."""
    seconds = []
    for _ in range(repeats):
        start_s = time.perf_counter()
        result = function()
        seconds.append(time.perf_counter() - start_s)
    return result, sorted(seconds)[len(seconds) // 2]


if __name__ == "__main__":
    main()
