"""The client for asyncio."""

from __future__ import annotations

import builtins
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import grpc
import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from attnd import _calls, errors
from attnd._calls import R, Retry
from attnd.operators import AsyncOperators
from attnd.results import Attribute, Call, Comparison, ModelInfo, OperatorInfo, Random, Result
from attnd.tensors import ArrayLike
from attnd.v1 import models_pb2, models_pb2_grpc, operators_pb2_grpc, sessions_pb2_grpc
from attnd.v1 import operators_pb2 as pb

T = TypeVar("T")


class AsyncClient(AsyncOperators):
    """`Client` for asyncio; see there for the arguments. Made inside a running event loop."""

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
            grpc.aio.insecure_channel(address, options)
            if credentials is None
            else grpc.aio.secure_channel(address, credentials, options)
        )
        self._operators: Any = operators_pb2_grpc.OperatorsStub(self._channel)
        self._sessions: Any = sessions_pb2_grpc.SessionsStub(self._channel)
        self._models: Any = models_pb2_grpc.ModelsStub(self._channel)
        self._health: Any = health_pb2_grpc.HealthStub(self._channel)
        self._timeout = timeout
        self._metadata = tuple(metadata)
        self._sizes = _calls.Sizes()

    async def close(self) -> None:
        """Ends the connection and whatever is under way on it."""
        await self._channel.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def list(self, filter: str = "") -> list[OperatorInfo]:
        """The operators of the server whose id contains `filter`."""
        return _calls.operators(await self._call(self._operators.List, pb.ListRequest(filter=filter)))

    async def describe(self, op: str) -> pb.OperatorDescription:
        """An operator's inputs, attributes, outputs and rules."""
        description: pb.OperatorDescription = await self._call(self._operators.Describe, pb.DescribeRequest(op=op))
        return description

    async def evaluate(
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
        """Evaluates an operator by name; arguments as those of `Client.evaluate`."""
        evaluation = _calls.Evaluation(op, inputs, attributes or {}, kernel, outputs, priority)
        return await self._evaluate(Result, evaluation, timeout)

    async def evaluate_batch(
        self, calls: Iterable[Call], *, timeout: float | None = None
    ) -> AsyncIterator[Result | errors.Error]:
        """Evaluates many calls on one stream, as `Client.evaluate_batch` does."""
        batch = _calls.Batch(calls, self._sizes)
        limit = _calls.TimeLimit(self._limit(timeout))
        stream = self._operators.EvaluateBatch(batch.requests(), timeout=limit.left(), metadata=self._metadata)
        answers = aiter(stream)
        due = 0
        try:
            ended = False
            while not ended:
                answer = await anext(answers, None)
                ended = answer is None
                if answer is not None:
                    batch.add(answer)
                while (outcome := batch.next(due)) is not None:
                    if isinstance(outcome, _calls.Evaluation):
                        outcome = await self._outcome(outcome, limit)
                    yield outcome
                    due += 1
        except grpc.RpcError as error:
            raise errors.from_rpc(error) from None
        finally:
            stream.cancel()
        batch.finish()

    async def compare(
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
        return _calls.comparison(await self._call(self._operators.Compare, request, timeout))

    async def models(self) -> builtins.list[ModelInfo]:
        """The language models of the server, and where they run."""
        return _calls.models(await self._call(self._models.List, models_pb2.ListModelsRequest()))

    async def load_model(self, name: str) -> ModelInfo:
        """Reads a language model, if it is not there yet."""
        return _calls.model(await self._call(self._models.Load, models_pb2.LoadModelRequest(name=name)))

    async def unload_model(self, name: str) -> None:
        """Gives a language model's memory back; its sessions bring it back when they are called."""
        await self._call(self._models.Unload, models_pb2.UnloadModelRequest(name=name))

    async def healthy(self, *, timeout: float | None = None) -> bool:
        """Whether the server takes calls now. Unavailable if it cannot be reached."""
        answer = await self._call(self._health.Check, health_pb2.HealthCheckRequest(), timeout)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def _run(
        self,
        kind: type[R],
        op: str,
        inputs: dict[str, ArrayLike],
        attributes: dict[str, Attribute],
        kernel: str,
        timeout: float | None,
    ) -> R:
        return await self._evaluate(kind, _calls.Evaluation(op, inputs, attributes, kernel), timeout)

    async def _evaluate(self, kind: type[R], evaluation: _calls.Evaluation, timeout: float | None) -> R:
        limit = _calls.TimeLimit(self._limit(timeout))
        if not self._sizes.need_stream(evaluation):
            try:
                answer = await self._call(self._operators.Evaluate, evaluation.message(), limit.left())
                return _calls.result(kind, answer)
            except errors.ResourceExhausted as error:
                if error.reason != _calls.ANSWER_TOO_LARGE:
                    raise
                self._sizes.learn(evaluation)
        return await self._stream(kind, evaluation, limit)

    async def _outcome(self, evaluation: _calls.Evaluation, limit: _calls.TimeLimit) -> Result | errors.Error:
        try:
            return await self._stream(Result, evaluation, limit)
        except errors.Error as error:
            return error

    async def _stream(self, kind: type[R], evaluation: _calls.Evaluation, limit: _calls.TimeLimit) -> R:
        assembler = _calls.Assembler()
        stream = self._operators.EvaluateStream(
            evaluation.chunks(), timeout=limit.left(), metadata=self._metadata
        )
        try:
            async for chunk in stream:
                assembler.add(chunk)
        except grpc.RpcError as error:
            raise errors.from_rpc(error) from None
        finally:
            stream.cancel()
        return assembler.result(kind)

    async def _call(self, method: Callable[..., Awaitable[T]], request: Any, timeout: float | None = None) -> T:
        try:
            return await method(request, timeout=self._limit(timeout), metadata=self._metadata)
        except grpc.RpcError as error:
            raise errors.from_rpc(error) from None

    def _limit(self, timeout: float | None) -> float | None:
        return self._timeout if timeout is None else timeout
