"""Files on the disk: pictures, weights, journals of the receiver and traces of links."""

import atexit
import shutil
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from channel_emulator.replay import parse_trace, shipped_trace
from receiver.entropy_restoration import EntropyRestorer
from receiver.journal import journal_start, read_journal, record
from receiver.restoration import Restorer
from shared.codec.entropy.lossless import load_lossless
from shared.codec.entropy.weights import load_lossy
from shared.codec.ladder import load_ladder
from shared.entropy_level_map import load_network
from shared.errors import InvalidInputError, StreamError, WeightsError
from shared.level_map import load_tables
from shared.patches import PatchGrid
from shared.pictures import png_bytes, read_picture, read_relevance
from shared.weights import default_path, read_weights, write_weights
from transmitter.packing import pack
from transmitter.relevance.weights import load as load_relevance

from .mutations import Sample, seal_png
from .runner import Target
from .samples import TRANSMISSION, encoded_photos, photo, plans

_MIB: Final = 1024 * 1024


# ---- pictures and weights --------------------------------------------------------------------------


def pictures() -> Target:
    def decode(sample: Sample) -> None:
        assert read_picture(sample[0]).dtype == np.uint8

    # 16 megapixels, the limit, take 250 MiB on their way through RGBA.
    return Target("pictures", encoded_photos(), decode, (InvalidInputError,), 10.0, 512 * _MIB, seal_png)


def relevance_maps() -> Target:
    grid = PatchGrid(40, 24)
    corpus = [*encoded_photos(), (png_bytes(photo(40, 24)[:, :, 0]),)]

    def decode(sample: Sample) -> None:
        found = read_relevance(sample[0], grid)
        assert found.shape == (24, 40)
        assert found.min() >= 0
        assert found.max() <= 1

    return Target("relevance-maps", corpus, decode, (InvalidInputError,), 10.0, 512 * _MIB, seal_png)


def _scratch() -> Path:
    """A place for a file, in memory where there is one."""
    memory = Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="mmsc-fuzz-", dir=memory if memory.is_dir() else None)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder) / "file"


_JSON = (
    *(b"{", b"}", b"[", b"]", b'{"a":', b"[[", b"null", b"-1", b"0", b"1e999", b"NaN", b"true", b'""', b"65536"),
    *(b'"__metadata__":', b'"F64"', b'"F32"', b'"F16"', b'"BF16"', b'"I8"', b'"I16"', b'"U8"', b'"U16"', b'"U32"'),
    *(b'"dtype":', b'"shape":', b'"data_offsets":', b"18446744073709551616", b"4294967296", b",", b":"),
)


def _weights_file(header: bytes, tensors: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header + tensors


def _split(data: bytes) -> Sample:
    """Header and tensors of a weights file."""
    size = int.from_bytes(data[:8], "little")
    return data[8 : 8 + size], data[8 + size :]


def weights() -> Target:
    """Files whose header was damaged, with its size put right or not."""
    path = _scratch()
    write_weights(path, "tag-1", {"a": np.arange(24.0).reshape(4, 6), "b": np.arange(5, dtype=np.int8)}, {"n": "x"})
    corpus = [_split(path.read_bytes())]
    write_weights(path, "tag-1", {}, {})
    corpus += [_split(path.read_bytes()), (path.read_bytes(),)]

    def decode(sample: Sample) -> None:
        path.write_bytes(_weights_file(sample[0], b"".join(sample[1:])) if len(sample) > 1 else b"".join(sample))
        read_weights(path, "tag-1")

    return Target("weights", corpus, decode, (WeightsError,), 1.0, 32 * _MIB, tokens=_JSON)


_LOADERS: Sequence[tuple[str, Callable[[Path], object]]] = (
    ("ladder.safetensors", load_ladder),
    ("entropy.safetensors", load_lossy),
    ("lossless.safetensors", load_lossless),
    ("level_map.safetensors", load_tables),
    ("entropy_level_map.safetensors", load_network),
    ("restoration.safetensors", Restorer.load),
    ("entropy_restoration.safetensors", EntropyRestorer.load),
    ("relevance.safetensors", load_relevance),
)


def models() -> Target:
    """The shipped weights: the number of the loader, the header, and the first of the tensors' bytes."""
    path, tails, corpus = _scratch(), [], []
    for number, (file, _) in enumerate(_LOADERS):
        header, tensors = _split(default_path(file).read_bytes())
        corpus.append((bytes([number]), header, tensors[:4_096]))
        tails.append(tensors[4_096:])

    def decode(sample: Sample) -> None:
        number, header, *first = (*sample, b"", b"")[:3]
        chosen = (number + b"\0")[0] % len(_LOADERS)
        path.write_bytes(_weights_file(header, b"".join(first) + tails[chosen]))
        _LOADERS[chosen][1](path)

    return Target("models", corpus, decode, (WeightsError,), 6.0, 256 * _MIB, tokens=_JSON)


def journals() -> Target:
    packets = pack(plans("ladder")[0], TRANSMISSION)
    corpus = [(journal_start(TRANSMISSION, 1.7e9), *map(record, packets[:count])) for count in (0, 1, len(packets))]

    def decode(sample: Sample) -> None:
        data = b"".join(sample)
        journal = read_journal(data)
        assert journal.sound_bytes <= len(data)
        assert all(packet.transmission_id == journal.transmission_id for packet in journal.packets)

    return Target("journal", corpus, decode, (StreamError,), 0.5, 32 * _MIB)


def traces() -> Target:
    table = "time_s,rate_bps\n0,1000\n0.5,2e5\n1,0\n2.5,64000\n"
    corpus = [(b"0\n1\n1\n5\n10\n",), (table.encode(),), (b"# a comment\n0,1\n1,2\n",)]
    corpus.append(("\n".join(map(str, range(0, 900, 7))).encode(),))
    assert shipped_trace("lte").opportunities_ms

    def decode(sample: Sample) -> None:
        parse_trace("fuzzed", sample[0].decode("utf-8", "replace"))

    words = (
        b",",
        b"\n",
        b"nan",
        b"inf",
        b"1e999",
        b"-",
        b"0",
        b"9",
        b"#",
        b"time_s,rate_bps",
        "\u0663\u00b2".encode(),
        b"_",
    )
    return Target("traces", corpus, decode, (InvalidInputError,), 1.0, 32 * _MIB, tokens=words)
