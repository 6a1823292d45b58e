"""The Python client against scripted services."""

import numpy as np
import pytest
from client_fakes import TRANSMISSION, Script, photo, services

from client.api import Budget, Client, Link, Options
from shared.errors import (
    BusyError,
    DeadlineError,
    InvalidInputError,
    StreamError,
    UnauthenticatedError,
    UnavailableError,
    WeightsError,
)
from shared.pictures import png_bytes, read_picture
from shared.service import MAX_UPLOAD_BYTES
from shared.stubs.mmsc.v1 import common_pb2, transmitter_pb2

PHOTO = png_bytes(photo())


@pytest.fixture
def script():
    return Script()


@pytest.fixture
def client(script):
    with services(script) as address, Client(address, address, address, timeout_s=10) as connected:
        yield connected


def test_events_are_gathered_and_passed_on(client):
    kinds = []
    sent = client.transmit(PHOTO, "square", on_event=lambda event: kinds.append(event.WhichOneof("event")))
    assert kinds == ["relevance", "plan", "progress", "delivered"]
    assert sent.transmission_id == TRANSMISSION
    assert sent.outcome == "complete"
    assert sent.delivered.wire_bytes == sent.plan.wire_bytes > 0
    assert read_picture(sent.relevance.relevance_png).shape == photo().shape


def test_the_request_says_what_was_asked(client, script):
    options = Options("vit-sc", packet_bytes=600, extractor="other", relevance_png=b"map", return_maps=False)
    client.transmit(PHOTO, "a red bus", Budget(deadline_s=0.5), options)
    (request,) = script.requests
    assert request.image == PHOTO
    assert request.query == "a red bus"
    assert request.budget.WhichOneof("limit") == "deadline_s"
    assert request.budget.deadline_s == 0.5
    assert request.options == transmitter_pb2.TransmitOptions(
        allocation=transmitter_pb2.ALLOCATION_VIT_SC,
        packet_bytes=600,
        extractor="other",
        relevance_png=b"map",
        return_maps=False,
    )


def test_deadline_and_the_transmission_to_take_up_are_asked_for(client, script):
    options = Options(deadline_s=1.5, transmission_id="0BADcafe", open_loop=True)
    client.transmit(PHOTO, "", Budget(wire_bytes=4000), options)
    asked = script.requests[0].options
    assert (asked.deadline_s, asked.transmission_id, asked.open_loop) == (1.5, "0BADcafe", True)


def test_plans_made_anew_are_kept(client, script):
    script.replanned = True
    sent = client.transmit(PHOTO)
    assert [(event.revision, event.wire_bytes) for event in sent.replanned] == [(1, 800)]
    assert (sent.delivered.revisions, sent.delivered.deadline_met) == (2, True)


def test_two_percent_is_the_budget_unless_said(client, script):
    client.transmit(PHOTO)
    assert script.requests[0].budget.percent_of_raw == 2
    assert script.requests[0].options.allocation == transmitter_pb2.ALLOCATION_RATE_DISTORTION


def test_text_that_is_no_unicode_can_be_asked(client, script):
    client.transmit(PHOTO, "caf\udce9")
    assert script.requests[0].query == "caf?"


@pytest.mark.parametrize(
    ("budget", "field"),
    [
        ({}, "budget"),
        ({"wire_bytes": 10, "deadline_s": 1.0}, "budget"),
        ({"wire_bytes": 0}, "budget.wire_bytes"),
        ({"wire_bytes": 10**30}, "budget.wire_bytes"),
        ({"percent_of_raw": float("nan")}, "budget.percent_of_raw"),
        ({"deadline_s": -1.0}, "budget.deadline_s"),
        ({"deadline_s": 1e6}, "budget.deadline_s"),
    ],
)
def test_impossible_budgets_are_refused_here(budget, field):
    with pytest.raises(InvalidInputError) as caught:
        Budget(**budget)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "options",
    [
        {"allocation": "best"},
        {"packet_bytes": 255},
        {"packet_bytes": 65_001},
        {"deadline_s": 0.0},
        {"deadline_s": float("nan")},
        {"deadline_s": 1e6},
        {"transmission_id": "0badcaf"},
        {"transmission_id": "0badcafg"},
    ],
)
def test_impossible_options_are_refused_here(options):
    with pytest.raises(InvalidInputError, match=f"options.{next(iter(options))}"):
        Options(**options)


@pytest.mark.parametrize("image", [b"", bytes(MAX_UPLOAD_BYTES + 1)], ids=["empty", "too large"])
def test_pictures_that_cannot_be_uploaded_are_refused_here(client, script, image):
    with pytest.raises(InvalidInputError) as caught:
        client.transmit(image)
    assert caught.value.field == "image"
    assert not script.requests


@pytest.mark.parametrize(
    ("told", "meant"),
    [
        (InvalidInputError("query", "is too long"), InvalidInputError),
        (StreamError("header lost"), StreamError),
        (DeadlineError("too late"), DeadlineError),
        (UnavailableError("receiver is gone"), UnavailableError),
        (WeightsError("no weights"), UnavailableError),
    ],
)
def test_statuses_become_errors_of_ours(client, script, told, meant):
    script.error = told
    with pytest.raises(meant) as caught:
        client.transmit(PHOTO)
    assert type(caught.value) is meant
    assert str(told) in str(caught.value)


def test_the_refused_field_keeps_its_name(client, script):
    script.error = InvalidInputError("options.relevance_png", "map is 3x3")
    with pytest.raises(InvalidInputError) as caught:
        client.relevance(PHOTO)
    assert caught.value.field == "options.relevance_png"
    assert caught.value.description == "map is 3x3"


def test_no_service_is_said_with_its_address():
    with Client("127.0.0.1:1", "127.0.0.1:1", "127.0.0.1:1", timeout_s=5) as client:
        with pytest.raises(UnavailableError, match=r"transmitter at 127\.0\.0\.1:1 does not answer"):
            client.transmit(PHOTO)
        with pytest.raises(UnavailableError, match="channel at"):
            client.link()
        with pytest.raises(UnavailableError, match="receiver at"):
            client.reconstruction(TRANSMISSION)


def test_a_stream_that_ends_without_a_summary_is_an_error(client, script):
    script.ends_early = True
    with pytest.raises(StreamError, match="without a summary"):
        client.transmit(PHOTO)


def test_the_deadline_ends_a_call(client, script):
    script.stall_s = 5.0
    with pytest.raises(DeadlineError):
        client.transmit(PHOTO, timeout_s=0.2)


def test_reconstructions(client, script):
    script.exact = True
    client.transmit(PHOTO)
    received = client.reconstruction(TRANSMISSION)
    assert received.outcome == "complete"
    np.testing.assert_array_equal(read_picture(received.image_png), photo())
    assert [each.outcome for each in client.watch(TRANSMISSION)] == ["complete", "complete"]


def test_an_unknown_transmission_is_named(client):
    with pytest.raises(InvalidInputError) as caught:
        client.reconstruction("00000000")
    assert caught.value.field == "transmission_id"


def test_the_link_is_read_and_changed(client, script):
    assert client.link().settings.rate_bps == 64_000
    changed = client.set_link(Link(rate_bps=1e6, loss_rate=0.0))
    assert changed.settings.rate_bps == 1e6
    assert changed.settings.propagation_s == 0.02
    settings = script.requests[-1].settings
    assert settings.HasField("loss_rate")
    assert not settings.HasField("seed")


def test_the_link_on_the_emulators_command_line():
    link = Link(rate_bps=64e3, propagation_s=1e-6, queue_bytes=4096, loss_rate=0.01, seed=0)
    assert " ".join(link.to_arguments()) == (
        "--rate 64000.000000000bit --propagation 0.000001000s --queue-bytes 4096 --loss-rate 0.010000000 --seed 0"
    )
    assert Link().to_arguments() == ()


def test_every_outcome_has_a_word(client, script):
    script.outcome = common_pb2.OUTCOME_PARTIAL
    assert client.transmit(PHOTO).outcome == "partial"


def test_what_the_transmitter_runs(client):
    assert client.transmitter_info().default_extractor == "embedded"


def test_a_service_that_is_full_says_when_to_come_back(client, script):
    script.error = BusyError("all places are taken", retry_s=2.5)
    with pytest.raises(
        BusyError, match=r"transmitter at .*: resource exhausted: all places are taken; try again in 2.5 s"
    ) as caught:
        client.transmit(PHOTO)
    assert caught.value.retry_s == 2.5


def test_a_token_that_is_not_known_is_told_as_that(client, script):
    script.error = UnauthenticatedError("the token is not one of this service's")
    with pytest.raises(UnauthenticatedError, match=r"transmitter at .*: the token is not one .*--token-file"):
        client.transmit(PHOTO)
