"""What a stream header says of the weights that it was coded with."""

import hashlib
from functools import cache

from shared.codec.contract import PatchCodec
from shared.level_map import load_tables


@cache
def _tables_hash() -> bytes:
    return hashlib.sha256(load_tables().tobytes()).digest()


def stream_weights_hash(codec: PatchCodec) -> bytes:
    """4 bytes that differ where the patch codec's weights or the level map's tables do."""
    return hashlib.sha256(codec.weights_hash + _tables_hash()).digest()[:4]
