"""What a request may hold: bytes, pixels, and nothing that names a file or weights."""

import asyncio
from contextlib import asynccontextmanager

import grpc
import numpy as np
import pytest
from fakes import LeftHalf, mean_sender
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from prometheus_client import CollectorRegistry

from channel_emulator.config import ChannelConfig
from channel_emulator.server import channel_service
from shared.patches import MAX_PIXELS
from shared.pictures import png_bytes
from shared.service import LINK_OPTIONS, MAX_UPLOAD_BYTES, running
from shared.stubs.mmsc.v1 import (
    channel_pb2,
    channel_pb2_grpc,
    receiver_pb2,
    transmitter_pb2,
    transmitter_pb2_grpc,
)
from transmitter.config import TransmitterConfig
from transmitter.pipeline import Pipeline
from transmitter.server import transmitter

PATIENCE_S = 30.0


def texts(message: Descriptor, prefix: str = "", above: tuple[str, ...] = ()) -> set[str]:
    """The names of all fields of text or bytes in a message, and in the messages in it."""
    found: set[str] = set()
    for each in message.fields:
        if each.type in {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES}:
            found.add(prefix + each.name)
        elif each.message_type is not None and each.message_type.name not in above:
            found |= texts(each.message_type, f"{prefix}{each.name}.", (*above, message.name))
    return found


def test_no_request_names_a_file_or_brings_weights():
    """A new field of text or bytes needs a look: what may it make a service read, load or run?"""
    files = (transmitter_pb2.DESCRIPTOR, channel_pb2.DESCRIPTOR, receiver_pb2.DESCRIPTOR)
    methods = [method for file in files for service in file.services_by_name.values() for method in service.methods]
    told = {method.name: texts(method.input_type) for method in methods}
    link = {"model.trace.name", "model.trace.content"}
    assert {name: fields for name, fields in told.items() if fields} == {
        "Transmit": {
            "image",
            "query",
            "options.extractor",
            "options.relevance_png",
            "options.codec",
            "options.transmission_id",
        },
        "GetRelevance": {"image", "query", "extractor"},
        "Relay": {"packets"},
        "SetLink": {f"{side}.{field}" for side in ("settings", "backward") for field in link},
        "Receive": {"packets"},
        "GetReconstruction": {"transmission_id"},
        "WatchReconstruction": {"transmission_id"},
    }


@asynccontextmanager
async def sending():
    """A transmitter that refuses before it needs a channel."""
    pipeline = Pipeline({"ladder": mean_sender()}, {"left-half": LeftHalf()})
    config = TransmitterConfig(listen="127.0.0.1:0", channel="127.0.0.1:1", grace_s=0)
    async with transmitter(config, pipeline) as address, grpc.aio.insecure_channel(address) as channel:
        yield transmitter_pb2_grpc.TransmitterServiceStub(channel)


async def relevance(stub, image: bytes) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.GetRelevance(transmitter_pb2.GetRelevanceRequest(image=image), timeout=PATIENCE_S)
    return caught.value


async def test_a_picture_of_too_many_bytes_is_refused():
    async with sending() as stub:
        error = await relevance(stub, bytes(MAX_UPLOAD_BYTES + 100_000))
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in error.details()
        largest = await relevance(stub, bytes(MAX_UPLOAD_BYTES))
        assert (largest.code(), largest.details()[:22]) == (grpc.StatusCode.INVALID_ARGUMENT, "image: is no picture o")


async def test_a_picture_of_too_many_pixels_is_refused_by_its_header():
    side = int(MAX_PIXELS**0.5)
    bomb = png_bytes(np.zeros((side + 1, side + 1), np.uint8))
    assert len(bomb) < 200_000
    async with sending() as stub:
        error = await relevance(stub, bomb)
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert f"over {MAX_PIXELS} pixels" in error.details()


async def test_a_message_of_packets_holds_at_most_four_mebibytes():
    config = ChannelConfig("127.0.0.1:0", grace_s=0)
    service = running(config, CollectorRegistry(), channel_service(config), LINK_OPTIONS)
    async with service as address, grpc.aio.insecure_channel(address) as channel:
        request = channel_pb2.SetLinkRequest()
        request.settings.model.trace.content = "0\n" * (2 << 20)
        call = channel_pb2_grpc.ChannelServiceStub(channel).SetLink(request, timeout=PATIENCE_S)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(call, PATIENCE_S)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
