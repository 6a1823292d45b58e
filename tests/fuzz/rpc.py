"""The receiver's RPCs, given bytes that are no requests: over a real socket, to a service of this process."""

import asyncio
import threading
from collections.abc import Callable
from typing import Final

import grpc
from prometheus_client import CollectorRegistry

from receiver.codecs import load_receiver
from receiver.config import ReceiverConfig
from receiver.contract import by_number
from receiver.server import receiver_service
from shared.limits import RpcLimits
from shared.stubs.mmsc.v1 import receiver_pb2
from transmitter.packing import pack
from transmitter.planning import Plan

from .mutations import Sample
from .runner import Target

_SERVICE: Final = "/mmsc.v1.ReceiverService/"
_METHODS: Final = ("Receive", "GetReconstruction", "WatchReconstruction", "ListReconstructions")
_TIMEOUT_S: Final = 20.0
_ANSWERS: Final = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND, grpc.StatusCode.RESOURCE_EXHAUSTED)


class RefusedError(Exception):
    """The call was answered with one of our statuses, or gRPC's for what is no message."""


def receiver_calls(plan: Plan, transmission_id: int) -> Target:
    """Each sample is the number of the method, and the messages of the call.

    Args:
        plan: of the ladder codec; its packets are the real messages.
        transmission_id: of those packets.
    """
    packets, number = pack(plan, transmission_id), f"{transmission_id:08x}"
    request = receiver_pb2.WatchReconstructionRequest(transmission_id=number, interval_s=0.01)
    corpus: list[Sample] = [
        (b"\0", receiver_pb2.ReceiveRequest(packets=packets).SerializeToString()),
        (b"\0", *(receiver_pb2.ReceiveRequest(packets=[packet]).SerializeToString() for packet in packets)),
        (
            b"\1",
            receiver_pb2.GetReconstructionRequest(transmission_id=number, return_level_map=True).SerializeToString(),
        ),
        (b"\2", request.SerializeToString()),
        (b"\3", receiver_pb2.ListReconstructionsRequest().SerializeToString()),
    ]
    channel = grpc.insecure_channel(_started())
    methods = [_method(channel, name) for name in _METHODS]

    def decode(sample: Sample) -> None:
        first, *messages = sample
        try:
            methods[(first + b"\0")[0] % len(methods)](messages)
        except grpc.RpcError as error:
            _judge(error)

    return Target("rpc-receiver", corpus, decode, (RefusedError,), 5.0, 128 * 1024 * 1024)


def _judge(error: grpc.RpcError) -> None:
    assert isinstance(error, grpc.Call)
    code, details = error.code(), error.details() or ""
    if code in _ANSWERS or "deserializ" in details or "No request" in details:
        raise RefusedError(code.name) from error
    raise AssertionError(f"{code.name}: {details}")


def _method(channel: grpc.Channel, name: str) -> Callable[[list[bytes]], object]:
    """A call of raw messages; methods that take one message get the first."""
    make = {
        "Receive": channel.stream_stream,
        "GetReconstruction": channel.unary_unary,
        "WatchReconstruction": channel.unary_stream,
        "ListReconstructions": channel.unary_unary,
    }[name]
    call = make(_SERVICE + name, request_serializer=None, response_deserializer=None)
    if name == "Receive":
        return lambda messages: list(call(iter(messages), timeout=_TIMEOUT_S))
    if name == "WatchReconstruction":
        return lambda messages: list(call(b"".join(messages[:1]), timeout=_TIMEOUT_S))
    return lambda messages: call(b"".join(messages[:1]), timeout=_TIMEOUT_S)


def _started() -> str:
    """The address of a receiver in a thread of its own, which ends with the process."""
    ready: list[str] = []
    up = threading.Event()
    limits = RpcLimits(total=64)
    config = ReceiverConfig(listen="127.0.0.1:0", max_transmissions=200, limits=limits)

    async def serve() -> None:
        codecs = by_number(load_receiver("ladder"))
        async with receiver_service(config, codecs, registry=CollectorRegistry()) as address:
            ready.append(address)
            up.set()
            await asyncio.Event().wait()

    threading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()
    up.wait()
    return ready[0]
