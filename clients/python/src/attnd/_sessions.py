"""What the synchronous and the asynchronous session share: requests, events, patience."""

from __future__ import annotations

import hashlib
import os
import pathlib
import random
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from attnd import _calls, errors, tensors
from attnd.results import Attribute, Outputs
from attnd.tensors import ArrayLike
from attnd.v1 import sessions_pb2 as pb

CHUNK_BYTES = 1 << 20

Durability: TypeAlias = Literal["none", "async", "sync"]
Finish: TypeAlias = Literal["length", "stop_token", "stop_sequence", "cancelled"]
Path: TypeAlias = str | os.PathLike[str]

_DURABILITY: dict[str, pb.SessionDurability] = {"none": pb.NONE, "async": pb.ASYNC, "sync": pb.SYNC}
_FINISH: dict[int, Finish] = {
    pb.LENGTH: "length",
    pb.STOP_TOKEN: "stop_token",
    pb.STOP_SEQUENCE: "stop_sequence",
    pb.CANCELLED_BY_CLIENT: "cancelled",
}


@dataclass(frozen=True)
class Token:
    """A sampled token."""

    id: int
    #: Where it stands in the session.
    position: int
    #: What it adds to the text: whole characters only, so it may be empty.
    text: str
    #: Natural logarithm of its probability under the model, where it was asked for.
    logprob: float | None = None
    #: The most probable tokens there, and their log-probabilities.
    top: tuple[tuple[int, float], ...] = ()


@dataclass(frozen=True)
class SessionInfo:
    """What a server tells of a session."""

    name: str
    #: Empty for an operator's session, whose `op` says which.
    model: str
    position: int
    #: Up to here everything survives the end of the server's process.
    durable_position: int
    seed: int
    #: "host" or "store": where its state is.
    tier: str
    state_bytes: int
    weights_hash: str
    #: The session that it was forked from, or empty.
    parent: str
    forked_at: int
    labels: Mapping[str, str]
    op: str = ""
    #: Where its history begins, which a rewind can reach.
    oldest_position: int = 0


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; the defaults take the most probable one."""

    temperature: float = 0
    #: Only so many of the most probable tokens; 0: all.
    top_k: int = 0
    #: Only the most probable tokens whose probabilities reach this; 1: all.
    top_p: float = 1
    #: Only tokens at least this probable beside the most probable one.
    min_p: float = 0
    repetition_penalty: float = 1
    #: Of how many of the last tokens; 0: all.
    repetition_window: int = 0
    logprobs: bool = False
    top_logprobs: int = 0

    def message(self) -> pb.Sampling:
        return pb.Sampling(
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
            repetition_window=self.repetition_window,
            logprobs=self.logprobs,
            top_logprobs=self.top_logprobs,
        )


class Patience:
    """How long a server that cannot be reached is waited for, each time anew."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.renew()

    def renew(self) -> None:
        self._end = time.monotonic() + self._seconds
        self._wait = 0.05

    def wait(self, error: errors.Error) -> float:
        """Seconds to wait before what ended in `error` is repeated; raises it where that is of no use."""
        if not isinstance(error, errors.Unavailable) or time.monotonic() + self._wait > self._end:
            raise error from None
        seconds = self._wait * random.uniform(0.5, 1)
        self._wait = min(2 * self._wait, 2.0)
        return seconds


def new_name() -> str:
    return secrets.token_hex(16)


def info(session: pb.Session) -> SessionInfo:
    return SessionInfo(
        session.session,
        session.model,
        session.position,
        session.durable_position,
        session.seed,
        session.tier,
        session.state_bytes,
        session.weights_hash,
        session.parent,
        session.forked_at,
        dict(session.labels),
        session.op,
        session.oldest_position,
    )


def create_request(
    name: str,
    durability: Durability,
    idle_seconds: float,
    labels: Mapping[str, str] | None,
    *,
    model: str = "",
    seed: int = 0,
    op: str = "",
    attributes: Mapping[str, Attribute] | None = None,
    kernel: str = "",
) -> pb.CreateSessionRequest:
    # A name that the server chose could not be asked for again: what is sent has one.
    return pb.CreateSessionRequest(
        session=name or new_name(),
        model=model,
        seed=seed,
        op=op,
        attributes={key: _calls.attribute(key, value) for key, value in (attributes or {}).items()},
        kernel=kernel,
        durability=_DURABILITY[durability],
        idle_seconds=idle_seconds,
        labels=labels or {},
    )


def import_parts(file: bytes, header: pb.ImportHeader) -> Iterator[pb.ImportChunk]:
    yield pb.ImportChunk(header=header)
    for offset in range(0, len(file), CHUNK_BYTES):
        chunk = pb.FileChunk(offset=offset, data=file[offset : offset + CHUNK_BYTES])
        if offset + CHUNK_BYTES >= len(file):
            chunk.sha256 = hashlib.sha256(file).digest()
        yield pb.ImportChunk(chunk=chunk)


def import_header(name: str, model: str, durability: Durability, recompute: bool) -> pb.ImportHeader:
    return pb.ImportHeader(
        session=name or new_name(), model=model, durability=_DURABILITY[durability], recompute=recompute
    )


class Download:
    """The chunks of an exported session."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._data = bytearray()
        self._sha256 = b""

    def add(self, chunk: pb.FileChunk) -> None:
        self._data += chunk.data
        self._sha256 = chunk.sha256

    def write(self, path: Path) -> None:
        """Writes the file whole or not at all."""
        if hashlib.sha256(self._data).digest() != self._sha256:
            raise errors.DataLoss(f"session {self._name}: damaged on its way")
        unfinished = pathlib.Path(f"{os.fspath(path)}.{secrets.token_hex(4)}.new")
        try:
            unfinished.write_bytes(self._data)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


class Decoding:
    """One decode: its request, and what has come of it. Its session's position follows what was seen."""

    def __init__(
        self,
        base: SessionBase,
        max_new_tokens: int,
        sampling: Sampling,
        stop: Sequence[str],
        stop_tokens: Sequence[int],
        ignore_eos: bool,
    ) -> None:
        self._base = base
        self.request = pb.DecodeRequest(
            session=base.name,
            expected_position=base.position,
            max_new_tokens=max_new_tokens,
            sampling=sampling.message(),
            stop=pb.Stop(sequences=stop, tokens=stop_tokens, ignore_eos=ignore_eos),
        )
        self._logprobs = sampling.logprobs or sampling.top_logprobs > 0
        self.text = ""
        self.finish: Finish | None = None

    def take(self, event: pb.DecodeEvent) -> list[Token]:
        self.text += event.text
        tokens = []
        for index, token in enumerate(event.tokens):
            last = index == len(event.tokens) - 1
            tokens.append(
                Token(
                    token.token,
                    event.position + index,
                    event.text if last else "",
                    token.logprob if self._logprobs else None,
                    tuple((entry.token, entry.logprob) for entry in token.top),
                )
            )
        if tokens:
            self._base.position = tokens[-1].position + 1
            # Where a stream that breaks goes on.
            self.request.from_position = self._base.position
        if event.finish:
            self.finish = _FINISH[event.finish]
        return tokens


class SessionBase:
    """A session's name and where it stands as far as this client knows: what it asks for names that position, so it
    happens once, however often it is sent."""

    _of_operator = False

    def __init__(self, session: pb.Session) -> None:
        if bool(session.op) != self._of_operator:
            what = f"the operator {session.op}" if session.op else f"the language model {session.model}"
            raise TypeError(f"session {session.session}: is of {what}, which {type(self).__name__} is not for")
        self._name = session.session
        self._model = session.model or session.op
        self._seed = session.seed
        self.position = session.position
        self._stream: Any = None

    def _leave(self) -> None:
        """Ends a decode that was left early: the server lets nobody else in while it streams."""
        if self._stream is not None:
            self._stream.cancel()
            self._stream = None

    @property
    def name(self) -> str:
        return self._name

    @property
    def model(self) -> str:
        return self._model

    @property
    def seed(self) -> int:
        return self._seed

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name} of {self._model} at {self.position}>"

    def _feed_request(
        self, inputs: Mapping[str, ArrayLike], outputs: Sequence[str]
    ) -> pb.AppendRequest:
        request = pb.AppendRequest(session=self._name, expected_position=self.position, outputs=outputs)
        for name, value in inputs.items():
            try:
                request.inputs[name].CopyFrom(tensors.to_wire(tensors.canonical(value)))
            except TypeError as error:
                raise TypeError(f"{self._model}: {name}: {error}") from None
        return request

    def _fed(self, response: pb.AppendResponse) -> Outputs:
        self.position = response.position
        arrays = {name: tensors.from_wire(tensor) for name, tensor in response.outputs.items()}
        return Outputs(arrays, response.kernel, response.device)

    def _append_request(self, what: str | Sequence[int]) -> pb.AppendRequest:
        request = pb.AppendRequest(session=self._name, expected_position=self.position)
        if isinstance(what, str):
            request.text = what
        else:
            request.tokens.extend(int(token) for token in what)
        return request

    def _fork_request(self, name: str, position: int | None, seed: int | None) -> pb.ForkRequest:
        return pb.ForkRequest(
            session=self._name,
            new_session=name or new_name(),
            position=self.position if position is None else position,
            seed=seed,
        )

    def _rewind_request(self, position: int) -> pb.RewindRequest:
        if position < 0:
            raise ValueError(f"position: given {position}, expected at least 0")
        return pb.RewindRequest(session=self._name, position=position, expected_position=self.position)

    def _snapshot_request(self, snapshot: str) -> pb.SnapshotRequest:
        return pb.SnapshotRequest(session=self._name, snapshot=snapshot, expected_position=self.position)

    def _restore_request(self, snapshot: str) -> pb.RestoreRequest:
        return pb.RestoreRequest(session=self._name, snapshot=snapshot, expected_position=self.position)
