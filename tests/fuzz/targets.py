"""Every decoder of bytes from outside, with real inputs made on the spot."""

import atexit
import shutil
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import numpy as np

from channel_emulator.replay import parse_trace, shipped_trace
from client.files import decode_file, encode_exactly, encode_within, stream_header
from receiver.assembly import Assembly
from receiver.codecs import load_receiver
from receiver.contract import ArrivedPatches, Layout, ReceiverCodec, by_number
from receiver.entropy_restoration import EntropyRestorer
from receiver.header import HeaderSection
from receiver.journal import journal_start, read_journal, record
from receiver.restoration import Restorer
from shared.arrays import UInt8Array
from shared.codec.entropy.codec import Scene, load_entropy_codec
from shared.codec.entropy.levels import EXACT, sending_order
from shared.codec.entropy.lossless import load_lossless
from shared.codec.entropy.weights import load_lossy
from shared.codec.ladder import load_ladder
from shared.codec.registry import codec_numbered
from shared.container import read_frames, write_frames
from shared.entropy_level_map import decode as decode_entropy_map
from shared.entropy_level_map import encode as encode_entropy_map
from shared.entropy_level_map import load_network
from shared.errors import InvalidInputError, PacketError, StreamError, WeightsError
from shared.level_map import decode_level_map, encode_level_map, load_tables
from shared.packets import Packet, StreamHeader
from shared.patches import PatchGrid
from shared.pictures import png_bytes, read_picture, read_relevance
from shared.reports import Report, ReportOutcome
from shared.sketch import decode_sketch, encode_sketch
from shared.weights import default_path, read_weights, write_weights
from transmitter.codecs import load_sender
from transmitter.packing import pack
from transmitter.planning import Plan
from transmitter.relevance.weights import load as load_relevance

from .answers import channel_answers
from .links import link_settings
from .mutations import Sample, seal_frames, seal_packet, seal_png
from .revisions import replanning, revised_packets, stream_of_revisions
from .runner import Target
from .samples import TRANSMISSION, clock, encoded_photos, middle, photo, plans
from .sender import sender
from .services import (
    channel_calls,
    receiver_calls,
    set_link_calls,
    taking_up,
    transmit_requests,
    transmitter_calls,
    whole_transmitter_calls,
)
from .texts import queries, status_messages, tokens, units
from .transport import feedback, repair_blocks, repair_making

_MIB = 1024 * 1024
_SHOWN_PATCHES = 1_024
"""Pictures of more are assembled but not painted: painting takes the time and memory that their size says."""


# ---- packets ---------------------------------------------------------------------------------------


@cache
def _files(name: str) -> tuple[bytes, ...]:
    sender = load_sender(name)
    small = encode_within(photo(96, 72), middle(96, 72), sender, limit_bytes=1_500, clock=clock()).data
    number = int.from_bytes(b"MMS1", "big")
    packets = write_frames(pack(plans(name)[0], number)), write_frames(revised_packets(name, number))
    return small, encode_exactly(photo(24, 24), sender, clock=clock()).data, *packets


def _packets() -> Target:
    corpus = [
        (packet,) for name in ("ladder", "entropy") for plan in plans(name) for packet in pack(plan, TRANSMISSION)
    ]

    def decode(sample: Sample) -> None:
        packet = Packet.from_bytes(sample[0])
        assert packet.to_bytes() == sample[0]

    return Target("packets", corpus, decode, (PacketError,), 0.5, 32 * _MIB, seal_packet)


def _reports() -> Target:
    corpus = [
        (Report(TRANSMISSION, outcome, 10**number, 1_000, 900, 0.25).to_packet(),)
        for number, outcome in enumerate(ReportOutcome)
    ]

    def decode(sample: Sample) -> None:
        Report.from_packet(Packet.from_bytes(sample[0]))

    return Target("reports", corpus, decode, (PacketError,), 0.5, 32 * _MIB, seal_packet)


def _headers() -> Target:
    corpus = [(plan.header.to_bytes(),) for name in ("ladder", "entropy") for plan in plans(name)]

    def decode(sample: Sample) -> None:
        header = StreamHeader.from_bytes(sample[0])
        assert header.to_bytes() == sample[0]
        codec_numbered(header.codec)

    return Target("headers", corpus, decode, (StreamError,), 0.5, 32 * _MIB)


def _fragments() -> Target:
    """A header section from fragments; the first two bytes of each string are where it belongs."""
    corpus = []
    for name in ("ladder", "entropy"):
        for plan in plans(name):
            whole = plan.header.to_bytes()
            cuts = range(0, len(whole), 24)
            corpus.append(tuple(at.to_bytes(3, "big") + whole[at : at + 24] for at in cuts))

    def decode(sample: Sample) -> None:
        section = HeaderSection()
        for part in sample:
            try:
                section.add(int.from_bytes(part[:3], "big"), part[3:])
            except PacketError:
                continue
            if (whole := section.whole()) is not None:
                StreamHeader.from_bytes(whole)

    return Target("fragments", corpus, decode, (StreamError,), 0.5, 32 * _MIB)


# ---- what is in the header -------------------------------------------------------------------------

_GRIDS = (PatchGrid(96, 72), PatchGrid(61, 45), PatchGrid(1, 1), PatchGrid(640, 8), PatchGrid(8, 640))


def _levels(grid: PatchGrid, levels: int, seed: int) -> UInt8Array:
    random = np.random.default_rng(seed)
    coarse = random.integers(0, levels, (grid.rows // 3 + 1, grid.columns // 3 + 1)).astype(np.uint8)
    return np.ascontiguousarray(coarse.repeat(3, 0).repeat(3, 1)[: grid.rows, : grid.columns]).ravel()


def _ladder_maps() -> Target:
    """The first byte chooses the grid, the second the table."""
    corpus = []
    for number, grid in enumerate(_GRIDS):
        for seed in range(3):
            table, coded = encode_level_map(_levels(grid, 5, seed), grid)
            corpus.append((bytes([number, table]) + coded,))

    def decode(sample: Sample) -> None:
        data = sample[0] + bytes(2)
        grid = _GRIDS[data[0] % len(_GRIDS)]
        levels = decode_level_map(sample[0][2:], data[1], grid)
        assert levels.shape == (grid.count,)
        assert levels.max() < 5

    return Target("level-map-ladder", corpus, decode, (StreamError,), 0.5, 32 * _MIB)


def _entropy_maps() -> Target:
    """The first byte chooses the grid."""
    corpus = [
        (bytes([number]) + encode_entropy_map(_levels(grid, 8, seed), grid),)
        for number, grid in enumerate(_GRIDS)
        for seed in range(3)
    ]

    def decode(sample: Sample) -> None:
        grid = _GRIDS[(sample[0] + b"\0")[0] % len(_GRIDS)]
        levels = decode_entropy_map(sample[0][1:], grid)
        assert levels.shape == (grid.count,)
        assert levels.max() < 8

    return Target("level-map-entropy", corpus, decode, (StreamError,), 1.0, 32 * _MIB)


def _sketches() -> Target:
    corpus = [(encode_sketch(photo(96, 72), size),) for size in (0, 1, 12, 100, 768)]

    def decode(sample: Sample) -> None:
        assert decode_sketch(sample[0], _GRIDS[1]).shape == (_GRIDS[1].count, 8, 8, 3)

    return Target("sketch", corpus, decode, (), 0.5, 32 * _MIB)


def _backgrounds() -> Target:
    codec = load_entropy_codec()
    corpus = [(plan.header.sketch,) for plan in plans("entropy")]

    def decode(sample: Sample) -> None:
        assert codec.background(sample[0], _GRIDS[0]).shape == (_GRIDS[0].count, 3)

    return Target("background", corpus, decode, (StreamError,), 1.0, 32 * _MIB)


# ---- patches ---------------------------------------------------------------------------------------


def _body_target(name: str, plan: Plan) -> Target:
    """Bodies of one stream; the first three bytes of each string are its position."""
    codec = load_receiver(name)
    layout = Layout.of(codec.open(plan.header), codec.entry)
    corpus = [tuple(body.position.to_bytes(3, "big") + body.content for body in plan.bodies)]
    corpus += [(part,) for part in corpus[0]]

    def decode(sample: Sample) -> None:
        pieces, end = [], 0
        for part in sorted(sample):
            position, body = int.from_bytes(part[:3], "big"), part[3:]
            codec.usable(layout, position, body)
            try:
                found = codec.pieces(layout, position, body)
            except PacketError:
                continue
            if position >= end:  # the assembly lets none overlap
                pieces += found
                end = found[-1].place.stop
        decoded = ArrivedPatches(codec, plan.header, layout, tuple(pieces), 1).decode()
        assert decoded.read_patches <= sum(piece.patches for piece in pieces)

    return Target(f"bodies-{name}", corpus, decode, (), 2.0, 32 * _MIB)


def _ladder_bodies() -> Target:
    return _body_target("ladder", plans("ladder")[0])


def _entropy_bodies() -> Target:
    return _body_target("entropy", plans("entropy")[0])


def _entropy_cut() -> Target:
    """Bodies of which but the beginning is there, as read from a file that was cut off."""
    codec, plan = load_receiver("entropy"), plans("entropy")[2]
    layout = Layout.of(codec.open(plan.header), codec.entry)
    corpus = [(body.position.to_bytes(3, "big") + body.content,) for body in plan.bodies]

    def decode(sample: Sample) -> None:
        position = int.from_bytes(sample[0][:3], "big")
        body = codec.usable(layout, position, sample[0][3:])
        pieces = tuple(codec.pieces(layout, position, body))
        ArrivedPatches(codec, plan.header, layout, pieces, 1).decode()

    return Target("bodies-entropy-cut", corpus, decode, (PacketError,), 2.0, 32 * _MIB)


def _lossless() -> Target:
    """Bodies of exact patches."""
    codec, plan = load_entropy_codec(), plans("entropy")[3]
    grid, levels = plan.header.grid, np.full(plan.header.grid.count, EXACT, np.uint8)
    scene = Scene(grid, levels, 0, 0, sending_order(levels, grid), np.zeros((grid.count, 3)))
    corpus = [(body.content,) for body in plan.bodies]
    corpus.append((len(levels).to_bytes(2, "big") + b"\1" + bytes(grid.count * 192),))

    def decode(sample: Sample) -> None:
        patches, _ = codec.decode(scene, [(0, sample[0])])
        assert patches.shape == (grid.count, 8, 8, 3)

    return Target("lossless", corpus, decode, (), 2.0, 32 * _MIB)


# ---- whole transmissions and files -----------------------------------------------------------------


def _stream(name: str) -> Target:
    codecs = by_number(load_receiver("ladder"), load_receiver("entropy"))
    corpus = [tuple(pack(plan, TRANSMISSION)) for plan in plans(name)]

    def decode(sample: Sample) -> None:
        assembly = Assembly(TRANSMISSION, codecs, 0.0)
        for number, data in enumerate(sample):
            try:
                assembly.accept(Packet.from_bytes(data), float(number))
            except (PacketError, StreamError):
                continue
        assembly.close()
        arrived = assembly.snapshot()
        if arrived is not None and arrived.header.grid.count <= _SHOWN_PATCHES:
            grid = arrived.header.grid
            assert arrived.decode().paint().shape == (grid.height, grid.width, 3)
        Report.from_packet(Packet.from_bytes(assembly.report(0.0).to_packet()))

    return Target(f"stream-{name}", corpus, decode, (), 6.0, 256 * _MIB, seal_packet)


def _containers() -> Target:
    corpus = [(data,) for name in ("ladder", "entropy") for data in _files(name)]

    def decode(sample: Sample) -> None:
        stream_header(read_frames(sample[0]))

    return Target("container", corpus, decode, (StreamError, InvalidInputError), 1.0, 32 * _MIB, seal_frames)


def _pictures_of_files() -> Target:
    codecs: dict[str, ReceiverCodec] = {name: load_receiver(name) for name in ("ladder", "entropy")}
    corpus = [(data,) for name in codecs for data in _files(name)]

    def decode(sample: Sample) -> None:
        contents = read_frames(sample[0])
        header = stream_header(contents)
        if header.grid.count <= _SHOWN_PATCHES:
            decode_file(contents, codecs[codec_numbered(header.codec).name], clock())

    return Target("files", corpus, decode, (StreamError, InvalidInputError), 6.0, 256 * _MIB, seal_frames)


# ---- pictures and weights --------------------------------------------------------------------------


def _pictures() -> Target:
    def decode(sample: Sample) -> None:
        assert read_picture(sample[0]).dtype == np.uint8

    # 16 megapixels, the limit, take 250 MiB on their way through RGBA.
    return Target("pictures", encoded_photos(), decode, (InvalidInputError,), 10.0, 512 * _MIB, seal_png)


def _relevance_maps() -> Target:
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


def _weights() -> Target:
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


def _models() -> Target:
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


def _journals() -> Target:
    packets = pack(plans("ladder")[0], TRANSMISSION)
    corpus = [(journal_start(TRANSMISSION, 1.7e9), *map(record, packets[:count])) for count in (0, 1, len(packets))]

    def decode(sample: Sample) -> None:
        data = b"".join(sample)
        journal = read_journal(data)
        assert journal.sound_bytes <= len(data)
        assert all(packet.transmission_id == journal.transmission_id for packet in journal.packets)

    return Target("journal", corpus, decode, (StreamError,), 0.5, 32 * _MIB)


def _traces() -> Target:
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


TARGETS: dict[str, Callable[[], Target]] = {
    "packets": _packets,
    "reports": _reports,
    "feedback": feedback,
    "sender": sender,
    "repair": repair_blocks,
    "repair-making": repair_making,
    "headers": _headers,
    "fragments": _fragments,
    "level-map-ladder": _ladder_maps,
    "level-map-entropy": _entropy_maps,
    "sketch": _sketches,
    "background": _backgrounds,
    "bodies-ladder": _ladder_bodies,
    "bodies-entropy": _entropy_bodies,
    "bodies-entropy-cut": _entropy_cut,
    "lossless": _lossless,
    "stream-ladder": lambda: _stream("ladder"),
    "stream-entropy": lambda: _stream("entropy"),
    "revisions-ladder": lambda: stream_of_revisions("ladder"),
    "revisions-entropy": lambda: stream_of_revisions("entropy"),
    "replanning-ladder": lambda: replanning("ladder"),
    "replanning-entropy": lambda: replanning("entropy"),
    "container": _containers,
    "files": _pictures_of_files,
    "pictures": _pictures,
    "relevance-maps": _relevance_maps,
    "journal": _journals,
    "transmit-ladder": lambda: transmit_requests("ladder"),
    "transmit-entropy": lambda: transmit_requests("entropy"),
    "rpc-receiver": receiver_calls,
    "rpc-channel": channel_calls,
    "rpc-set-link": set_link_calls,
    "rpc-transmitter": transmitter_calls,
    "rpc-taking-up": taking_up,
    "rpc-answers": channel_answers,
    "rpc-transmitter-whole": whole_transmitter_calls,
    "weights": _weights,
    "models": _models,
    "traces": _traces,
    "queries": queries,
    "units": units,
    "tokens": tokens,
    "status-details": status_messages,
    "link-settings": link_settings,
}
"""By name, each made when it is asked for."""
