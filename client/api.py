"""The Python client.

```
from client.api import Budget, Client

with Client() as client:                                   # the addresses of `mmsc up`
    sent = client.transmit(Path("street.jpg").read_bytes(), "traffic sign", Budget(percent_of_raw=2))
    png = client.reconstruction(sent.transmission_id).image_png
```

Every call has a deadline, and every failure is one of `shared.errors`.
"""

from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Any, Final, TypeAlias

from client.requests import (
    DEFAULT_PERCENT_OF_RAW,
    Budget,
    Link,
    Options,
    Reconstruction,
    Transmission,
    checked_image,
    clean_text,
)
from client.rpc import calling, connect
from shared.errors import StreamError
from shared.service import MAX_PICTURE_MESSAGE_BYTES
from shared.stubs.mmsc.v1 import (
    channel_pb2,
    channel_pb2_grpc,
    receiver_pb2,
    receiver_pb2_grpc,
    transmitter_pb2,
    transmitter_pb2_grpc,
)
from shared.tls import Access

__all__ = ["Access", "Budget", "Client", "Link", "Options", "Reconstruction", "Transmission"]

DEFAULT_TRANSMITTER: Final = "127.0.0.1:50051"
"""Where `mmsc up` runs the transmitter."""

DEFAULT_CHANNEL: Final = "127.0.0.1:50052"
"""Where `mmsc up` runs the channel emulator."""

DEFAULT_RECEIVER: Final = "127.0.0.1:50053"
"""Where `mmsc up` runs the receiver."""

OnEvent: TypeAlias = Callable[[transmitter_pb2.TransmitResponse], None]

_OPTIONS: Final = (("grpc.max_receive_message_length", MAX_PICTURE_MESSAGE_BYTES),)


class Client:
    """Speaks to the three services; connects when first used, and may be shared between threads.

    Args:
        transmitter: HOST:PORT of the transmitter.
        channel: HOST:PORT of the channel emulator.
        receiver: HOST:PORT of the receiver.
        timeout_s: deadline of each call in seconds, where the call is not given its own.
        access: certificates and token, where the services want them.

    Raises:
        InvalidInputError: a file of `access` cannot be used, or its token would cross a network in the clear.
    """

    def __init__(
        self,
        transmitter: str = DEFAULT_TRANSMITTER,
        channel: str = DEFAULT_CHANNEL,
        receiver: str = DEFAULT_RECEIVER,
        timeout_s: float = 60.0,
        access: Access | None = None,
    ) -> None:
        self._timeout_s = timeout_s
        addresses = {"transmitter": transmitter, "channel": channel, "receiver": receiver}
        self._peers = {name: f"{name} at {address}" for name, address in addresses.items()}
        access = access or Access()
        self._connections = {name: connect(address, access, _OPTIONS) for name, address in addresses.items()}
        self._transmitter = transmitter_pb2_grpc.TransmitterServiceStub(self._connections["transmitter"])
        self._channel = channel_pb2_grpc.ChannelServiceStub(self._connections["channel"])
        self._receiver = receiver_pb2_grpc.ReceiverServiceStub(self._connections["receiver"])

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; calls that still run are cancelled."""
        for connection in self._connections.values():
            connection.close()

    def transmit(
        self,
        image: bytes,
        query: str = "",
        budget: Budget | None = None,
        options: Options | None = None,
        *,
        on_event: OnEvent | None = None,
        timeout_s: float | None = None,
    ) -> Transmission:
        """Sends what matters of a picture, and waits until the receiver has reported.

        Args:
            image: an encoded picture (PNG, JPEG, WebP, AVIF, TIFF, BMP or GIF).
            query: free text; empty asks for whatever is salient.
            budget: bytes that may cross the channel; 2 % of the raw size where none is given.
            options: allocation, packets, extractor, own relevance map, deadline, and which transmission to take up.
            on_event: called with each event as it arrives, in the caller's thread.
            timeout_s: deadline of the whole transmission in seconds.

        Returns:
            The gathered events.

        Raises:
            InvalidInputError: the picture, the budget or an option cannot be used; `field` names it.
            UnauthenticatedError: the transmitter wants a token, or another one.
            BusyError: one of its limits is reached; the error says when to try again.
            UnavailableError: a service on the path does not answer.
            DeadlineError: the deadline passed first.
            StreamError: the transmitter ended without a summary.
        """
        request = transmitter_pb2.TransmitRequest(
            image=checked_image(image),
            query=clean_text(query),
            budget=(budget or Budget(percent_of_raw=DEFAULT_PERCENT_OF_RAW)).to_message(),
            options=(options or Options()).to_message(),
        )
        transmission = Transmission()
        for event in self._events(request, timeout_s or self._timeout_s):
            transmission.add(event)
            if on_event is not None:
                on_event(event)
        if not transmission.delivered.transmission_id:
            raise StreamError(f"{self._peers['transmitter']} ended without a summary")
        return transmission

    def _events(
        self, request: transmitter_pb2.TransmitRequest, timeout_s: float
    ) -> Iterator[transmitter_pb2.TransmitResponse]:
        call = self._transmitter.Transmit(request, timeout=timeout_s)
        try:
            with calling(self._peers["transmitter"]):
                yield from call
        finally:
            # Ends the transmission at once when the caller is interrupted between two events.
            call.cancel()

    def relevance(self, image: bytes, query: str = "", extractor: str = "") -> transmitter_pb2.RelevanceReady:
        """Has the transmitter compute a relevance map; nothing is sent over the channel.

        Args:
            image: an encoded picture.
            query: free text.
            extractor: name of the extractor; empty means the transmitter's default.

        Returns:
            The map as a grey PNG of the picture's size, whether the thing was found, and the time taken.

        Raises:
            InvalidInputError: the picture or the extractor's name cannot be used.
            UnavailableError, DeadlineError: as in `transmit`.
        """
        request = transmitter_pb2.GetRelevanceRequest(
            image=checked_image(image), query=clean_text(query), extractor=extractor
        )
        with calling(self._peers["transmitter"]):
            return self._transmitter.GetRelevance(request, timeout=self._timeout_s).relevance

    def transmitter_info(self) -> transmitter_pb2.GetTransmitterInfoResponse:
        """Version, extractors, codec weights and device of the transmitter."""
        request = transmitter_pb2.GetTransmitterInfoRequest()
        with calling(self._peers["transmitter"]):
            return self._transmitter.GetTransmitterInfo(request, timeout=self._timeout_s)

    def reconstruction(self, transmission_id: str) -> Reconstruction:
        """The picture as it stands at the receiver.

        Args:
            transmission_id: 8 hexadecimal digits.

        Raises:
            InvalidInputError: the receiver knows no such transmission, or has forgotten it.
            UnavailableError, DeadlineError: as in `transmit`.
        """
        request = receiver_pb2.GetReconstructionRequest(transmission_id=transmission_id, return_level_map=True)
        with calling(self._peers["receiver"], field="transmission_id"):
            answer = self._receiver.GetReconstruction(request, timeout=self._timeout_s)
        return Reconstruction.of(answer.reconstruction)

    def watch(self, transmission_id: str, interval_s: float = 0.5) -> Iterator[Reconstruction]:
        """The picture as it grows, until the transmission has ended; see `reconstruction` for the errors."""
        request = receiver_pb2.WatchReconstructionRequest(transmission_id=transmission_id, interval_s=interval_s)
        with calling(self._peers["receiver"], field="transmission_id"):
            for answer in self._receiver.WatchReconstruction(request, timeout=self._timeout_s):
                yield Reconstruction.of(answer.reconstruction)

    def link(self) -> channel_pb2.LinkState:
        """The link's settings and counters."""
        with calling(self._peers["channel"]):
            return self._channel.GetLink(channel_pb2.GetLinkRequest(), timeout=self._timeout_s).link

    def set_link(self, link: Link) -> channel_pb2.LinkState:
        """Changes the link while it runs.

        Args:
            link: the new settings; what is None keeps its value.

        Returns:
            The settings and counters after the change.

        Raises:
            InvalidInputError: a value is outside its range.
            UnavailableError, DeadlineError: as in `transmit`.
        """
        fields: dict[str, Any] = {name: value for name, value in vars(link).items() if value is not None}
        return self.change_link(channel_pb2.SetLinkRequest(settings=channel_pb2.LinkSettings(**fields)))

    def change_link(self, request: channel_pb2.SetLinkRequest) -> channel_pb2.LinkState:
        """Changes anything about the link while it runs: rate models, impairments, both directions.

        Args:
            request: the new settings; what is left out keeps its value.

        Returns:
            The settings and counters after the change.

        Raises:
            InvalidInputError: a value is outside its range.
            UnavailableError, DeadlineError: as in `transmit`.
        """
        with calling(self._peers["channel"]):
            return self._channel.SetLink(request, timeout=self._timeout_s).link
