"""How the ladder's patches follow each other: in the order of sending, as many to a packet as fit.

A patch of the ladder has a size that follows from its level, so that packets and their bytes can be counted before
anything is packed.
"""

import numpy as np

from shared.arrays import Int64Array, UInt8Array
from shared.levels import LEVEL_BYTES
from shared.packets import PACKET_HEADER_BYTES


def sending_order(levels: UInt8Array) -> Int64Array:
    """Patch numbers in the order of sending: by level, highest first, raster order within a level.

    Args:
        levels: (patches,) level of each patch; skipped ones are left out.
    """
    order = np.argsort(-levels.astype(np.int16), kind="stable")
    return order[: np.count_nonzero(levels)]


def packet_runs(level_counts: Int64Array, packet_bytes: int) -> list[int]:
    """Patches in each PATCHES packet, every packet filled as far as whole patches go.

    Args:
        level_counts: (levels,) patches at each level.
        packet_bytes: largest packet, its header included.
    """
    capacity = packet_bytes - PACKET_HEADER_BYTES
    runs: list[int] = []
    room = 0
    for level in range(len(LEVEL_BYTES) - 1, 0, -1):
        size, left = LEVEL_BYTES[level], int(level_counts[level])
        taken = min(left, room // size) if runs else 0
        if taken:
            runs[-1] += taken
            room -= taken * size
            left -= taken
        full, last = divmod(left, capacity // size)
        runs += [capacity // size] * full + ([last] if last else [])
        if full or last:
            room = capacity - (last or capacity // size) * size
    return runs


def stream_bytes(header_section_bytes: int, level_counts: Int64Array, packet_bytes: int, frame_bytes: int = 0) -> int:
    """Every byte that a plan puts on the channel: packet headers, header section and patches.

    Args:
        header_section_bytes: of `StreamHeader.to_bytes`.
        level_counts: (levels,) patches at each level.
        packet_bytes: largest packet, its header included.
        frame_bytes: what a container puts before each packet.
    """
    body = packet_bytes - PACKET_HEADER_BYTES
    packets = -(-header_section_bytes // body) + len(packet_runs(level_counts, packet_bytes))
    content = int(np.dot(level_counts, np.asarray(LEVEL_BYTES)))
    return header_section_bytes + content + packets * (PACKET_HEADER_BYTES + frame_bytes)
