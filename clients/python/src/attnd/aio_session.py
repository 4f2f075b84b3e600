"""Decode sessions for asyncio."""

from __future__ import annotations

import asyncio
import builtins
import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Self, TypeVar

import grpc

from attnd import _sessions, errors
from attnd._sessions import Durability, Finish, Path, Sampling, SessionBase, SessionInfo, Token
from attnd.aio import AsyncClient
from attnd.results import Attribute, Outputs
from attnd.tensors import ArrayLike
from attnd.v1 import sessions_pb2 as pb

T = TypeVar("T")


class AsyncDecode:
    """`Decode` for asyncio. After leaving the loop early, `await decode.aclose()` ends it at once."""

    def __init__(self, tokens: AsyncIterator[Token], decoding: _sessions.Decoding) -> None:
        self._tokens = tokens
        self._decoding = decoding

    def __aiter__(self) -> AsyncIterator[Token]:
        return self._tokens

    async def aclose(self) -> None:
        close = getattr(self._tokens, "aclose", None)
        if close is not None:
            await close()

    @property
    def text(self) -> str:
        return self._decoding.text

    @property
    def finish(self) -> Finish | None:
        return self._decoding.finish


class AsyncKeptSession(SessionBase):
    """What sessions of language models and of operators have in common."""

    def __init__(self, client: AsyncClient, session: pb.Session, patience: float) -> None:
        """Use `create`, `open` or `load`."""
        super().__init__(session)
        self._client = client
        self._patience = patience

    @classmethod
    async def open(cls, client: AsyncClient, name: str, *, patience: float = 30) -> Self:
        """A session that exists."""
        request = pb.GetSessionRequest(session=name)
        return cls(client, await _repeat(client, patience, client._sessions.Get, request), patience)

    @classmethod
    async def load(
        cls,
        client: AsyncClient,
        path: Path,
        *,
        name: str = "",
        model: str = "",
        durability: Durability = "async",
        recompute: bool = False,
        patience: float = 30,
    ) -> Self:
        """A new session from a file of `save`; arguments as those of `Session.load`."""
        file = await asyncio.to_thread(pathlib.Path(path).read_bytes)
        header = _sessions.import_header(name, model, durability, recompute)

        async def send(header: pb.ImportHeader, **options: Any) -> pb.Session:
            made: pb.Session = await client._sessions.Import(_sessions.import_parts(file, header), **options)
            return made

        return cls(client, await _repeat(client, patience, send, header), patience)

    @staticmethod
    async def list(client: AsyncClient, prefix: str = "") -> AsyncIterator[SessionInfo]:
        """The sessions whose names begin with `prefix`. Of those that are not in memory the server tells the name."""
        request = pb.ListSessionsRequest(prefix=prefix)
        while True:
            page: pb.ListSessionsResponse = await _repeat(client, 0, client._sessions.List, request)
            for session in page.sessions:
                yield _sessions.info(session)
            if not page.next:
                return
            request.after = page.next

    async def info(self) -> SessionInfo:
        """What the server tells of it."""
        request = pb.GetSessionRequest(session=self.name)
        return _sessions.info(await self._call(self._client._sessions.Get, request))

    async def fork(self, name: str = "", *, position: int | None = None) -> Self:
        """A new session that begins with what this one has read up to `position` (None: all) and goes its own way."""
        return await self._forked(self._fork_request(name, position, None))

    async def rewind(self, position: int) -> None:
        """Takes back everything from `position` on."""
        self.position = (await self._call(self._client._sessions.Rewind, self._rewind_request(position))).position

    async def snapshot(self, name: str) -> None:
        """Names where the session stands now."""
        await self._call(self._client._sessions.Snapshot, self._snapshot_request(name))

    async def restore(self, name: str) -> None:
        """Goes to a point that has a name."""
        self.position = (await self._call(self._client._sessions.Restore, self._restore_request(name))).position

    async def save(self, path: Path) -> None:
        """Writes it to a .safetensors file, whole or not at all."""
        request = pb.ExportRequest(session=self.name, expected_position=self.position)

        async def receive(request: pb.ExportRequest, **options: Any) -> _sessions.Download:
            download = _sessions.Download(self.name)
            async for chunk in self._client._sessions.Export(request, **options):
                download.add(chunk)
            return download

        download = await self._call(receive, request)
        await asyncio.to_thread(download.write, path)

    async def delete(self) -> None:
        """Ends it for good."""
        await self._call(self._client._sessions.Delete, pb.DeleteSessionRequest(session=self.name))

    async def _call(self, method: Callable[..., Awaitable[T]], request: Any) -> T:
        self._leave()
        return await _repeat(self._client, self._patience, method, request)

    async def _forked(self, request: pb.ForkRequest) -> Self:
        return type(self)(self._client, await self._call(self._client._sessions.Fork, request), self._patience)


class AsyncSession(AsyncKeptSession):
    """`Session` for asyncio; see there."""

    @classmethod
    async def create(
        cls,
        client: AsyncClient,
        model: str,
        *,
        name: str = "",
        seed: int = 0,
        durability: Durability = "async",
        idle_seconds: float = 0,
        labels: Mapping[str, str] | None = None,
        patience: float = 30,
    ) -> Self:
        """A new session; arguments as those of `Session.create`."""
        request = _sessions.create_request(
            name, durability, idle_seconds, labels, model=model, seed=seed
        )
        return cls(client, await _repeat(client, patience, client._sessions.Create, request), patience)

    async def append(self, what: str | Sequence[int]) -> builtins.list[int]:
        """Feeds text or token ids; gives the tokens."""
        response = await self._call(self._client._sessions.Append, self._append_request(what))
        self.position = response.position
        return [*response.tokens]

    def decode(
        self,
        max_new_tokens: int = 256,
        *,
        sampling: Sampling = Sampling(),
        stop: Sequence[str] = (),
        stop_tokens: Sequence[int] = (),
        ignore_eos: bool = False,
    ) -> AsyncDecode:
        """Samples; arguments as those of `Session.decode`."""
        decoding = _sessions.Decoding(self, max_new_tokens, sampling, stop, stop_tokens, ignore_eos)
        return AsyncDecode(self._tokens(decoding), decoding)

    async def text(self, max_new_tokens: int = 256, **options: Any) -> AsyncIterator[str]:
        """The text of `decode`, in pieces as they come; the same arguments."""
        decode = self.decode(max_new_tokens, **options)
        given = 0
        async for _ in decode:
            if len(decode.text) > given:
                yield decode.text[given:]
                given = len(decode.text)
        if len(decode.text) > given:
            yield decode.text[given:]

    async def fork(self, name: str = "", *, position: int | None = None, seed: int | None = None) -> Self:
        """A new session that begins with this one's tokens up to `position` (None: all) and goes its own way."""
        return await self._forked(self._fork_request(name, position, seed))

    async def _tokens(self, decoding: _sessions.Decoding) -> AsyncIterator[Token]:
        self._leave()
        patience = _sessions.Patience(self._patience)
        while decoding.finish is None:
            stream = self._client._sessions.Decode(decoding.request, metadata=self._client._metadata)
            self._stream = stream
            try:
                async for event in stream:
                    patience.renew()
                    for token in decoding.take(event):
                        yield token
            except grpc.RpcError as error:
                await asyncio.sleep(patience.wait(errors.from_rpc(error)))
            finally:
                stream.cancel()


class AsyncOperatorSession(AsyncKeptSession):
    """`OperatorSession` for asyncio; see there."""

    _of_operator = True

    @classmethod
    async def create(
        cls,
        client: AsyncClient,
        op: str,
        attributes: Mapping[str, Attribute] | None = None,
        *,
        kernel: str = "",
        name: str = "",
        durability: Durability = "async",
        idle_seconds: float = 0,
        labels: Mapping[str, str] | None = None,
        patience: float = 30,
    ) -> Self:
        """A new session; arguments as those of `OperatorSession.create`."""
        request = _sessions.create_request(
            name, durability, idle_seconds, labels, op=op, attributes=attributes, kernel=kernel
        )
        return cls(client, await _repeat(client, patience, client._sessions.Create, request), patience)

    @property
    def op(self) -> str:
        return self._model

    async def append(
        self, inputs: Mapping[str, ArrayLike] | None = None, /, *, outputs: Sequence[str] = (), **more: ArrayLike
    ) -> Outputs:
        """Evaluates the operator behind what the session has read; arguments as those of `OperatorSession.append`."""
        request = self._feed_request({**(inputs or {}), **more}, outputs)
        return self._fed(await self._call(self._client._sessions.Append, request))


async def _repeat(
    client: AsyncClient, patience_seconds: float, method: Callable[..., Awaitable[T]], request: Any
) -> T:
    patience = _sessions.Patience(patience_seconds)
    while True:
        try:
            return await method(request, timeout=client._timeout, metadata=client._metadata)
        except grpc.RpcError as error:
            await asyncio.sleep(patience.wait(errors.from_rpc(error)))
