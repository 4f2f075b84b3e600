"""Decode sessions."""

from __future__ import annotations

import builtins
import pathlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar

import grpc

from attnd import _sessions, errors
from attnd._sessions import Durability, Finish, Path, Sampling, SessionBase, SessionInfo, Token
from attnd.client import Client
from attnd.results import Attribute, Outputs
from attnd.tensors import ArrayLike
from attnd.v1 import sessions_pb2 as pb

T = TypeVar("T")


class Decode:
    """The tokens of a decode, as they come. Leaving the loop early ends it: the session then stands behind the last
    token that was seen."""

    def __init__(self, tokens: Iterator[Token], decoding: _sessions.Decoding) -> None:
        self._tokens = tokens
        self._decoding = decoding

    def __iter__(self) -> Iterator[Token]:
        return self._tokens

    def __next__(self) -> Token:
        return next(self._tokens)

    @property
    def text(self) -> str:
        """What has come so far, and, once it is over, what its stop sequences had held back."""
        return self._decoding.text

    @property
    def finish(self) -> Finish | None:
        """Why it is over; None while it is not."""
        return self._decoding.finish


class KeptSession(SessionBase):
    """What sessions of language models and of operators have in common."""

    def __init__(self, client: Client, session: pb.Session, patience: float) -> None:
        """Use `create`, `open` or `load`."""
        super().__init__(session)
        self._client = client
        self._patience = patience

    @classmethod
    def open(cls, client: Client, name: str, *, patience: float = 30) -> Self:
        """A session that exists."""
        request = pb.GetSessionRequest(session=name)
        return cls(client, _repeat(client, patience, client._sessions.Get, request), patience)

    @classmethod
    def load(
        cls,
        client: Client,
        path: Path,
        *,
        name: str = "",
        model: str = "",
        durability: Durability = "async",
        recompute: bool = False,
        patience: float = 30,
    ) -> Self:
        """A new session from a file of `save`: it goes on with the same bits. DataLoss if the file is damaged,
        FailedPrecondition if the model has other weights. `recompute`: computes the states from the tokens instead of
        taking the file's."""
        file = pathlib.Path(path).read_bytes()
        header = _sessions.import_header(name, model, durability, recompute)

        def send(header: pb.ImportHeader, **options: Any) -> pb.Session:
            made: pb.Session = client._sessions.Import(_sessions.import_parts(file, header), **options)
            return made

        return cls(client, _repeat(client, patience, send, header), patience)

    @staticmethod
    def list(client: Client, prefix: str = "") -> Iterator[SessionInfo]:
        """The sessions whose names begin with `prefix`. Of those that are not in memory the server tells the name."""
        request = pb.ListSessionsRequest(prefix=prefix)
        while True:
            page: pb.ListSessionsResponse = _repeat(client, 0, client._sessions.List, request)
            yield from (_sessions.info(session) for session in page.sessions)
            if not page.next:
                return
            request.after = page.next

    def info(self) -> SessionInfo:
        """What the server tells of it."""
        return _sessions.info(self._call(self._client._sessions.Get, pb.GetSessionRequest(session=self.name)))

    def fork(self, name: str = "", *, position: int | None = None) -> Self:
        """A new session that begins with what this one has read up to `position` (None: all) and goes its own way."""
        return self._forked(self._fork_request(name, position, None))

    def rewind(self, position: int) -> None:
        """Takes back everything from `position` on."""
        self.position = self._call(self._client._sessions.Rewind, self._rewind_request(position)).position

    def snapshot(self, name: str) -> None:
        """Names where the session stands now."""
        self._call(self._client._sessions.Snapshot, self._snapshot_request(name))

    def restore(self, name: str) -> None:
        """Goes to a point that has a name."""
        self.position = self._call(self._client._sessions.Restore, self._restore_request(name)).position

    def save(self, path: Path) -> None:
        """Writes it to a .safetensors file, whole or not at all."""
        request = pb.ExportRequest(session=self.name, expected_position=self.position)

        def receive(request: pb.ExportRequest, **options: Any) -> _sessions.Download:
            download = _sessions.Download(self.name)
            for chunk in self._client._sessions.Export(request, **options):
                download.add(chunk)
            return download

        self._call(receive, request).write(path)

    def delete(self) -> None:
        """Ends it for good."""
        self._call(self._client._sessions.Delete, pb.DeleteSessionRequest(session=self.name))

    def _call(self, method: Callable[..., T], request: Any) -> T:
        self._leave()
        return _repeat(self._client, self._patience, method, request)

    def _forked(self, request: pb.ForkRequest) -> Self:
        return type(self)(self._client, self._call(self._client._sessions.Fork, request), self._patience)


class Session(KeptSession):
    """A language model, the tokens that it has read, and a seed, kept by a server.

        session = attnd.Session.create(client, "attnd-text-small", seed=1)
        session.append("Once upon a time")
        for token in session.decode(100, sampling=attnd.Sampling(temperature=0.8)):
            print(token.text, end="")
        other = session.fork(position=4)
        session.save("tale.safetensors")

    What a session samples depends on its model, its seed and its tokens alone. Calls that end in Unavailable are
    repeated for `patience` seconds, streams from where they broke: nothing happens twice, and no token is lost. A
    session belongs to one thread at a time; clients that share one find out by FailedPrecondition.
    """

    @classmethod
    def create(
        cls,
        client: Client,
        model: str,
        *,
        name: str = "",
        seed: int = 0,
        durability: Durability = "async",
        idle_seconds: float = 0,
        labels: Mapping[str, str] | None = None,
        patience: float = 30,
    ) -> Self:
        """A new session.

        name          1 to 128 of [A-Za-z0-9_.-]; empty: one is drawn
        durability    "none": it lives in the server's memory; "async": it survives the end of the process; "sync":
                      that of the machine
        idle_seconds  deleted when unused for so long; 0: as the server has it
        """
        request = _sessions.create_request(
            name, durability, idle_seconds, labels, model=model, seed=seed
        )
        return cls(client, _repeat(client, patience, client._sessions.Create, request), patience)

    def append(self, what: str | Sequence[int]) -> builtins.list[int]:
        """Feeds text or token ids; gives the tokens."""
        response = self._call(self._client._sessions.Append, self._append_request(what))
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
    ) -> Decode:
        """Samples. `stop`: ends before such a text, `stop_tokens`: behind such a token."""
        decoding = _sessions.Decoding(self, max_new_tokens, sampling, stop, stop_tokens, ignore_eos)
        return Decode(self._tokens(decoding), decoding)

    def text(self, max_new_tokens: int = 256, **options: Any) -> Iterator[str]:
        """The text of `decode`, in pieces as they come; the same arguments."""
        decode = self.decode(max_new_tokens, **options)
        given = 0
        for _ in decode:
            if len(decode.text) > given:
                yield decode.text[given:]
                given = len(decode.text)
        if len(decode.text) > given:
            yield decode.text[given:]

    def fork(self, name: str = "", *, position: int | None = None, seed: int | None = None) -> Self:
        """A new session that begins with this one's tokens up to `position` (None: all) and goes its own way."""
        return self._forked(self._fork_request(name, position, seed))

    def _tokens(self, decoding: _sessions.Decoding) -> Iterator[Token]:
        self._leave()
        patience = _sessions.Patience(self._patience)
        while decoding.finish is None:
            stream = self._client._sessions.Decode(decoding.request, metadata=self._client._metadata)
            self._stream = stream
            try:
                for event in stream:
                    patience.renew()
                    yield from decoding.take(event)
            except grpc.RpcError as error:
                time.sleep(patience.wait(errors.from_rpc(error)))
            finally:
                stream.cancel()


class OperatorSession(KeptSession):
    """An operator's state, kept by a server: every call goes on where the last one ended.

        session = attnd.OperatorSession.create(client, "gla")
        for q, k, v, g in steps:                         # [B, T, H, K] each; any T
            o = session.append(q=q, k=k, v=v, g=g)["o"]
        session.rewind(0)

    Outputs depend on what the session has read alone. Calls that end in Unavailable are repeated as those of
    `Session` are. Its position counts along T; a rewind or a fork reaches the ends of appends.
    """

    _of_operator = True

    @classmethod
    def create(
        cls,
        client: Client,
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
        """A new session of an operator that hands a state on. `attributes` and `kernel` are those of all its calls;
        the other arguments are as those of `Session.create`."""
        request = _sessions.create_request(
            name, durability, idle_seconds, labels, op=op, attributes=attributes, kernel=kernel
        )
        return cls(client, _repeat(client, patience, client._sessions.Create, request), patience)

    @property
    def op(self) -> str:
        return self._model

    def append(
        self, inputs: Mapping[str, ArrayLike] | None = None, /, *, outputs: Sequence[str] = (), **more: ArrayLike
    ) -> Outputs:
        """Evaluates the operator on inputs by name, behind what the session has read. `outputs`: those wanted; empty:
        all but the states. What fails has changed nothing."""
        request = self._feed_request({**(inputs or {}), **more}, outputs)
        return self._fed(self._call(self._client._sessions.Append, request))


def _repeat(client: Client, patience_seconds: float, method: Callable[..., T], request: Any) -> T:
    patience = _sessions.Patience(patience_seconds)
    while True:
        try:
            return method(request, timeout=client._timeout, metadata=client._metadata)
        except grpc.RpcError as error:
            time.sleep(patience.wait(errors.from_rpc(error)))
