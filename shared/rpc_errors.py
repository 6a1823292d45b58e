"""Turns the errors of `shared.errors` into gRPC statuses, and statuses into one line for a person."""

from typing import NoReturn

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2

from shared.errors import (
    DeadlineError,
    InvalidInputError,
    MmscError,
    NotFoundError,
    PacketError,
    StreamError,
    UnavailableError,
    WeightsError,
)

_CODES: tuple[tuple[type[MmscError], grpc.StatusCode], ...] = (
    (InvalidInputError, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (PacketError, grpc.StatusCode.DATA_LOSS),
    (StreamError, grpc.StatusCode.DATA_LOSS),
    (WeightsError, grpc.StatusCode.FAILED_PRECONDITION),
    (UnavailableError, grpc.StatusCode.UNAVAILABLE),
    (DeadlineError, grpc.StatusCode.DEADLINE_EXCEEDED),
)

_DETAILS_KEY = "grpc-status-details-bin"


def status_code(error: MmscError) -> grpc.StatusCode:
    """The gRPC status of an error."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.INTERNAL)


def status_details(error: MmscError) -> bytes:
    """A serialised google.rpc.Status; for bad input it holds a BadRequest that names the field."""
    code: int = getattr(code_pb2, status_code(error).name)
    status = status_pb2.Status(code=code, message=str(error))
    if isinstance(error, InvalidInputError):
        request = error_details_pb2.BadRequest()
        request.field_violations.add(field=error.field, description=error.description)
        packed = any_pb2.Any()
        packed.Pack(request)
        status.details.append(packed)
    serialized: bytes = status.SerializeToString()
    return serialized


async def abort(context: grpc.aio.ServicerContext, error: MmscError) -> NoReturn:  # type: ignore[type-arg]
    """Ends an RPC with the status of an error."""
    metadata = ((_DETAILS_KEY, status_details(error)),)
    await context.abort(status_code(error), str(error), trailing_metadata=metadata)
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
    if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineError(message)
    if error.code() == grpc.StatusCode.DATA_LOSS:
        return StreamError(message)
    return UnavailableError(message)
