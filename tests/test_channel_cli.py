"""`mmsc channel` against the emulator's own rules: what the options make of a link."""

import json
import re
from functools import partial
from pathlib import Path

import pytest
from commands import run_mmsc

from channel_emulator.bank import LinkBank
from channel_emulator.config import ChannelConfig
from channel_emulator.fading import Fading, FadingKind
from channel_emulator.impairments import Blackouts, GilbertElliott, Impairments
from channel_emulator.messages import changes, state_message
from channel_emulator.settings import LinkSettings, Schedule
from client import link_changes
from client.commands import channel
from shared.stubs.mmsc.v1 import channel_pb2


class Emulator:
    """Stands in for the client and the emulator behind it."""

    def __init__(self) -> None:
        config = ChannelConfig()
        self.forward, self.backward = LinkBank(config.link), LinkBank(config.backward, name="backward")

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None:
        pass

    def link(self) -> channel_pb2.LinkState:
        state = state_message(self.forward, 0.0)
        state.backward.CopyFrom(state_message(self.backward, 0.0))
        return state

    def change_link(self, request: channel_pb2.SetLinkRequest) -> channel_pb2.LinkState:
        there, back = changes(self.forward.settings, self.backward.settings, request)
        self.forward.configure(there.settings, 0.0)
        self.backward.configure(back.settings, 0.0)
        return self.link()


@pytest.fixture
def emulator(monkeypatch):
    emulator = Emulator()
    monkeypatch.setattr(channel, "Client", lambda **_: emulator)
    return emulator


@pytest.fixture
def mmsc(emulator, capfd):
    """Runs `mmsc channel`; gives exit code, output and the lines of errors."""
    return partial(run_mmsc, capfd, "channel")


def rows(output: str) -> dict[str, str]:
    return dict(line.split() for line in output.splitlines())


def test_show_tells_both_directions(mmsc):
    code, output, _ = mmsc("show")
    assert code == 0
    assert rows(output)["rate_bps"] == "1,000,000"
    assert rows(output)["backward.rate_bps"] == "1,000,000,000,000"
    assert rows(output)["delivered_packets"] == rows(output)["backward.lost_packets"] == "0"
    code, output, _ = mmsc("show", "--json")
    assert (json.loads(output)["queue_bytes"], json.loads(output)["backward"]["queue_bytes"]) == (65_536, 2**24)


def test_set_makes_impairments(mmsc, emulator):
    arguments = (
        "--gilbert-elliott 0.01,0.2,0.9 --burst-loss 0.001,5 --bit-error-rate 1e-6 --duplicate-rate 0.1 "
        "--reorder 0.2,30ms --jitter 5ms --blackout 2s-2.5s --blackout 4-5 --blackout-period 10s --loss-rate 0.3"
    )
    code, output, errors = mmsc("set", *arguments.split())
    assert (code, errors) == (0, [])
    expected = Impairments(
        gilbert_elliott=GilbertElliott(0.01, 0.2, bad_loss_rate=0.9),
        burst_rate=0.001,
        burst_packets=5,
        bit_error_rate=1e-6,
        duplicate_rate=0.1,
        reorder_rate=0.2,
        reorder_s=0.03,
        jitter_s=0.005,
        blackouts=Blackouts(((2.0, 2.5), (4.0, 5.0)), 10.0),
    )
    assert (emulator.forward.settings.impairments, emulator.forward.settings.loss_rate) == (expected, 0.3)
    assert rows(output)["impairments.blackouts.intervals"] == "2:2.5;4:5"
    mmsc("set", "--clean", "--jitter", "1ms")
    assert emulator.forward.settings == LinkSettings(impairments=Impairments(jitter_s=0.001))


def test_set_makes_impairments_of_each_stream_and_of_the_way_back(mmsc, emulator):
    mmsc("set", "--loss-rate", "0.2", "--each-stream", "--backward")
    assert emulator.forward.settings == LinkSettings()
    assert emulator.backward.settings.stream_impairments == Impairments(loss_rate=0.2)
    assert emulator.backward.settings.loss_rate == 0.0


def test_set_makes_schedules_queues_and_links_of_ones_own(mmsc, emulator):
    arguments = "--point 0:1Mbit --point 2s:0 --period 4s --queue-time 200ms --burst-bytes 3000 --per-stream"
    code, output, _ = mmsc("set", *arguments.split())
    assert code == 0
    settings = emulator.forward.settings
    assert settings.model == Schedule(((0.0, 1e6), (2.0, 0.0)), 4.0)
    assert (settings.queue_s, settings.burst_bytes, settings.per_stream) == (0.2, 3_000, True)
    assert rows(output)["model.schedule.points"] == "0:1,000,000;2:0"
    mmsc("set", "--rate", "64kbit", "--shared")
    assert (emulator.forward.settings.model, emulator.forward.settings.per_stream) == (None, False)


def test_set_makes_fading(mmsc, emulator):
    arguments = "--fading rician --k-factor 5 --snr-db 12 --bandwidth-hz 2e6 --gap-db 3 --coherence 5ms"
    code, output, _ = mmsc("set", *arguments.split(), "--threshold-db", "2")
    assert code == 0
    assert emulator.forward.settings.model == Fading(FadingKind.RICIAN, 12.0, 2e6, 3.0, 0.005, 5.0, 2.0)
    assert rows(output)["model.fading.kind"] == "FADING_KIND_RICIAN"


def test_replay_plays_a_shipped_trace_or_a_file(mmsc, emulator, tmp_path, monkeypatch):
    code, output, _ = mmsc("replay", "lte", "--json")
    assert code == 0
    assert json.loads(output)["model"]["trace"] == {"name": "lte", "content": "", "once": False}
    assert emulator.forward.settings.propagation_s == 0.03
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.csv").write_text("0,1e6\n1,2e6\n")
    code, _, _ = mmsc("replay", "own.csv", "--once", "--propagation", "1ms", "--backward")
    assert code == 0
    replayed = emulator.backward.settings.model
    assert (replayed.trace.name, replayed.trace.points, replayed.once) == ("own.csv", ((0.0, 1e6), (1.0, 2e6)), True)
    assert (emulator.backward.settings.propagation_s, emulator.forward.settings.propagation_s) == (0.001, 0.03)


def documented() -> list[str]:
    """The commands of docs/channel.md, without what is said about them."""
    text = (Path(__file__).parents[1] / "docs/channel.md").read_text()
    return [re.split(r"\s{2,}", line)[0] for line in text.splitlines() if line.startswith("mmsc channel ")]


@pytest.mark.parametrize("line", documented())
def test_the_documented_commands_do_what_they_say(mmsc, emulator, line):
    before = emulator.link()
    code, _, errors = mmsc(*line.split()[2:])
    assert (code, errors) == (0, [])
    if line.split()[2] == "set" and "--clean" not in line:
        assert emulator.link() != before


def test_the_documented_commands_are_found():
    assert len(documented()) > 5


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("set", "nothing to set"),
        ("set --backward", "nothing to set"),
        ("set --k-factor 3", "--fading"),
        ("set --period 3s", "--point"),
        ("set --blackout-period 3s", "--blackout"),
        ("set --fading awgn --point 0:1Mbit", "exclude"),
        ("set --point 1Mbit", "TIME:RATE"),
        ("set --point 0:1parsec", "parsec"),
        ("set --gilbert-elliott 0.1", "TO_BAD"),
        ("set --gilbert-elliott a,b", "TO_BAD"),
        ("set --gilbert-elliott 0.1,1.5", "bad_to_good"),
        ("set --burst-loss 0.1,-3", "RATE,PACKETS"),
        ("set --burst-loss 0.1,99999999999", "RATE,PACKETS"),
        ("set --burst-loss 0.1,2000000", "burst_packets"),
        ("set --blackout 3s-2s", "settings.impairments.blackouts.intervals"),
        ("set --fading rayleigh --snr-db 500", "settings.model.fading.mean_snr_db"),
        ("set --queue-time 2h", "--queue-time"),
        ("replay metro", "drone, lte, satellite"),
        ("replay bad.csv", "line 2"),
        ("replay noise.bin", "trace"),
        ("replay empty.csv", "content"),
        ("replay huge.csv", "larger"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(mmsc, tmp_path, monkeypatch, arguments, said):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(link_changes, "MAX_TRACE_BYTES", 20)
    (tmp_path / "bad.csv").write_text("0,1e6\nx\n")
    (tmp_path / "noise.bin").write_bytes(bytes([200, 201, 202]))
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "huge.csv").write_text("1\n" * 20)
    code, output, errors = mmsc(*arguments.split())
    assert (code, output) == (2, "")
    assert len(errors) == 1
    assert said in errors[0]
