"""Ways to damage bytes: at random, but the same for the same random numbers."""

import random
import zlib
from collections.abc import Callable, Sequence

Sample = tuple[bytes, ...]
"""What a decoder is given: one string, or several that follow each other, such as the packets of a transmission."""

_VALUES = (0, 1, 2, 3, 7, 8, 16, 63, 64, 127, 128, 255, 256, 1_023, 4_096, 32_767, 32_768, 65_535, 65_536)
_WIDTHS = (1, 2, 3, 4, 8)
_MOST_GROWTH = 4_096  # bytes that one step may add
_MOST_STEPS = 6


def mutated(
    rng: random.Random,
    corpus: Sequence[Sample],
    seal: Callable[[bytes], bytes] | None,
    tokens: Sequence[bytes] = (),
) -> Sample:
    """A damaged copy of one sample of a corpus.

    Args:
        rng: where all choices come from.
        corpus: real samples, at least one.
        seal: puts a checksum right again, so that most damage is found behind it; None where there is none.
        tokens: words of the format, put in anywhere and in each other's place.
    """
    sample = rng.choice(corpus)
    if len(sample) > 1 and rng.random() < 0.5:
        sample = _shuffled(rng, sample, rng.choice(corpus))
    if not sample:
        return sample
    chosen = {rng.randrange(len(sample)) for _ in range(rng.choice((1, 1, 1, 2, 4)))}
    parts = list(sample)
    for number in chosen:
        if tokens and rng.random() < 0.5:
            parts[number] = _reworded(rng, parts[number], tokens)
        else:
            parts[number] = _string(rng, parts[number], corpus, seal)
    return tuple(parts)


def _string(rng: random.Random, data: bytes, corpus: Sequence[Sample], seal: Callable[[bytes], bytes] | None) -> bytes:
    for _ in range(rng.choice((1, 1, 1, 2, 3, _MOST_STEPS))):
        data = rng.choice(_STEPS)(rng, data, corpus)
    return seal(data) if seal is not None and rng.random() < 0.9 else data


def _reworded(rng: random.Random, data: bytes, tokens: Sequence[bytes]) -> bytes:
    """Words of the format in the wrong places, once or very often."""
    for _ in range(rng.choice((1, 1, 2, 4))):
        old, new = rng.choice(tokens), rng.choice(tokens) * rng.choice((1, 1, 1, 2, 6_000))
        at = data.find(old, rng.randrange(len(data) + 1))
        start, end = (at, at + len(old)) if at >= 0 else (rng.randrange(len(data) + 1),) * 2
        data = data[:start] + new + data[end:]
    return data


def _shuffled(rng: random.Random, sample: Sample, other: Sample) -> Sample:
    """Strings lost, repeated, swapped, or of another sample."""
    parts = list(sample)
    for _ in range(rng.choice((1, 1, 2, 4))):
        match rng.randrange(5):
            case 0:
                parts.pop(rng.randrange(len(parts))) if len(parts) > 1 else None
            case 1:
                parts.insert(rng.randrange(len(parts) + 1), rng.choice(parts))
            case 2:
                rng.shuffle(parts)
            case 3:
                parts.insert(rng.randrange(len(parts) + 1), rng.choice(other))
            case _:
                parts = parts[: rng.randrange(len(parts)) + 1]
    return tuple(parts)


# ---- one step on one string ------------------------------------------------------------------------


def _flip(rng: random.Random, data: bytes, corpus: Sequence[Sample]) -> bytes:
    if not data:
        return data
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 32))):
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def _edit_number(rng: random.Random, data: bytes, corpus: Sequence[Sample]) -> bytes:
    """Sets what may be a size or a count to a limit, or moves it by a little; mostly near the start."""
    width = rng.choice(_WIDTHS)
    if len(data) < width:
        return data
    end = len(data) - width + 1
    at = rng.randrange(min(end, 40) if rng.random() < 0.7 else end)
    order = rng.choice(("big", "little"))
    old = int.from_bytes(data[at : at + width], order)
    top = 256**width
    new = rng.choice((rng.choice(_VALUES), old + rng.randint(-9, 9), top - 1 - rng.choice(_VALUES), rng.randrange(top)))
    return data[:at] + (new % top).to_bytes(width, order) + data[at + width :]


def _truncate(rng: random.Random, data: bytes, corpus: Sequence[Sample]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _behead(rng: random.Random, data: bytes, corpus: Sequence[Sample]) -> bytes:
    return data[rng.randrange(min(len(data), 64) + 1) :]


def _extend(rng: random.Random, data: bytes, corpus: Sequence[Sample]) -> bytes:
    size = rng.choice((1, 2, 3, 4, 16, 300))
    return data + (rng.randbytes(size) if rng.random() < 0.5 else bytes([rng.choice((0, 255))]) * size)


def _block(rng: random.Random, data: bytes) -> slice:
    start = rng.randrange(len(data) + 1)
    return slice(start, min(start + rng.choice((1, 2, 4, 12, 64, 256, _MOST_GROWTH)), len(data)))


def _remove(rng: random.Random, data: bytes, corpus: Sequence[Sample]) -> bytes:
    block = _block(rng, data)
    return data[: block.start] + data[block.stop :]


def _repeat(rng: random.Random, data: bytes, corpus: Sequence[Sample]) -> bytes:
    block, at = _block(rng, data), rng.randrange(len(data) + 1)
    return data[:at] + data[block] + data[at:]


def _overwrite(rng: random.Random, data: bytes, corpus: Sequence[Sample]) -> bytes:
    block = _block(rng, data)
    size = block.stop - block.start
    filling = rng.randbytes(size) if rng.random() < 0.5 else bytes([rng.randrange(256)]) * size
    return data[: block.start] + filling + data[block.stop :]


def _splice(rng: random.Random, data: bytes, corpus: Sequence[Sample]) -> bytes:
    """The beginning of this one and the end of another."""
    other = rng.choice(corpus)
    if not other:
        return data
    tail = rng.choice(other)
    at = rng.randrange(min(len(data), len(tail)) + 1)
    return data[:at] + tail[at if rng.random() < 0.7 else rng.randrange(len(tail) + 1) :]


def _noise(rng: random.Random, data: bytes, corpus: Sequence[Sample]) -> bytes:
    return rng.randbytes(rng.choice((0, 1, 2, 12, 13, 21, 64, 300, max(len(data), 1))))


_STEPS = (
    *(_flip, _flip, _edit_number, _edit_number, _edit_number, _truncate),
    *(_behead, _extend, _remove, _repeat, _overwrite, _splice, _noise),
)


# ---- checksums -------------------------------------------------------------------------------------


def seal_packet(data: bytes) -> bytes:
    """Puts the checksum of a packet right."""
    if len(data) < 12:
        return data
    crc = zlib.crc32(data[12:], zlib.crc32(data[:8] + bytes(4)))
    return data[:8] + crc.to_bytes(4, "big") + data[12:]


def seal_frames(data: bytes) -> bytes:
    """Puts the checksums of all packets of a file right, as far as its sizes make sense."""
    out, at = [], 0
    while at + 2 <= len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        out.append(data[at : at + 2] + seal_packet(data[at + 2 : end]))
        at = end
    return b"".join(out) + data[at:]


def seal_png(data: bytes) -> bytes:
    """Puts the checksums of all chunks of a PNG right, as far as their sizes make sense."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return data
    out, at = [data[:8]], 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4], "big")
        crc = zlib.crc32(data[at + 4 : end]).to_bytes(4, "big")
        out.append(data[at:end] + (crc if end + 4 <= len(data) else data[end : end + 4]))
        at = end + 4
    return b"".join(out) + data[at:]
