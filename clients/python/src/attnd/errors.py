"""Errors of calls: one class for each gRPC code, with the server's text."""

from __future__ import annotations

from typing import ClassVar

import grpc


class Error(Exception):
    """A call that failed. `code` is the gRPC code, `message` the server's text, `reason` a word for programs where the
    code says too little, else empty."""

    status: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN

    def __init__(self, message: str, code: grpc.StatusCode | None = None, reason: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.status
        self.reason = reason


class Cancelled(Error):
    status = grpc.StatusCode.CANCELLED


class InvalidArgument(Error, ValueError):
    """Refused before anything ran: the text names the tensor or attribute, what was given, what is expected."""

    status = grpc.StatusCode.INVALID_ARGUMENT


class DeadlineExceeded(Error, TimeoutError):
    status = grpc.StatusCode.DEADLINE_EXCEEDED


class NotFound(Error, LookupError):
    """Unknown operator; the text names the nearest known ones."""

    status = grpc.StatusCode.NOT_FOUND


class AlreadyExists(Error):
    status = grpc.StatusCode.ALREADY_EXISTS


class PermissionDenied(Error, PermissionError):
    status = grpc.StatusCode.PERMISSION_DENIED


class ResourceExhausted(Error):
    """The call does not fit limits, queue or memory."""

    status = grpc.StatusCode.RESOURCE_EXHAUSTED


class FailedPrecondition(Error):
    status = grpc.StatusCode.FAILED_PRECONDITION


class OutOfRange(Error):
    status = grpc.StatusCode.OUT_OF_RANGE


class Unimplemented(Error, NotImplementedError):
    status = grpc.StatusCode.UNIMPLEMENTED


class DataLoss(Error):
    """What was sent or stored is damaged."""

    status = grpc.StatusCode.DATA_LOSS


class Internal(Error):
    status = grpc.StatusCode.INTERNAL


class Unavailable(Error, ConnectionError):
    """No connection, a draining server or a lost worker: worth repeating."""

    status = grpc.StatusCode.UNAVAILABLE


class Unauthenticated(Error):
    status = grpc.StatusCode.UNAUTHENTICATED


_BY_CODE = {cls.status: cls for cls in Error.__subclasses__()}
_BY_NUMBER: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


def from_code(code: grpc.StatusCode, message: str, reason: str = "") -> Error:
    """The error of a gRPC code."""
    return _BY_CODE.get(code, Error)(message, code, reason)


def from_number(code: int, message: str) -> Error:
    """The error of a code as google.rpc.Code numbers it."""
    return from_code(_BY_NUMBER.get(code, grpc.StatusCode.UNKNOWN), message)


def from_rpc(error: grpc.RpcError) -> Error:
    """What a failed RPC means."""
    # RpcError is a bare exception; every instance that a call raises is a Call too.
    if isinstance(error, grpc.Call) or isinstance(error, grpc.aio.AioRpcError):
        trailers = dict(error.trailing_metadata() or ())
        return from_code(error.code(), error.details() or "", str(trailers.get("attnd-reason", "")))
    return Error(str(error))
