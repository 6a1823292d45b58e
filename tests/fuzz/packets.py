"""Packets, header sections, and what whole transmissions and files of them decode to."""

from functools import cache
from typing import Final

from client.files import decode_file, encode_exactly, encode_within, stream_header
from receiver.assembly import Assembly
from receiver.codecs import load_receiver
from receiver.contract import ReceiverCodec, by_number
from receiver.header import HeaderSection
from shared.codec.registry import codec_numbered
from shared.container import read_frames, write_frames
from shared.errors import InvalidInputError, PacketError, StreamError
from shared.packets import Packet, StreamHeader
from shared.reports import Report, ReportOutcome
from transmitter.codecs import load_sender
from transmitter.packing import pack

from .mutations import Sample, seal_frames, seal_packet
from .revisions import revised_packets
from .runner import Target
from .samples import TRANSMISSION, clock, middle, photo, plans

_MIB: Final = 1024 * 1024
_SHOWN_PATCHES: Final = 1_024
"""Pictures of more are assembled but not painted: painting takes the time and memory that their size says."""


# ---- packets ---------------------------------------------------------------------------------------


def packets() -> Target:
    corpus = [
        (packet,) for name in ("ladder", "entropy") for plan in plans(name) for packet in pack(plan, TRANSMISSION)
    ]

    def decode(sample: Sample) -> None:
        packet = Packet.from_bytes(sample[0])
        assert packet.to_bytes() == sample[0]

    return Target("packets", corpus, decode, (PacketError,), 0.5, 32 * _MIB, seal_packet)


def reports() -> Target:
    corpus = [
        (Report(TRANSMISSION, outcome, 10**number, 1_000, 900, 0.25).to_packet(),)
        for number, outcome in enumerate(ReportOutcome)
    ]

    def decode(sample: Sample) -> None:
        Report.from_packet(Packet.from_bytes(sample[0]))

    return Target("reports", corpus, decode, (PacketError,), 0.5, 32 * _MIB, seal_packet)


def headers() -> Target:
    corpus = [(plan.header.to_bytes(),) for name in ("ladder", "entropy") for plan in plans(name)]

    def decode(sample: Sample) -> None:
        header = StreamHeader.from_bytes(sample[0])
        assert header.to_bytes() == sample[0]
        codec_numbered(header.codec)

    return Target("headers", corpus, decode, (StreamError,), 0.5, 32 * _MIB)


def fragments() -> Target:
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


# ---- whole transmissions and files -----------------------------------------------------------------


def stream(name: str) -> Target:
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


@cache
def _files(name: str) -> tuple[bytes, ...]:
    sender = load_sender(name)
    small = encode_within(photo(96, 72), middle(96, 72), sender, limit_bytes=1_500, clock=clock()).data
    number = int.from_bytes(b"MMS1", "big")
    packets = write_frames(pack(plans(name)[0], number)), write_frames(revised_packets(name, number))
    return small, encode_exactly(photo(24, 24), sender, clock=clock()).data, *packets


def containers() -> Target:
    corpus = [(data,) for name in ("ladder", "entropy") for data in _files(name)]

    def decode(sample: Sample) -> None:
        stream_header(read_frames(sample[0]))

    return Target("container", corpus, decode, (StreamError, InvalidInputError), 1.0, 32 * _MIB, seal_frames)


def pictures_of_files() -> Target:
    codecs: dict[str, ReceiverCodec] = {name: load_receiver(name) for name in ("ladder", "entropy")}
    corpus = [(data,) for name in codecs for data in _files(name)]

    def decode(sample: Sample) -> None:
        contents = read_frames(sample[0])
        header = stream_header(contents)
        if header.grid.count <= _SHOWN_PATCHES:
            decode_file(contents, codecs[codec_numbered(header.codec).name], clock())

    return Target("files", corpus, decode, (StreamError, InvalidInputError), 6.0, 256 * _MIB, seal_frames)
