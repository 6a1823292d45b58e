"""The numbers in SECURITY.md are those of the code, and what it says of the defaults is so."""

import re
from pathlib import Path

import pytest

from channel_emulator.config import ChannelConfig
from channel_emulator.relay import BACKLOG_BYTES
from receiver.config import ReceiverConfig
from receiver.ingest import MAX_OPEN
from shared.auth import MIN_TOKEN_CHARACTERS
from shared.boundary import UPLOAD_TIMEOUT_S
from shared.gate import HEALTH_RPCS
from shared.limits import BURST_S, RpcLimits
from shared.net import is_loopback
from shared.packets import MAX_PACKET_BYTES
from shared.patches import MAX_PIXELS, MAX_SIDE
from shared.service import MAX_UPLOAD_BYTES, ServiceConfig
from transmitter.config import TransmitterConfig
from transmitter.pipeline import MAX_QUERY_CHARACTERS

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "SECURITY.md").read_text()
ROWS = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \| [^|]+ \|$", TEXT, flags=re.MULTILINE))
MIB = 1 << 20
RECEIVER = ReceiverConfig()


@pytest.mark.parametrize(
    ("what", "number"),
    [
        ("calls at once, transmitter", f"{TransmitterConfig().limits.total}"),
        ("calls at once, channel and receiver", f"{ChannelConfig().limits.total}"),
        ("calls at once, channel and receiver", f"{RECEIVER.limits.total}"),
        ("new calls per second, per peer", f"no limit; bursts of {BURST_S:g} s"),
        ("health calls at once", f"{HEALTH_RPCS}"),
        ("upload, encoded", f"{MAX_UPLOAD_BYTES // MIB} MiB, within {UPLOAD_TIMEOUT_S:g} s"),
        ("picture", f"{MAX_PIXELS:,} pixels, {MAX_SIDE:,} a side"),
        ("query", f"{MAX_QUERY_CHARACTERS:,} characters are read"),
        ("pictures worked on at once", f"{TransmitterConfig().jobs}"),
        ("packet", f"{MAX_PACKET_BYTES:,} bytes"),
        ("queue of a stream", f"{ChannelConfig().link.queue_bytes:,} bytes"),
        ("waiting for a receiver that does not read", f"{BACKLOG_BYTES // MIB} MiB per stream"),
        ("transmissions open on one stream", f"{MAX_OPEN}"),
        (
            "transmissions kept, and their memory",
            f"{RECEIVER.max_transmissions}, {RECEIVER.max_stored_bytes // MIB} MiB",
        ),
        ("token", f"at least {MIN_TOKEN_CHARACTERS} characters"),
    ],
)
def test_the_document_tells_the_limits_of_the_code(what, number):
    assert ROWS[what] == number


def test_without_settings_nothing_of_this_is_on():
    limits = RpcLimits()
    assert (limits.per_peer, limits.per_peer_rate) == (0, 0)
    for config in (TransmitterConfig(), ChannelConfig(), ReceiverConfig()):
        assert isinstance(config, ServiceConfig)
        assert is_loopback(config.listen)
        assert not config.metrics_listen
        assert config.tls.credentials() is None
        assert config.tokens is None


def test_the_files_that_the_document_names_are_there():
    for path in re.findall(r"`((?:docs|shared|transmitter|receiver|channel_emulator|tests)/[\w/.]+)`", TEXT):
        assert (ROOT / path).is_file(), path
