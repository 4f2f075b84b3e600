"""Client of attnd, a service of attention operators.

    import attnd
    with attnd.Client("localhost:8001") as client:
        result = client.gla(q, k, v, g)
    result.o, result.final_state      # NumPy arrays
    result.kernel, result.device      # what ran, and where

`attnd.AsyncClient` is the same for asyncio. Errors are subclasses of `attnd.Error`, one for each gRPC code.
"""

from attnd._calls import Retry
from attnd.aio import AsyncClient
from attnd.client import Client
from attnd.errors import (
    AlreadyExists,
    Cancelled,
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
    OperatorInfo,
    OutputError,
    Random,
    Result,
    Timing,
)
from attnd.tensors import Array, ArrayLike, bfloat16

__version__ = "0.1.0"

__all__ = [
    "AlreadyExists",
    "Array",
    "ArrayLike",
    "AsyncClient",
    "Call",
    "Cancelled",
    "Client",
    "Comparison",
    "DeadlineExceeded",
    "Error",
    "FailedPrecondition",
    "Internal",
    "InvalidArgument",
    "Kernel",
    "NotFound",
    "OperatorInfo",
    "OutOfRange",
    "OutputError",
    "PermissionDenied",
    "Random",
    "ResourceExhausted",
    "Result",
    "Retry",
    "Timing",
    "Unauthenticated",
    "Unavailable",
    "Unimplemented",
    "bfloat16",
]
