"""Calls with bytes that are no requests: over real sockets, to services of this process that run in a thread."""

import asyncio
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, NamedTuple

import grpc

from .mutations import Sample

_TIMEOUT_S: Final = 20.0
_OURS: Final = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_TOO_LATE: Final = "Deadline Exceeded"
"""What gRPC itself says when the caller's time is over; services say more."""


class RefusedError(Exception):
    """The call was answered with one of our statuses, or gRPC's for what is no message."""


class Method(NamedTuple):
    """A method of a service, and how it is called."""

    path: str
    requests: bool = False
    """Whether it takes a stream of messages; else it gets the first."""
    responses: bool = False
    """Whether it answers with a stream."""
    timeout_s: float = _TIMEOUT_S
    may_be_late: bool = False
    """Whether the call may last longer than that."""
    failures: tuple[grpc.StatusCode, ...] = ()
    """How it may end beside the statuses for what a caller does wrong."""


class Service:
    """A service in a thread of its own, which ends with the process.

    Args:
        context: the running service; gives its address.
    """

    def __init__(self, context: Callable[[], AbstractAsyncContextManager[str]]) -> None:
        self.failures: list[str] = []
        """What went wrong in the event loop outside of any call."""
        self.address = ""
        up = threading.Event()
        threading.Thread(target=lambda: asyncio.run(self._serve(context, up)), daemon=True).start()
        up.wait()
        self._channel = grpc.insecure_channel(self.address)

    async def _serve(self, context: Callable[[], AbstractAsyncContextManager[str]], up: threading.Event) -> None:
        asyncio.get_running_loop().set_exception_handler(self._note)
        async with context() as self.address:
            up.set()
            await asyncio.Event().wait()

    def _note(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.failures.append(f"{context.get('message')}: {context.get('exception')!r}")

    def calls(self, methods: Sequence[Method]) -> Callable[[Sample], list[bytes]]:
        """A decoder of samples: the number of the method, and the messages of the call; gives the raw answers.

        It raises RefusedError, and AssertionError where a service does what it should not.
        """
        ready = [self.method(method) for method in methods]

        def decode(sample: Sample) -> list[bytes]:
            first, *messages = sample
            return ready[(first + b"\0")[0] % len(ready)](messages)

        return decode

    def method(self, method: Method) -> Callable[[list[bytes]], list[bytes]]:
        """A call of raw messages; gives the answers that came, all of them unless the call was late."""
        kind = f"{'stream' if method.requests else 'unary'}_{'stream' if method.responses else 'unary'}"
        raw = {"request_serializer": None, "response_deserializer": None}
        call = getattr(self._channel, kind)(method.path, **raw)

        def run(messages: list[bytes]) -> list[bytes]:
            request = iter(messages) if method.requests else b"".join(messages[:1])
            answers: list[bytes] = []
            try:
                answer = call(request, timeout=method.timeout_s)
                answers += answer if method.responses else [answer]
            except grpc.RpcError as error:
                self._judge(error, method)
            finally:
                self._check()
            return answers

        return run

    def _judge(self, error: grpc.RpcError, method: Method) -> None:
        assert isinstance(error, grpc.Call)
        code, details = error.code(), error.details() or ""
        late = code is grpc.StatusCode.DEADLINE_EXCEEDED
        if late and method.may_be_late:
            return
        said = late and details != _TOO_LATE
        refused = said or code in _OURS or code in method.failures
        if refused or "deserializ" in details or "No request" in details:
            raise RefusedError(code.name) from error
        raise AssertionError(f"{code.name}: {details}")

    def _check(self) -> None:
        if self.failures:
            raise AssertionError(f"in the event loop: {self.failures.pop()}")
