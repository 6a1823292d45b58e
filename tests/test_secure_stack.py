"""The three services as processes with mutual TLS and tokens on every hop, and how each ends at SIGTERM."""

import json
import time
from dataclasses import replace

import numpy as np
import pytest
import skimage.data
from certificates import access, authority
from click.testing import CliRunner

from channel_emulator.__main__ import main as channel_main
from client.api import Budget, Client, Link
from client.cli import run
from client.stack import LocalStack, StackConfig
from receiver.__main__ import main as receiver_main
from shared.errors import BusyError, InvalidInputError, UnauthenticatedError, UnavailableError
from shared.health import probe
from shared.pictures import png_bytes, read_picture
from shared.tls import Access
from transmitter.__main__ import main as transmitter_main

_PHOTO = skimage.data.chelsea()[:96, :128]
_COMMANDS = {"transmitter": transmitter_main, "channel": channel_main, "receiver": receiver_main}
_TOKEN = "the-token-of-this-test"
PATIENCE_S = 60.0


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A directory with the certificates, a token file, and one with another token."""
    directory = tmp_path_factory.mktemp("secrets")
    (directory / "tokens").write_text(f"{_TOKEN} this test\n")
    (directory / "foreign").write_text("a-token-of-elsewhere\n")
    return directory


@pytest.fixture(scope="module")
def stack(files):
    """All three, each with the same certificate and token, outgoing and incoming."""
    ours, tokens = authority("ours"), str(files / "tokens")
    pair = (str(ours / "service.pem"), str(ours / "service.key"))
    ca = str(ours / "ca.pem")
    incoming = ("--tls-cert", pair[0], "--tls-key", pair[1], "--tls-client-ca", ca, "--tokens", tokens, "--grace", "20")
    outgoing = ("--ca", ca, "--cert", pair[0], "--key", pair[1], "--token-file", tokens)
    arguments = {
        "transmitter": (*incoming, *outgoing, "--max-rpcs", "1"),
        "channel": (*incoming, *outgoing),
        "receiver": incoming,
    }
    trusted = access(cert="ours", token_file=files / "tokens")
    config = StackConfig(link=Link(rate_bps=4e6, propagation_s=0.005), arguments=arguments, access=trusted)
    with LocalStack(config) as running:
        yield running


def client_of(stack, through: Access) -> Client:
    return Client(stack.transmitter, stack.channel, stack.receiver, PATIENCE_S, through)


def test_a_photo_crosses_three_hops_of_mutual_tls(stack):
    with stack.client() as client:
        sent = client.transmit(png_bytes(_PHOTO), "cat", Budget(percent_of_raw=200))
        picture = read_picture(client.reconstruction(sent.transmission_id).image_png)
    np.testing.assert_array_equal(picture, _PHOTO)


@pytest.mark.parametrize("service", ["transmitter", "channel", "receiver"])
def test_every_hop_is_closed_to_others(stack, files, service):
    def ask(through: Access) -> None:
        with client_of(stack, through) as client:
            calls = {
                "transmitter": client.transmitter_info,
                "channel": client.link,
                "receiver": lambda: client.reconstruction("00000000"),
            }
            calls[service]()

    trusted = access(cert="ours", token_file=files / "tokens")
    if service == "receiver":
        with pytest.raises(InvalidInputError, match="unknown or forgotten"):
            ask(trusted)
    else:
        ask(trusted)
    with pytest.raises(UnauthenticatedError, match=rf"{service} at .*: the token is not one of this service's"):
        ask(replace(trusted, token_file=files / "foreign"))
    with pytest.raises(UnauthenticatedError, match="this service wants a token"):
        ask(replace(trusted, token_file=None))
    with pytest.raises(UnavailableError, match=r"does it want TLS, or a certificate"):
        ask(replace(trusted, cert=None, key=None))
    with pytest.raises(UnavailableError, match="not of the CA that was given"):
        ask(replace(trusted, ca=authority("foreign") / "ca.pem"))
    with pytest.raises(UnavailableError, match=r"does it want TLS"):
        ask(Access())


def test_the_command_line_says_in_one_line_what_is_wrong(stack, files, capsys, monkeypatch):
    ours = authority("ours")
    for name, path in {"CA": ours / "ca.pem", "CERT": ours / "client.pem", "KEY": ours / "client.key"}.items():
        monkeypatch.setenv(f"MMSC_{name}", str(path))
    show = ("channel", "show", "--json", "--channel", stack.channel)
    assert run([*show, "--token-file", str(files / "tokens")]) == 0
    assert json.loads(capsys.readouterr().out)["rate_bps"] == 4e6
    assert run([*show, "--token-file", str(files / "foreign")]) == 2
    said = f"mmsc: channel at {stack.channel}: the token is not one of this service's (--token-file)\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("service", sorted(_COMMANDS))
def test_a_service_whose_files_do_not_fit_ends_in_words(service):
    ours = authority("ours")
    wrong = ["--listen", "127.0.0.1:0", "--tls-cert", str(ours / "service.pem"), "--tls-key", str(ours / "absent")]
    if service != "channel":  # the other two would load their weights first
        wrong = wrong[:-2]
    result = CliRunner().invoke(_COMMANDS[service], wrong)
    assert result.exit_code == 2
    expected = "tls_key: cannot read" if service == "channel" else "tls_key: is missing: tls_cert needs it"
    assert expected in result.stderr
    assert "Traceback" not in result.stderr


# ---- SIGTERM; ends the stack, so last in the file --------------------------------------------------


def test_at_sigterm_each_service_ends_its_transmission_refuses_new_ones_and_exits_cleanly(stack, files):
    """All three are asked at once, while a transmission is on its way through them."""
    trusted = access(cert="ours", token_file=files / "tokens")
    seen = {}

    def terminate(event) -> None:
        if event.WhichOneof("event") != "progress" or seen:
            return
        with client_of(stack, trusted) as second:
            with pytest.raises(BusyError, match="all 1 places are taken") as busy:
                second.transmitter_info()
            seen["retry_s"] = busy.value.retry_s
        for child in stack._children:
            child.ask_to_stop()
        for child in stack._children:
            address = getattr(stack, child.name)
            seen[child.name] = status_after_drain(address, trusted)
        with client_of(stack, trusted) as second:
            for call in (second.transmitter_info, second.link, lambda: second.reconstruction("00000000")):
                with pytest.raises(UnavailableError, match="the service is shutting down"):
                    call()

    with client_of(stack, trusted) as client:
        client.set_link(Link(rate_bps=40_000))
        sent = client.transmit(png_bytes(_PHOTO), "cat", Budget(wire_bytes=9_000), on_event=terminate)
    assert sent.delivered.received_bytes == sent.delivered.wire_bytes - sent.delivered.poll_bytes > 0
    assert seen == {"retry_s": 1.0, "transmitter": "not serving", "channel": "not serving", "receiver": "not serving"}
    until_s = time.monotonic() + PATIENCE_S
    for child in stack._children:
        assert child._process.wait(max(until_s - time.monotonic(), 0)) == 0, child.death()


def status_after_drain(address: str, trusted: Access) -> str:
    """What health says as soon as it no longer says that all is well."""
    until_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < until_s:
        if wrong := probe(address, access=trusted):
            return wrong
        time.sleep(0.01)
    return "serving"
