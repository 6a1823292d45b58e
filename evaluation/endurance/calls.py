"""Calls to the services as a stranger's client makes them: what comes back is a picture or a gRPC status, as it is."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from client.requests import OUTCOMES
from shared.connections import RECONNECT_OPTIONS
from shared.rpc_errors import retry_after_s
from shared.service import MAX_PICTURE_MESSAGE_BYTES
from shared.stubs.mmsc.v1 import (
    channel_pb2,
    channel_pb2_grpc,
    receiver_pb2,
    receiver_pb2_grpc,
    transmitter_pb2,
    transmitter_pb2_grpc,
)

OPTIONS: Final = (
    ("grpc.use_local_subchannel_pool", 1),  # as if each client were a process of its own
    ("grpc.max_receive_message_length", MAX_PICTURE_MESSAGE_BYTES),
    *RECONNECT_OPTIONS,
)
"""Of a client's channels."""

TYPED: Final = frozenset(
    {"OK", "UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "DATA_LOSS", "INVALID_ARGUMENT", "NOT_FOUND"}
)
"""Statuses with which a call may end; any other means that a service was surprised."""

_PAUSE_S: Final = 0.05


class Progress(NamedTuple):
    """How far a transmission was at some moment."""

    at_s: float
    """Monotonic."""
    sent_bytes: int
    acknowledged_bytes: int


@dataclass(frozen=True)
class Ending:
    """How a transmission ended for the client that asked for it."""

    code: str
    """Name of the gRPC status."""

    words: str = ""
    """The status's message."""

    transmission_id: str = ""
    """Empty where it was not accepted: no plan was announced."""

    outcome: str = ""
    """`complete`, `partial`, `failed`, or empty after an error."""

    elapsed_s: float = 0.0

    planned_s: float = 0.0
    """When the plan was announced, monotonic."""

    ended_s: float = 0.0
    """Monotonic."""

    retry_s: float = 0.0
    """What RetryInfo asks for; 0 without it."""

    progress: tuple[Progress, ...] = ()

    delivered: transmitter_pb2.Delivered | None = None


@dataclass(frozen=True)
class Shown:
    """What the receiver shows of a transmission."""

    code: str
    """Name of the gRPC status."""

    outcome: str = ""
    """As in `Ending`, or `receiving`."""

    image_png: bytes = b""
    """Empty where the header is missing."""

    received_bytes: int = 0
    received_patches: int = 0
    expected_patches: int = 0


def transmit(
    address: str,
    request: transmitter_pb2.TransmitRequest,
    timeout_s: float,
    on_plan: Callable[[str], None] = lambda _: None,
) -> Ending:
    """Sends one picture from a client of its own, and tells how it went; raises nothing.

    Args:
        address: HOST:PORT of the transmitter.
        request: what to send.
        timeout_s: the client's deadline.
        on_plan: told the transmission's id when it has been accepted.
    """
    start_s = time.monotonic()
    found = Ending("OK")
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        call = transmitter_pb2_grpc.TransmitterServiceStub(channel).Transmit(request, timeout=timeout_s)
        try:
            for event in call:
                found = _noted(found, event)
                if event.HasField("plan"):
                    on_plan(found.transmission_id)
        except grpc.RpcError as error:
            found = replace(found, outcome="", **_status(error))
    now_s = time.monotonic()
    return replace(found, elapsed_s=now_s - start_s, ended_s=now_s)


async def transmitting(
    address: str,
    request: transmitter_pb2.TransmitRequest,
    timeout_s: float,
    on_plan: Callable[[str], None] = lambda _: None,
) -> Ending:
    """As `transmit`, for a client among very many."""
    start_s = time.monotonic()
    found = Ending("OK")
    async with grpc.aio.insecure_channel(address, options=OPTIONS) as channel:
        call = transmitter_pb2_grpc.TransmitterServiceStub(channel).Transmit(request, timeout=timeout_s)
        try:
            async for event in call:
                found = _noted(found, event)
                if event.HasField("plan"):
                    on_plan(found.transmission_id)
        except grpc.aio.AioRpcError as error:
            found = replace(found, outcome="", **_status(error))
    now_s = time.monotonic()
    return replace(found, elapsed_s=now_s - start_s, ended_s=now_s)


def _noted(found: Ending, event: transmitter_pb2.TransmitResponse) -> Ending:
    if event.HasField("plan"):
        return replace(found, transmission_id=event.plan.transmission_id, planned_s=time.monotonic())
    if event.HasField("progress"):
        told = event.progress
        return replace(
            found,
            progress=(*found.progress, Progress(time.monotonic(), told.sent_bytes, told.acknowledged_bytes)),
        )
    if event.HasField("delivered"):
        return replace(found, outcome=OUTCOMES[event.delivered.outcome], delivered=event.delivered)
    return found


def _status(error: grpc.RpcError) -> dict[str, Any]:
    assert isinstance(error, grpc.Call | grpc.aio.AioRpcError)
    return {"code": error.code().name, "words": error.details() or "", "retry_s": retry_s(error)}


def retry_s(error: grpc.Call | grpc.aio.AioRpcError) -> float:
    """Seconds that the error's google.rpc.RetryInfo asks for; 0 without one."""
    if isinstance(error, grpc.aio.AioRpcError):
        return retry_after_s(error) or 0.0
    status = rpc_status.from_call(error)
    retry = error_details_pb2.RetryInfo()
    if status is None or not any(detail.Unpack(retry) for detail in status.details):
        return 0.0
    return float(retry.retry_delay.ToNanoseconds() / 1e9)


def show(address: str, transmission_id: str, timeout_s: float) -> Shown:
    """Asks the receiver for a picture; while it cannot be reached, again until `timeout_s` have passed."""
    until_s = time.monotonic() + timeout_s
    request = receiver_pb2.GetReconstructionRequest(transmission_id=transmission_id)
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        stub = receiver_pb2_grpc.ReceiverServiceStub(channel)
        while True:
            try:
                return _shown(stub.GetReconstruction(request, timeout=max(until_s - time.monotonic(), 0.1)))
            except grpc.RpcError as error:
                code = _status(error)["code"]
                if code != "UNAVAILABLE" or time.monotonic() >= until_s:
                    return Shown(code)
            time.sleep(_PAUSE_S)


def settled(address: str, transmission_id: str, timeout_s: float) -> Shown:
    """As `show`, but waits until the receiver awaits nothing more of the transmission."""
    until_s = time.monotonic() + timeout_s
    while True:
        shown = show(address, transmission_id, max(until_s - time.monotonic(), 0.1))
        if shown.outcome != "receiving" or time.monotonic() >= until_s:
            return shown
        time.sleep(_PAUSE_S)


def _shown(response: receiver_pb2.GetReconstructionResponse) -> Shown:
    found = response.reconstruction
    counts = found.received_bytes, found.received_patches, found.expected_patches
    return Shown("OK", OUTCOMES[found.outcome], found.image_png, *counts)


class Watch(threading.Thread):
    """Watches a transmission at the receiver until the stream ends.

    Args:
        address: HOST:PORT of the receiver.
        transmission_id: 8 hexadecimal digits; one that is not there yet is waited for.
        timeout_s: until the watcher gives up.
    """

    def __init__(self, address: str, transmission_id: str, timeout_s: float) -> None:
        super().__init__(daemon=True)
        self._address, self._id, self._until_s = address, transmission_id, time.monotonic() + timeout_s
        self.code = ""
        """Name of the gRPC status with which it ended; empty while it runs."""
        self.start()

    def run(self) -> None:
        """Asks again while nothing of the transmission has arrived."""
        request = receiver_pb2.WatchReconstructionRequest(transmission_id=self._id, interval_s=0.05)
        code = "NOT_FOUND"
        with grpc.insecure_channel(self._address, options=OPTIONS) as channel:
            stub = receiver_pb2_grpc.ReceiverServiceStub(channel)
            for _ in self._tries():
                code = self._watched(stub, request)
                if code != "NOT_FOUND":
                    break
        self.code = code

    def _tries(self) -> Iterator[None]:
        for _ in range(20):
            yield
            time.sleep(_PAUSE_S)

    def _watched(
        self, stub: receiver_pb2_grpc.ReceiverServiceStub, request: receiver_pb2.WatchReconstructionRequest
    ) -> str:
        try:
            for _ in stub.WatchReconstruction(request, timeout=max(self._until_s - time.monotonic(), 0.1)):
                pass
        except grpc.RpcError as error:
            return str(_status(error)["code"])
        return "OK"


@contextmanager
def link(address: str) -> Iterator["channel_pb2_grpc.ChannelServiceStub"]:
    """A client of the channel emulator."""
    with grpc.insecure_channel(address, options=OPTIONS) as channel:
        yield channel_pb2_grpc.ChannelServiceStub(channel)


def set_link(address: str, settings: channel_pb2.LinkSettings, timeout_s: float = 20.0) -> None:
    """Changes the link, both directions; waits for a channel that is down.

    Raises:
        grpc.RpcError: it did not come back in time.
    """
    backward = channel_pb2.LinkSettings()
    backward.impairments.CopyFrom(settings.impairments)
    request = channel_pb2.SetLinkRequest(settings=settings, backward=backward)
    with link(address) as stub:
        stub.SetLink(request, timeout=timeout_s, wait_for_ready=True)
