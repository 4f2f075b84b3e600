"""What the synchronous and the asynchronous client share: requests, answers, chunks and channel options."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from attnd import errors, tensors
from attnd.results import (
    Attribute,
    Call,
    Comparison,
    Kernel,
    OperatorInfo,
    OutputError,
    Random,
    Result,
    Timing,
)
from attnd.tensors import Array, ArrayLike
from attnd.v1 import operators_pb2 as pb
from attnd.v1 import tensor_pb2

R = TypeVar("R", bound=Result)

# Servers take messages of 64 MiB unless configured otherwise; what comes near goes as a stream.
MAX_UNARY_BYTES = 48 << 20
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Retry:
    """Repetition of calls that ended in UNAVAILABLE, with jittered exponential waits. Evaluations are pure, so a
    repeated one is harmless. One attempt: no repetition."""

    attempts: int = 4
    initial_backoff: float = 0.1
    max_backoff: float = 2.0

    def service_config(self) -> str:
        method: dict[str, Any] = {"name": [{"service": "attnd.v1.Operators"}, {"service": "grpc.health.v1.Health"}]}
        if self.attempts > 1:
            method["retryPolicy"] = {
                "maxAttempts": self.attempts,
                "initialBackoff": f"{self.initial_backoff}s",
                "maxBackoff": f"{self.max_backoff}s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            }
        return json.dumps({"methodConfig": [method]})


def channel_options(retry: Retry) -> list[tuple[str, Any]]:
    return [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        ("grpc.enable_retries", 1),
        ("grpc.service_config", retry.service_config()),
    ]


def attribute(name: str, value: Attribute) -> tensor_pb2.AttributeValue:
    """A Python value as an attribute. TypeError if it is none of the types of `Attribute`."""
    message = tensor_pb2.AttributeValue()
    # bool is an int to Python, and NumPy's scalars are neither.
    plain: Any = value.tolist() if isinstance(value, (np.generic, np.ndarray)) else value
    if isinstance(plain, bool):
        message.bool_value = plain
    elif isinstance(plain, int):
        message.int_value = plain
    elif isinstance(plain, float):
        message.float_value = plain
    elif isinstance(plain, str):
        message.string_value = plain
    elif isinstance(plain, (list, tuple)):
        if plain and all(isinstance(entry, bool) for entry in plain):
            message.bool_list.values.extend(plain)
        elif all(isinstance(entry, int) and not isinstance(entry, bool) for entry in plain):
            message.int_list.SetInParent()
            message.int_list.values.extend(plain)
        elif all(isinstance(entry, (int, float)) and not isinstance(entry, bool) for entry in plain):
            message.float_list.values.extend(plain)
        else:
            raise TypeError(f"attribute {name}: a list must be of bool, int or float alone, given {value!r}")
    else:
        raise TypeError(f"attribute {name}: given {type(value).__name__}, expected bool, int, float, str or a list")
    return message


class Evaluation:
    """One call on its way: a request in one message, or a header followed by chunks."""

    def __init__(
        self,
        op: str,
        inputs: Mapping[str, ArrayLike],
        attributes: Mapping[str, Attribute],
        kernel: str = "",
        outputs: Sequence[str] = (),
        priority: int = 0,
        request_id: str = "",
    ) -> None:
        self._arrays: dict[str, Array] = {}
        for name, value in inputs.items():
            try:
                self._arrays[name] = tensors.canonical(value)
            except TypeError as error:
                raise TypeError(f"{op}: {name}: {error}") from None
        self._head = pb.EvaluateRequest(
            op=op, kernel=kernel, outputs=outputs, priority=priority, request_id=request_id
        )
        for name, setting in attributes.items():
            self._head.attributes[name].CopyFrom(attribute(name, setting))

    @classmethod
    def of(cls, call: Call, request_id: str) -> Evaluation:
        return cls(call.op, call.inputs, call.attributes, call.kernel, call.outputs, call.priority, request_id)

    @property
    def nbytes(self) -> int:
        return sum(array.nbytes for array in self._arrays.values())

    def message(self) -> pb.EvaluateRequest:
        request = pb.EvaluateRequest()
        request.CopyFrom(self._head)
        for name, array in self._arrays.items():
            request.inputs[name].CopyFrom(tensors.to_wire(array))
        return request

    def chunks(self) -> Iterator[pb.EvaluateChunk]:
        request = pb.EvaluateRequest()
        request.CopyFrom(self._head)
        for name, array in self._arrays.items():
            request.inputs[name].CopyFrom(tensors.header(array))
        yield pb.EvaluateChunk(request=request)
        for name in sorted(self._arrays):
            view = tensors.byte_view(self._arrays[name])
            for offset in range(0, len(view), CHUNK_BYTES):
                data = pb.EvaluateChunk.Data(
                    tensor=name, offset=offset, bytes=bytes(view[offset : offset + CHUNK_BYTES])
                )
                yield pb.EvaluateChunk(data=data)


class Assembler:
    """Puts the chunks of a streamed answer together."""

    def __init__(self) -> None:
        self._response: pb.EvaluateResponse | None = None
        self._outputs: dict[str, Array] = {}
        self._filled: dict[str, int] = {}

    def add(self, chunk: pb.EvaluateChunk) -> None:
        """ValueError if chunks do not follow the protocol."""
        kind = chunk.WhichOneof("kind")
        if kind == "response" and self._response is None:
            self._response = chunk.response
            self._outputs = {name: tensors.empty(t) for name, t in chunk.response.outputs.items()}
            self._filled = dict.fromkeys(self._outputs, 0)
        elif kind == "data" and self._response is not None and chunk.data.tensor in self._outputs:
            data = chunk.data
            view = tensors.byte_view(self._outputs[data.tensor])
            end = data.offset + len(data.bytes)
            if data.offset != self._filled[data.tensor] or end > len(view):
                raise ValueError(f"output {data.tensor}: bytes [{data.offset}, {end}) came out of place")
            view[data.offset : end] = data.bytes
            self._filled[data.tensor] = end
        else:
            raise ValueError(f"a streamed answer held a chunk that does not belong there: {kind}")

    def result(self, kind: type[R]) -> R:
        """ValueError if something is missing."""
        if self._response is None:
            raise ValueError("the stream ended without an answer")
        for name, array in self._outputs.items():
            if self._filled[name] != array.nbytes:
                raise ValueError(f"output {name} ended after {self._filled[name]} of {array.nbytes} bytes")
        return _result(kind, self._response, self._outputs)


def result(kind: type[R], response: pb.EvaluateResponse) -> R:
    return _result(kind, response, {name: tensors.from_wire(t) for name, t in response.outputs.items()})


def _result(kind: type[R], response: pb.EvaluateResponse, outputs: dict[str, Array]) -> R:
    timing = Timing(response.timing.queue_us, response.timing.compute_us, response.timing.total_us)
    return kind(outputs, response.kernel, response.device, response.batch_size, timing)


def operators(response: pb.ListResponse) -> list[OperatorInfo]:
    return [
        OperatorInfo(
            op.id,
            op.summary,
            op.paper,
            op.core,
            op.stateful,
            op.packs_sequences,
            tuple(Kernel(kernel.name, kernel.device) for kernel in op.kernels),
        )
        for op in response.operators
    ]


def compare_request(
    op: str,
    inputs: Mapping[str, ArrayLike] | None,
    attributes: Mapping[str, Attribute],
    kernel: str,
    random: Random | None,
) -> pb.CompareRequest:
    if (inputs is None) == (random is None):
        raise ValueError("compare: exactly one of inputs and random is expected")
    request = pb.CompareRequest(call=Evaluation(op, inputs or {}, attributes, kernel).message())
    if random is not None:
        request.random.seed = random.seed
        request.random.dtype = tensors.wire_type(random.dtype)
        request.random.dims.update(random.dims)
    return request


def comparison(response: pb.CompareResponse) -> Comparison:
    names = [f.name for f in dataclasses.fields(OutputError) if f.name != "worst_index"]
    outputs = tuple(
        OutputError(worst_index=tuple(report.worst_index), **{name: getattr(report, name) for name in names})
        for report in response.outputs
    )
    return Comparison(
        response.kernel,
        response.device,
        response.reference,
        outputs,
        response.bitwise_repeatable,
        response.compute_us,
        response.reference_us,
        response.tolerance,
        response.within_tolerance,
    )


def batch_requests(calls: Iterable[Call]) -> Iterator[pb.EvaluateRequest]:
    """Requests named by their index."""
    for index, call in enumerate(calls):
        yield Evaluation.of(call, str(index)).message()


def batch_answer(answer: pb.BatchResponse) -> tuple[int, Result | errors.Error]:
    """The index of the call that an answer belongs to, and its result or error."""
    if answer.WhichOneof("result") == "error":
        error = answer.error
        return int(error.request_id), errors.from_number(error.code, error.message)
    return int(answer.response.request_id), result(Result, answer.response)
