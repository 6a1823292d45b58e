"""Turns the errors of `shared.errors` into gRPC statuses, and statuses into one line for a person."""

from typing import Final, NamedTuple, NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import DecodeError, Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from shared.errors import (
    BusyError,
    DeadlineError,
    InvalidInputError,
    MmscError,
    NotFoundError,
    PacketError,
    StreamError,
    UnauthenticatedError,
    UnavailableError,
    WeightsError,
)

_CODES: tuple[tuple[type[MmscError], grpc.StatusCode], ...] = (
    (InvalidInputError, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (PacketError, grpc.StatusCode.DATA_LOSS),
    (StreamError, grpc.StatusCode.DATA_LOSS),
    (WeightsError, grpc.StatusCode.FAILED_PRECONDITION),
    (UnauthenticatedError, grpc.StatusCode.UNAUTHENTICATED),
    (BusyError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (UnavailableError, grpc.StatusCode.UNAVAILABLE),
    (DeadlineError, grpc.StatusCode.DEADLINE_EXCEEDED),
)

DETAILS_KEY: Final = "grpc-status-details-bin"
"""The trailing metadata that holds a google.rpc.Status."""


def status_code(error: MmscError) -> grpc.StatusCode:
    """The gRPC status of an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def status_details(error: MmscError) -> bytes:
    """A serialised google.rpc.Status: for bad input a BadRequest names the field, for a limit RetryInfo the delay."""
    code: int = getattr(code_pb2, status_code(error).name)
    status = status_pb2.Status(code=code, message=str(error))
    detail = _detail(error)
    if detail is not None:
        packed = any_pb2.Any()
        packed.Pack(detail)
        status.details.append(packed)
    serialized: bytes = status.SerializeToString()
    return serialized


def _detail(error: MmscError) -> Message | None:
    if isinstance(error, InvalidInputError):
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.description)
        request: Message = error_details_pb2.BadRequest(field_violations=[violation])
        return request
    if isinstance(error, BusyError):
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(round(error.retry_s * 1e9))
        retry: Message = error_details_pb2.RetryInfo(retry_delay=delay)
        return retry
    return None


class Ending(NamedTuple):
    """What an error looks like outside."""

    code: grpc.StatusCode
    message: str
    details: bytes
    """A serialised google.rpc.Status."""

    @classmethod
    def of(cls, error: MmscError) -> "Ending":
        """The status of an error, without the error itself."""
        return cls(status_code(error), str(error), status_details(error))


async def abort(context: grpc.aio.ServicerContext, ending: Ending) -> NoReturn:  # type: ignore[type-arg]
    """Ends an RPC.

    Call it when the error has been let go: gRPC keeps the exception that this raises, in a circle that only the
    garbage collector opens, and with an error in its context the request would stay too, of up to 32 MiB.
    """
    metadata = ((DETAILS_KEY, ending.details),)
    await context.abort(ending.code, ending.message, trailing_metadata=metadata)
    raise AssertionError("abort returned")  # pragma: no cover - context.abort always raises


def explain(error: grpc.RpcError) -> str:
    """One line for a person: the status and its message, without a stack trace."""
    if not isinstance(error, grpc.aio.AioRpcError):
        return str(error)
    code = error.code().name.lower().replace("_", " ")
    return f"{code}: {(error.details() or 'no details').splitlines()[0]}"


def from_rpc(error: grpc.aio.AioRpcError, peer: str) -> MmscError:
    """The error that a failed call to another service means to the caller's own callers."""
    message = f"{peer}: {explain(error)}"
    retry_s = retry_after_s(error)
    if error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and retry_s is not None:
        return BusyError(message, retry_s)
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineError(message)
    if error.code() == grpc.StatusCode.DATA_LOSS:
        return StreamError(message)
    return UnavailableError(message)


def retry_after_s(error: grpc.aio.AioRpcError) -> float | None:
    """Seconds after which the other side would have the call tried again; None where it does not say."""
    details = dict(error.trailing_metadata() or ()).get(DETAILS_KEY)
    if not isinstance(details, bytes):
        return None
    retry = error_details_pb2.RetryInfo()
    try:
        packed = status_pb2.Status.FromString(details).details
        if any(detail.Unpack(retry) for detail in packed):
            return float(retry.retry_delay.ToNanoseconds() / 1e9)
    except DecodeError:  # only a broken server sends such details
        pass
    return None
