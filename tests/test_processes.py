"""Transmitter and receiver as separate processes that share nothing at run time but the packets."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import skimage.data

from client.api import Budget, Link, Options
from client.stack import LocalStack, StackConfig
from shared.codec.registry import CODECS
from shared.errors import DeadlineError, InvalidInputError, UnavailableError
from shared.pictures import png_bytes, read_picture

_PHOTO = skimage.data.chelsea()[:160, 60:300]


@pytest.fixture(scope="module")
def stack():
    with LocalStack(StackConfig(link=Link(rate_bps=4e6, propagation_s=0.005))) as running:
        yield running


@pytest.fixture
def client(stack):
    with stack.client() as connected:
        yield connected


def _psnr(image, other):
    return 10 * np.log10(255**2 / np.mean((image.astype(float) - other) ** 2))


# First, while the transmitter knows of no link that loses nothing.
@pytest.mark.parametrize("codec", list(CODECS))
def test_lost_packets_leave_a_picture_and_a_better_one_where_losses_are_heard_of(client, codec):
    quality = {}
    for open_loop in (True, False):
        client.set_link(Link(loss_rate=0.2, seed=3))
        try:
            options = Options(codec=codec, open_loop=open_loop)
            sent = client.transmit(png_bytes(_PHOTO), "cat", Budget(wire_bytes=30_000), options).delivered
        finally:
            client.set_link(Link(loss_rate=0))
        assert sent.wire_bytes <= 30_000
        assert open_loop or sent.lost_packets > 0
        assert (sent.again_bytes > 0 or sent.revisions > 1) == (not open_loop)
        assert not open_loop or 0 < sent.received_patches < sent.sent_patches
        quality[open_loop] = _psnr(_PHOTO, read_picture(client.reconstruction(sent.transmission_id).image_png))
    assert quality[True] > 18
    assert quality[False] > quality[True]


@pytest.mark.parametrize("codec", list(CODECS))
def test_a_photo_crosses_the_link(client, codec):
    sent = client.transmit(png_bytes(_PHOTO), "cat", Budget(wire_bytes=9000), Options(codec=codec))
    received = client.reconstruction(sent.transmission_id)
    picture = read_picture(received.image_png)
    assert sent.plan.codec == received.codec == codec
    assert sent.delivered.wire_bytes <= 9000
    assert sent.delivered.received_bytes == sent.delivered.wire_bytes - sent.delivered.poll_bytes
    assert picture.shape == _PHOTO.shape
    assert _psnr(_PHOTO, picture) > 24


@pytest.mark.parametrize("codec", list(CODECS))
def test_a_budget_larger_than_needed_arrives_exactly(client, codec):
    sent = client.transmit(png_bytes(_PHOTO), "", Budget(percent_of_raw=200), Options(codec=codec))
    picture = read_picture(client.reconstruction(sent.transmission_id).image_png)
    np.testing.assert_array_equal(picture, _PHOTO)


@pytest.mark.parametrize("codec", list(CODECS))
def test_the_queried_region_is_the_better_one(client, codec):
    mask = np.zeros(_PHOTO.shape[:2], np.uint8)
    mask[:, :120] = 255
    options = Options(relevance_png=png_bytes(mask), codec=codec)
    sent = client.transmit(png_bytes(_PHOTO), "", Budget(percent_of_raw=5), options)
    picture = read_picture(client.reconstruction(sent.transmission_id).image_png)
    assert _psnr(_PHOTO[:, :120], picture[:, :120]) > _psnr(_PHOTO[:, 120:], picture[:, 120:]) + 5


def test_what_was_not_sent_is_unknown(client, stack):
    assert len(set(stack.pids.values())) == 3
    with pytest.raises(InvalidInputError, match="deadbeef"):
        client.reconstruction("deadbeef")


@pytest.mark.parametrize(
    ("image", "budget", "field"),
    [(b"no picture", 5000, "image"), (png_bytes(_PHOTO), 10, "budget")],
)
def test_bad_input_reaches_the_caller_by_field(client, image, budget, field):
    with pytest.raises(InvalidInputError) as caught:
        client.transmit(image, "cat", Budget(wire_bytes=budget))
    assert caught.value.field == field


def test_transmissions_at_once_do_not_mix(client):
    photos = [skimage.data.chelsea()[:96, :128], skimage.data.coffee()[100:196, 100:228], _PHOTO[:50, :70]]

    def cross(photo: np.ndarray) -> np.ndarray:
        sent = client.transmit(png_bytes(photo), "cup", Budget(percent_of_raw=200))
        return read_picture(client.reconstruction(sent.transmission_id).image_png)

    with ThreadPoolExecutor(3) as threads:
        for photo, picture in zip(photos, threads.map(cross, photos), strict=True):
            np.testing.assert_array_equal(picture, photo)


def test_a_deadline_too_short_is_told_and_leaves_the_link_free(client):
    client.set_link(Link(rate_bps=8_000))
    try:
        with pytest.raises(DeadlineError):
            client.transmit(png_bytes(_PHOTO), "cat", Budget(wire_bytes=20_000), timeout_s=1.5)
    finally:
        client.set_link(Link(rate_bps=4e6))
    sent = client.transmit(png_bytes(_PHOTO), "cat", Budget(wire_bytes=3000))
    assert sent.delivered.received_bytes == sent.delivered.wire_bytes - sent.delivered.poll_bytes


def test_a_deadline_is_met_and_the_link_used_until_then(client):
    client.set_link(Link(rate_bps=80_000))
    try:
        sent = client.transmit(png_bytes(_PHOTO), "cat", Budget(deadline_s=1.5)).delivered
    finally:
        client.set_link(Link(rate_bps=4e6))
    assert sent.deadline_met
    assert 0.75 * 15_000 < sent.received_bytes <= sent.wire_bytes < 1.01 * 15_000
    assert sent.budget_bytes == 15_000


@pytest.mark.parametrize("service", ["channel", "receiver"])
def test_a_service_killed_in_the_middle_is_an_error_not_a_hang(service, monkeypatch):
    monkeypatch.setenv("MMSC_TRANSMITTER_RESUME_S", "1.5")
    with LocalStack(StackConfig(link=Link(rate_bps=20_000))) as stack, stack.client() as client:

        def kill_once_sending(event) -> None:
            if event.WhichOneof("event") == "progress":
                os.kill(stack.pids[service], signal.SIGKILL)

        with pytest.raises(UnavailableError):
            client.transmit(
                png_bytes(_PHOTO), "cat", Budget(wire_bytes=20_000), on_event=kill_once_sending, timeout_s=30
            )
