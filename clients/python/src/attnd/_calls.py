"""What the synchronous and the asynchronous client share: requests, answers, chunks and channel options."""

from __future__ import annotations

import dataclasses
import json
import time
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
    ModelInfo,
    OperatorInfo,
    OutputError,
    Random,
    Result,
    Timing,
)
from attnd.tensors import Array, ArrayLike
from attnd.v1 import models_pb2, tensor_pb2
from attnd.v1 import operators_pb2 as pb

R = TypeVar("R", bound=Result)

# Servers take messages of 64 MiB unless configured otherwise; what comes near goes as a stream.
MAX_UNARY_BYTES = 48 << 20
# Why a server refuses a call whose answer only a stream can carry: operators.proto, CallError.reason.
ANSWER_TOO_LARGE = "answer-too-large"
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
        # A server that restarts is back soon.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.service_config", retry.service_config()),
    ]


def attribute(name: str, value: Attribute) -> tensor_pb2.AttributeValue:
    """A Python value as an attribute. TypeError if it is none of the types of `Attribute`, ValueError for integers of
    more than 64 bits."""
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
        plain = [entry.item() if isinstance(entry, np.generic) else entry for entry in plain]
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
        if not 0 <= priority < 1 << 32:
            raise ValueError(f"{op}: priority: given {priority}, expected 0 to 2")
        self._head = pb.EvaluateRequest(
            op=op, kernel=kernel, outputs=outputs, priority=priority, request_id=request_id
        )
        for name, setting in attributes.items():
            try:
                self._head.attributes[name].CopyFrom(attribute(name, setting))
            except ValueError as error:
                raise ValueError(f"{op}: attribute {name}: {error}") from None

    @classmethod
    def of(cls, call: Call, request_id: str) -> Evaluation:
        return cls(call.op, call.inputs, call.attributes, call.kernel, call.outputs, call.priority, request_id)

    @property
    def op(self) -> str:
        return self._head.op

    @property
    def nbytes(self) -> int:
        """Bytes of the inputs."""
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


def model(message: models_pb2.Model) -> ModelInfo:
    return ModelInfo(
        message.name,
        message.loaded,
        message.device,
        message.model_type,
        message.vocab_size,
        message.layers,
        message.weights_hash,
        message.state_bytes,
        message.state_bytes_per_token,
    )


def models(response: models_pb2.ListModelsResponse) -> list[ModelInfo]:
    return [model(message) for message in response.models]


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


class TimeLimit:
    """The seconds that a call may take, all of its RPCs together."""

    def __init__(self, seconds: float | None) -> None:
        self._end = None if seconds is None else time.monotonic() + seconds

    def left(self) -> float | None:
        return None if self._end is None else self._end - time.monotonic()


class Sizes:
    """Which calls need a stream: those with large inputs, and those whose like had too large an answer."""

    def __init__(self) -> None:
        self._streamed_from: dict[str, int] = {}

    def need_stream(self, evaluation: Evaluation) -> bool:
        return evaluation.nbytes >= self._streamed_from.get(evaluation.op, MAX_UNARY_BYTES)

    def learn(self, evaluation: Evaluation) -> None:
        """The answer to `evaluation` was too large for a message."""
        known = self._streamed_from.get(evaluation.op, MAX_UNARY_BYTES)
        self._streamed_from[evaluation.op] = min(known, evaluation.nbytes)


class Batch:
    """The calls of one batch: those on the stream, and those that need a stream of their own."""

    def __init__(self, calls: Iterable[Call], sizes: Sizes) -> None:
        self._calls = calls
        self._sizes = sizes
        self._sent: dict[int, Evaluation] = {}
        self._outcomes: dict[int, Result | errors.Error] = {}
        self._apart: dict[int, Evaluation] = {}
        self._failure: BaseException | None = None

    def requests(self) -> Iterator[pb.EvaluateRequest]:
        """Requests named by their index. gRPC reads them on a thread where an exception would be lost: it ends the
        requests, and `finish` raises it."""
        try:
            for index, call in enumerate(self._calls):
                evaluation = Evaluation.of(call, str(index))
                if self._sizes.need_stream(evaluation):
                    self._apart[index] = evaluation
                    continue
                self._sent[index] = evaluation
                yield evaluation.message()
        except Exception as error:
            self._failure = error

    def add(self, answer: pb.BatchResponse) -> None:
        failed = answer.WhichOneof("result") == "error"
        index = int(answer.error.request_id if failed else answer.response.request_id)
        evaluation = self._sent.pop(index)
        if not failed:
            self._outcomes[index] = result(Result, answer.response)
        elif answer.error.reason == ANSWER_TOO_LARGE:
            self._sizes.learn(evaluation)
            self._apart[index] = evaluation
        else:
            self._outcomes[index] = errors.from_number(answer.error.code, answer.error.message)

    def next(self, index: int) -> Result | errors.Error | Evaluation | None:
        """What became of a call: its outcome, itself if it is to be evaluated apart, None while it is not known."""
        outcome = self._outcomes.pop(index, None)
        return self._apart.pop(index, None) if outcome is None else outcome

    def finish(self) -> None:
        """Raises what reading the calls raised."""
        if self._failure is not None:
            raise self._failure
