"""The edge of every call: what gRPC raises becomes one of `shared.errors`, in words for a person."""

from collections.abc import Iterator
from contextlib import contextmanager

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from shared.errors import InvalidInputError, MmscError, UnavailableError
from shared.rpc_errors import from_rpc

_BAD_INPUT = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
_NO_CONNECTION = ("failed to connect", "dns resolution failed", "name resolution", "connection refused")


@contextmanager
def calling(peer: str, field: str = "request") -> Iterator[None]:
    """Turns the failure of a call into an error of ours.

    Args:
        peer: the service's name and address, for the message.
        field: the request field to blame where the status names none.

    Raises:
        InvalidInputError: the service refused the request; the field is the one that it named.
        UnavailableError: it does not answer, or is too busy, or broke.
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
    if code is grpc.StatusCode.UNAVAILABLE and any(sign in details.lower() for sign in _NO_CONNECTION):
        return UnavailableError(f"{peer} does not answer; is it running?")
    no_metadata = grpc.aio.Metadata()
    # Only the asynchronous API's error is known to the services' common translation.
    return from_rpc(grpc.aio.AioRpcError(code, no_metadata, no_metadata, details), peer)


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
