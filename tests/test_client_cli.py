"""The command line: what it prints, writes and exits with."""

import json
import os
import subprocess
import sys

import pytest
from click.testing import CliRunner
from client_fakes import TRANSMISSION, Script, photo, services
from commands import assert_refused, run_mmsc
from PIL import Image

from client import cli
from client.api import Client
from client.commands import send, up
from shared.errors import DeadlineError, InvalidInputError, UnavailableError
from shared.pictures import png_bytes, read_picture
from shared.stubs.mmsc.v1 import common_pb2

LEVELS = ["level", "patch_bytes", "patches"]
STAGES = {
    "decode_s",
    "relevance_s",
    "encode_s",
    "allocate_s",
    "pack_s",
    "serialization_s",
    "propagation_s",
    "reconstruct_s",
    "overhead_s",
}


@pytest.fixture
def script():
    return Script()


@pytest.fixture
def mmsc(script, tmp_path, monkeypatch, capfd):
    """Runs a command line beside the scripted services; gives exit code, output and errors."""
    (tmp_path / "photo.png").write_bytes(png_bytes(photo()))
    monkeypatch.chdir(tmp_path)
    with services(script) as address:
        for name in ("TRANSMITTER", "CHANNEL", "RECEIVER"):
            monkeypatch.setenv(f"MMSC_{name}", address)

        def run(*arguments):
            code, out, errors = run_mmsc(capfd, *arguments)
            # gRPC's own log lines: its verbosity is set before it is imported, which the tests have done by now.
            return code, out, [line for line in errors if ".cc:" not in line]

        yield run


def test_send_prints_one_json_object(mmsc, tmp_path, script):
    code, out, errors = mmsc("send", "photo.png", "square", "--bytes", "5000", "--json", "--out", "o", "--no-figure")
    summary = json.loads(out)
    assert (code, errors) == (0, [])
    assert summary["transmission_id"] == TRANSMISSION
    assert summary["outcome"] == "complete"
    assert (summary["present"], summary["spread_by_content"]) == (True, False)
    assert summary["budget_bytes"] == 5000
    assert isinstance(summary["wire_bytes"], int)
    assert summary["elapsed_s"] == 1.34
    assert set(summary["stages_s"]) == STAGES
    assert all(isinstance(value, float) for value in summary["stages_s"].values())
    assert [list(level) for level in summary["levels"]] == [LEVELS] * 5
    assert sum(level["patches"] for level in summary["levels"]) == 15 * 10
    assert 20 < summary["masked_psnr_db"] < summary["psnr_db"]
    assert summary["exact"] is False
    assert read_picture((tmp_path / summary["reconstruction"]).read_bytes()).shape == (80, 120, 3)
    assert json.loads((tmp_path / "o/summary.json").read_text()) == summary
    assert script.requests[0].options.return_maps


def test_exact_is_null_decibels(mmsc, script):
    script.exact = True
    _, out, _ = mmsc("send", "photo.png", "--json", "--no-figure")
    summary = json.loads(out)
    assert (summary["psnr_db"], summary["exact"]) == (None, True)
    assert (summary["masked_psnr_db"], summary["masked_exact"]) == (None, True)


def test_send_writes_every_picture_and_tells_a_person(mmsc, tmp_path):
    code, out, errors = mmsc("send", "photo.png", "square", "--out", "o")
    assert (code, errors) == (0, [])
    names = ["original", "relevance", "levels", "reconstruction"]
    for name in names:
        with Image.open(tmp_path / f"o/{name}.png") as image:
            assert image.size == (120, 80)
    assert (tmp_path / "o/figure.png").is_file()
    assert json.loads((tmp_path / "o/summary.json").read_text())["avif_bytes"] > 0
    for said in ("complete", "dB where relevant", *names):
        assert said in out


def test_what_is_not_in_the_picture_is_said_and_how_the_bytes_were_spread(mmsc, script):
    script.present = False
    _, out, _ = mmsc("send", "photo.png", "unicorn", "--no-figure")
    assert "complete, nothing of it found, bytes spread by content" in " ".join(out.split())
    _, out, _ = mmsc("send", "photo.png", "unicorn", "--no-figure", "--json")
    assert (json.loads(out)["present"], json.loads(out)["spread_by_content"]) == (False, True)


def test_the_rate_is_set_before_sending(mmsc, script):
    code, out, _ = mmsc("send", "photo.png", "--rate", "1Mbit", "--deadline", "300ms", "--json", "--no-figure")
    assert code == 0
    set_link, transmit = script.requests
    assert set_link.settings.rate_bps == 1e6
    assert transmit.budget.deadline_s == pytest.approx(0.3)
    assert json.loads(out)["link"]["rate_bps"] == 1e6


def test_a_deadline_with_a_budget_is_an_option_of_its_own(mmsc, script):
    arguments = ("--bytes", "4000", "--deadline", "1.5s", "--open-loop", "--resume", "0badcafe")
    code, _, errors = mmsc("send", "photo.png", *arguments, "--no-figure")
    assert (code, errors) == (0, [])
    (request,) = script.requests
    assert request.budget.wire_bytes == 4000
    assert (request.options.deadline_s, request.options.transmission_id) == (1.5, "0badcafe")
    assert request.options.open_loop


def test_what_went_wrong_on_the_link_and_what_was_done_is_told(mmsc, script):
    script.replanned = True
    code, out, errors = mmsc("send", "photo.png", "square", "--out", "o")
    assert (code, errors) == (0, [])
    told = " ".join(out.split())
    assert "(of these 40 again, 30 repair, 12 questions)" in told
    assert "1.340, deadline met" in told
    link = "about 52 kbit/s, 3 packets lost, planned anew once, 5 patches given up, taken up again once"
    assert link in told
    _, out, _ = mmsc("send", "photo.png", "square", "--json", "--no-figure")
    summary = json.loads(out)
    (replanned,) = summary["replanned"]
    assert (replanned["reason"], replanned["wire_bytes"], replanned["revision"]) == ("less_room", 800, 1)
    assert replanned["estimate"]["rate_bps"] == 48_000
    assert (summary["revisions"], summary["deadline_met"], summary["estimate"]["rate_bps"]) == (2, True, 52_000)


def test_a_transmission_that_broke_says_how_it_is_taken_up(mmsc, script):
    script.breaks = UnavailableError("channel: unavailable: gone")
    code, _, errors = mmsc("send", "photo.png", "square")
    assert (code, len(errors)) == (1, 1)
    assert errors[0].endswith(f"channel: unavailable: gone; --resume {TRANSMISSION} takes it up again")


def test_the_rest_of_the_options_reaches_the_transmitter(mmsc, script):
    options = [
        "--percent",
        "1.5",
        "--allocation",
        "greedy",
        "--packet-bytes",
        "300",
        "--extractor",
        "x",
        "--codec",
        "ladder",
    ]
    mmsc("send", "photo.png", *options, "--packet-bytes", "300", "--relevance", "photo.png", "--no-figure")
    (request,) = script.requests
    assert request.budget.percent_of_raw == 1.5
    assert request.options.packet_bytes == 300
    assert request.options.extractor == "x"
    assert request.options.codec == "ladder"
    assert request.options.relevance_png == png_bytes(photo())


def test_nothing_to_show_fails_and_says_so(mmsc, script):
    script.outcome = common_pb2.OUTCOME_FAILED
    code, out, errors = mmsc("send", "photo.png", "--json")
    summary = json.loads(out)
    assert (code, len(errors)) == (1, 1)
    assert "nothing can be shown" in errors[0]
    assert summary["outcome"] == "failed"
    assert summary["reconstruction"] is None
    assert (summary["psnr_db"], summary["exact"]) == (None, False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["send", "absent.png", "cat"], "absent.png"),
        (["send", ".", "cat"], "image"),
        (["send", "text.txt", "cat"], "no picture"),
        (["send", "photo.png", "cat", "--rate", "12parsec"], "--rate"),
        (["send", "photo.png", "cat", "--rate", "0"], "--rate"),
        (["send", "photo.png", "cat", "--deadline", "soon"], "--deadline"),
        (["send", "photo.png", "cat", "--deadline", "0s"], "budget.deadline_s"),
        (["send", "photo.png", "cat", "--bytes", "0"], "--bytes"),
        (["send", "photo.png", "cat", "--bytes", "1e3"], "--bytes"),
        (["send", "photo.png", "cat", "--percent", "nan"], "budget.percent_of_raw"),
        (["send", "photo.png", "cat", "--bytes", "9", "--percent", "2"], "--bytes and --percent"),
        (["send", "photo.png", "cat", "--bytes", "9", "--deadline", "0s"], "options.deadline_s"),
        (["send", "photo.png", "cat", "--resume", "cafe"], "options.transmission_id"),
        (["send", "photo.png", "cat", "--allocation", "best"], "--allocation"),
        (["send", "photo.png", "cat", "--packet-bytes", "10"], "--packet-bytes"),
        (["send", "photo.png", "cat", "--relevance", "absent.png"], "--relevance"),
        (["send", "photo.png", "cat", "--out", "photo.png"], "--out"),
        (["send", "photo.png", "cat", "--transmitter", "nowhere"], "--transmitter"),
        (["send", "photo.png", "cat", "dog"], "dog"),
        (["send"], "IMAGE"),
        (["sent"], "sent"),
        (["channel", "set"], "nothing to set"),
        (["channel", "set", "--loss-rate", "2"], "--loss-rate"),
        (["relevance", "photo.png", "cat"], "--out"),
        (["relevance", "photo.png", "cat", "--out", "m.png", "--local", "--transmitter", "a:1"], "exclude"),
        (["up", "--receiver", "127.0.0.1"], "--receiver"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(mmsc, tmp_path, script, arguments, said):
    (tmp_path / "text.txt").write_text("no picture at all")
    assert_refused(mmsc(*arguments), said)
    assert not script.requests


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidInputError("options.extractor", "no such\nextractor"), 2),
        (UnavailableError("gone"), 1),
        (DeadlineError("late"), 1),
    ],
)
def test_what_a_service_refuses_is_one_line(mmsc, script, error, code):
    script.error = error
    got, out, errors = mmsc("send", "photo.png", "cat")
    assert (got, out, len(errors)) == (code, "", 1)
    assert str(error).splitlines()[0] in errors[0]


def test_no_service_is_exit_code_1(mmsc):
    code, _, errors = mmsc("send", "photo.png", "cat", "--channel", "127.0.0.1:1")
    assert code == 1
    assert errors == ["mmsc: channel at 127.0.0.1:1 does not answer; is it running?"]


def test_the_unexpected_is_one_line_too(mmsc, monkeypatch):
    def explode(*_arguments):
        raise ZeroDivisionError("three\nlines\nlong")

    monkeypatch.setattr(up, "LocalStack", explode)
    code, _, errors = mmsc("up")
    assert code == 1
    assert errors == ["mmsc: unexpected ZeroDivisionError: three lines long (MMSC_TRACEBACK=1 shows where)"]
    monkeypatch.setenv("MMSC_TRACEBACK", "1")
    with pytest.raises(ZeroDivisionError):
        mmsc("up")


def test_interrupting_is_said(mmsc, monkeypatch):
    def interrupt(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(up, "LocalStack", interrupt)
    code, _, errors = mmsc("up")
    assert (code, errors[-1]) == (130, "mmsc: interrupted")


def test_local_services_are_started_with_the_rate_and_stopped(mmsc, monkeypatch):
    seen = []

    class Stack:
        def __init__(self, config):
            seen.append(config.link.rate_bps)

        def __enter__(self):
            return self

        def __exit__(self, *_details):
            seen.append("stopped")

        def client(self):
            return Client("127.0.0.1:1", os.environ["MMSC_CHANNEL"], "127.0.0.1:1")

        def check(self):
            raise UnavailableError("transmitter ended with code 1: out of memory")

    monkeypatch.setattr(send, "LocalStack", Stack)
    code, _, errors = mmsc("send", "photo.png", "cat", "--local", "--rate", "64kbit")
    assert seen == [64_000, "stopped"]
    assert (code, errors) == (1, ["mmsc: transmitter ended with code 1: out of memory"])


def test_channel_shows_and_sets(mmsc):
    code, out, _ = mmsc("channel", "set", "--rate", "8Mbit", "--propagation", "5ms", "--json")
    assert code == 0
    assert json.loads(out)["rate_bps"] == 8e6
    code, out, _ = mmsc("channel", "show")
    assert code == 0
    assert dict(line.split() for line in out.splitlines())["rate_bps"] == "8,000,000"
    assert dict(line.split() for line in out.splitlines())["propagation_s"] == "0.005"


def test_relevance_from_a_transmitter(mmsc, tmp_path):
    address = os.environ["MMSC_TRANSMITTER"]
    arguments = ["--out", "maps/m.png", "--figure", "maps/f.png", "--json", "--transmitter", address]
    code, out, errors = mmsc("relevance", "photo.png", "square", *arguments)
    assert (code, errors) == (0, [])
    assert json.loads(out)["extractor"] == "fake"
    with Image.open(tmp_path / "maps/m.png") as image:
        assert (image.mode, image.size) == ("L", (120, 80))
    assert read_picture((tmp_path / "maps/f.png").read_bytes()).shape == (80, 120, 3)


def test_relevance_in_this_process(mmsc, tmp_path):
    code, out, errors = mmsc("relevance", "photo.png", "yellow square", "--out", "m.png", "--json")
    assert (code, errors) == (0, [])
    assert json.loads(out)["extractor"] == "embedded"
    with Image.open(tmp_path / "m.png") as image:
        assert image.size == (120, 80)
    code, _, errors = mmsc("relevance", "photo.png", "square", "--out", "m.png", "--extractor", "other")
    assert (code, len(errors)) == (2, 1)


def test_help_lists_every_command_and_imports_none_of_them():
    asked = "import sys; from client.cli import run; run(['--help']); print([m for m in sys.modules if m in %r])"
    heavy = {"torch", "grpc", "matplotlib", "skimage", "client.commands"}
    done = subprocess.run([sys.executable, "-c", asked % heavy], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    for name in ("send", "relevance", "up", "channel", "demo"):
        assert f"  {name}" in done.stdout


def test_every_listed_command_exists():
    context = cli.cli.make_context("mmsc", ["send"], resilient_parsing=True)
    for name in cli.cli.list_commands(context):
        result = CliRunner().invoke(cli.cli, [name, "--help"])
        assert result.exit_code == 0
        assert f"mmsc {name}" in result.output or f"cli {name}" in result.output
