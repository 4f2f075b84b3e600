"""The synchronous client."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from attnd import _calls, errors
from attnd._calls import R, Retry
from attnd.operators import Operators
from attnd.results import Attribute, Call, Comparison, ModelInfo, OperatorInfo, Random, Result
from attnd.tensors import ArrayLike
from attnd.v1 import models_pb2, models_pb2_grpc, operators_pb2_grpc, sessions_pb2_grpc
from attnd.v1 import operators_pb2 as pb

T = TypeVar("T")


class Client(Operators):
    """A connection to a server, made on the first call. Threads may share it.

    Every operator is a method: `client.gla(q, k, v, g)`. Tensors of any size go through: what does not fit into one
    message is streamed.

    address      "host:port"
    credentials  of `grpc.ssl_channel_credentials`; none: plain text
    timeout      seconds for calls that do not name their own; None: no limit
    retry        what happens after UNAVAILABLE
    metadata     sent with every call, ("authorization", "Bearer ...") for instance
    """

    def __init__(
        self,
        address: str = "localhost:8001",
        *,
        credentials: grpc.ChannelCredentials | None = None,
        timeout: float | None = None,
        retry: Retry = Retry(),
        metadata: Sequence[tuple[str, str]] = (),
    ) -> None:
        options = _calls.channel_options(retry)
        self._channel = (
            grpc.insecure_channel(address, options)
            if credentials is None
            else grpc.secure_channel(address, credentials, options)
        )
        self._operators = operators_pb2_grpc.OperatorsStub(self._channel)
        self._sessions: Any = sessions_pb2_grpc.SessionsStub(self._channel)
        self._models: Any = models_pb2_grpc.ModelsStub(self._channel)
        self._health: Any = health_pb2_grpc.HealthStub(self._channel)
        self._timeout = timeout
        self._metadata = tuple(metadata)
        self._sizes = _calls.Sizes()

    def close(self) -> None:
        """Ends the connection and whatever is under way on it."""
        self._channel.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def list(self, filter: str = "") -> list[OperatorInfo]:
        """The operators of the server whose id contains `filter`."""
        return _calls.operators(self._call(self._operators.List, pb.ListRequest(filter=filter)))

    def describe(self, op: str) -> pb.OperatorDescription:
        """An operator's inputs, attributes, outputs and rules."""
        description: pb.OperatorDescription = self._call(self._operators.Describe, pb.DescribeRequest(op=op))
        return description

    def evaluate(
        self,
        op: str,
        inputs: Mapping[str, ArrayLike],
        attributes: Mapping[str, Attribute] | None = None,
        *,
        kernel: str = "",
        outputs: Sequence[str] = (),
        priority: int = 0,
        timeout: float | None = None,
    ) -> Result:
        """Evaluates an operator by name.

        kernel    "": the server chooses; "composed" or a kernel's name forces it
        outputs   those wanted; empty: all
        priority  0 to 2, higher runs first
        timeout   seconds
        """
        evaluation = _calls.Evaluation(op, inputs, attributes or {}, kernel, outputs, priority)
        return self._evaluate(Result, evaluation, timeout)

    def evaluate_batch(self, calls: Iterable[Call], *, timeout: float | None = None) -> Iterator[Result | errors.Error]:
        """Evaluates many calls on one stream. Answers are yielded in the order of the calls; a call that fails yields
        its error and does not disturb the others. `calls` is read by another thread while answers arrive."""
        batch = _calls.Batch(calls, self._sizes)
        limit = _calls.TimeLimit(self._limit(timeout))
        stream = self._operators.EvaluateBatch(batch.requests(), timeout=limit.left(), metadata=self._metadata)
        due = 0
        try:
            ended = False
            while not ended:
                answer = next(stream, None)
                ended = answer is None
                if answer is not None:
                    batch.add(answer)
                while (outcome := batch.next(due)) is not None:
                    if isinstance(outcome, _calls.Evaluation):
                        outcome = self._outcome(outcome, limit)
                    yield outcome
                    due += 1
        except grpc.RpcError as error:
            raise errors.from_rpc(error) from None
        finally:
            stream.cancel()
        batch.finish()

    def compare(
        self,
        op: str,
        inputs: Mapping[str, ArrayLike] | None = None,
        attributes: Mapping[str, Attribute] | None = None,
        *,
        random: Random | None = None,
        kernel: str = "",
        timeout: float | None = None,
    ) -> Comparison:
        """A kernel against the float64 definition, on `inputs` or on random ones."""
        request = _calls.compare_request(op, inputs, attributes or {}, kernel, random)
        return _calls.comparison(self._call(self._operators.Compare, request, timeout))

    def models(self) -> builtins.list[ModelInfo]:
        """The language models of the server, and where they run."""
        return _calls.models(self._call(self._models.List, models_pb2.ListModelsRequest()))

    def load_model(self, name: str) -> ModelInfo:
        """Reads a language model, if it is not there yet."""
        return _calls.model(self._call(self._models.Load, models_pb2.LoadModelRequest(name=name)))

    def unload_model(self, name: str) -> None:
        """Gives a language model's memory back; its sessions bring it back when they are called."""
        self._call(self._models.Unload, models_pb2.UnloadModelRequest(name=name))

    def healthy(self, *, timeout: float | None = None) -> bool:
        """Whether the server takes calls now. Unavailable if it cannot be reached."""
        answer = self._call(self._health.Check, health_pb2.HealthCheckRequest(), timeout)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    def _run(
        self,
        kind: type[R],
        op: str,
        inputs: dict[str, ArrayLike],
        attributes: dict[str, Attribute],
        kernel: str,
        timeout: float | None,
    ) -> R:
        return self._evaluate(kind, _calls.Evaluation(op, inputs, attributes, kernel), timeout)

    def _evaluate(self, kind: type[R], evaluation: _calls.Evaluation, timeout: float | None) -> R:
        limit = _calls.TimeLimit(self._limit(timeout))
        if not self._sizes.need_stream(evaluation):
            try:
                return _calls.result(kind, self._call(self._operators.Evaluate, evaluation.message(), limit.left()))
            except errors.ResourceExhausted as error:
                if error.reason != _calls.ANSWER_TOO_LARGE:
                    raise
                self._sizes.learn(evaluation)
        return self._stream(kind, evaluation, limit)

    def _outcome(self, evaluation: _calls.Evaluation, limit: _calls.TimeLimit) -> Result | errors.Error:
        try:
            return self._stream(Result, evaluation, limit)
        except errors.Error as error:
            return error

    def _stream(self, kind: type[R], evaluation: _calls.Evaluation, limit: _calls.TimeLimit) -> R:
        assembler = _calls.Assembler()
        stream = self._operators.EvaluateStream(
            evaluation.chunks(), timeout=limit.left(), metadata=self._metadata
        )
        try:
            for chunk in stream:
                assembler.add(chunk)
        except grpc.RpcError as error:
            raise errors.from_rpc(error) from None
        finally:
            stream.cancel()
        return assembler.result(kind)

    def _call(self, method: Callable[..., T], request: Any, timeout: float | None = None) -> T:
        try:
            return method(request, timeout=self._limit(timeout), metadata=self._metadata)
        except grpc.RpcError as error:
            raise errors.from_rpc(error) from None

    def _limit(self, timeout: float | None) -> float | None:
        return self._timeout if timeout is None else timeout
