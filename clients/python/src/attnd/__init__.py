"""Client of attnd, a service of attention operators.

    import attnd
    with attnd.Client("localhost:8001") as client:
        result = client.gla(q, k, v, g)
    result.o, result.final_state      # NumPy arrays
    result.kernel, result.device      # what ran, and where

    session = attnd.Session.create(client, "model")   # a language model that goes on where it was
    session.append("Once upon a time")
    print(*session.text(100), sep="")

    session = attnd.OperatorSession.create(client, "gla")   # an operator that goes on where it was
    session.append(q=q, k=k, v=v, g=g)["o"]

`attnd.AsyncClient` and `attnd.AsyncSession` are the same for asyncio. Errors are subclasses of `attnd.Error`, one for each gRPC code.
"""

from attnd._calls import Retry
from attnd._sessions import Sampling, SessionInfo, Token
from attnd.aio import AsyncClient
from attnd.aio_session import AsyncDecode, AsyncOperatorSession, AsyncSession
from attnd.client import Client
from attnd.errors import (
    AlreadyExists,
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    Error,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    NotFound,
    OutOfRange,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    Unimplemented,
)
from attnd.results import (
    Call,
    Comparison,
    Kernel,
    ModelInfo,
    OperatorInfo,
    OutputError,
    Outputs,
    Random,
    Result,
    Timing,
)
from attnd.session import Decode, OperatorSession, Session
from attnd.tensors import Array, ArrayLike, bfloat16

__version__ = "0.1.0"

__all__ = [
    "AlreadyExists",
    "Array",
    "ArrayLike",
    "AsyncClient",
    "AsyncDecode",
    "AsyncOperatorSession",
    "AsyncSession",
    "Call",
    "Cancelled",
    "Client",
    "Comparison",
    "DataLoss",
    "DeadlineExceeded",
    "Decode",
    "Error",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "Kernel",
    "ModelInfo",
    "NotFound",
    "OperatorInfo",
    "OperatorSession",
    "OutOfRange",
    "OutputError",
    "Outputs",
    "PermissionDenied",
    "Random",
    "ResourceExhausted",
    "Result",
    "Retry",
    "Sampling",
    "Session",
    "SessionInfo",
    "Timing",
    "Token",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "bfloat16",
]
