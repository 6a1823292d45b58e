"""The edge of every call: the connection and what it shows, and what gRPC raises as one of `shared.errors`."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from shared.connections import RECONNECT_OPTIONS
from shared.errors import BusyError, InvalidInputError, MmscError, UnauthenticatedError, UnavailableError
from shared.rpc_errors import from_rpc
from shared.tls import Access

_BAD_INPUT = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
_NO_CONNECTION = ("failed to connect", "dns resolution failed", "name resolution", "connection refused")
# gRPC names the reason in the midst of its own words.
_TLS_FAILURES: Final = {
    "certificate_verify_failed": "its certificate is not of the CA that was given (--ca)",
    "hostname verification": "its certificate is for another name than its address",
    "wrong_version_number": "it does not speak TLS",
    "tls handshake failed": "the TLS handshake failed",
    "socket closed": "it closes the connection; does it want TLS, or a certificate (--ca, --cert, --key)?",
}


class _AddMetadata(grpc.UnaryUnaryClientInterceptor, grpc.UnaryStreamClientInterceptor):
    """Has something go with every call."""

    def __init__(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self._metadata = metadata

    def intercept_unary_unary(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        return continuation(self._more(details), request)

    def intercept_unary_stream(self, continuation: Callable[..., Any], details: Any, request: Any) -> Any:
        return continuation(self._more(details), request)

    def _more(self, details: Any) -> Any:
        # gRPC hands over, and takes back, a named tuple of its own.
        return details._replace(metadata=(*(details.metadata or ()), *self._metadata))


def connect(address: str, access: Access, options: tuple[tuple[str, Any], ...] = ()) -> grpc.Channel:
    """A connection to a service, made when it is first used.

    Args:
        address: HOST:PORT.
        access: certificates and token; the token goes with every call.
        options: of gRPC's channel.

    Raises:
        InvalidInputError: a file cannot be used, or the token would cross a network in the clear.
    """
    credentials, metadata = access.credentials(), access.metadata(address)
    options = (*RECONNECT_OPTIONS, *options, *access.options())
    if credentials is None:
        channel = grpc.insecure_channel(address, options=options)
    else:
        channel = grpc.secure_channel(address, credentials, options=options)
    return grpc.intercept_channel(channel, _AddMetadata(metadata)) if metadata else channel


@contextmanager
def calling(peer: str, field: str = "request") -> Iterator[None]:
    """Turns the failure of a call into an error of ours.

    Args:
        peer: the service's name and address, for the message.
        field: the request field to blame where the status names none.

    Raises:
        InvalidInputError: the service refused the request; the field is the one that it named.
        UnauthenticatedError: it wants another token.
        BusyError: one of its limits is reached; the error says when to try again.
        UnavailableError: it does not answer, or broke.
        DeadlineError: it did not answer in time.
        StreamError: the transmission cannot be decoded.
    """
    try:
        yield
    except grpc.RpcError as error:
        raise _meaning(error, peer, field) from error


def _meaning(error: grpc.RpcError, peer: str, field: str) -> MmscError:
    if not isinstance(error, grpc.Call):
        return UnavailableError(f"{peer}: {error}")
    code, details = error.code(), error.details() or ""
    if code in _BAD_INPUT:
        return _named_violation(error) or InvalidInputError(field, details or "refused without a reason")
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return UnauthenticatedError(f"{peer}: {details or 'unauthenticated'} (--token-file)")
    if code is grpc.StatusCode.UNAVAILABLE and any(sign in details.lower() for sign in _NO_CONNECTION):
        return UnavailableError(f"{peer} {_no_connection(details.lower())}")
    trailing = grpc.aio.Metadata(*(tuple(entry) for entry in error.trailing_metadata() or ()))
    # Only the asynchronous API's error is known to the services' common translation.
    meaning = from_rpc(grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details), peer)
    if isinstance(meaning, BusyError):
        return BusyError(f"{meaning}; try again in {meaning.retry_s:.1f} s", meaning.retry_s)
    return meaning


def _no_connection(details: str) -> str:
    reason = next((words for sign, words in _TLS_FAILURES.items() if sign in details), "")
    return f"cannot be connected to: {reason}" if reason else "does not answer; is it running?"


def _named_violation(error: grpc.Call) -> InvalidInputError | None:
    """The first field violation of a google.rpc.BadRequest, if the status carries one."""
    try:
        status = rpc_status.from_call(error)
    except ValueError:  # the details contradict the status: only a broken server does that
        return None
    request = error_details_pb2.BadRequest()
    for detail in status.details if status is not None else ():
        if detail.Unpack(request) and request.field_violations:
            violation = request.field_violations[0]
            return InvalidInputError(violation.field, violation.description)
    return None
