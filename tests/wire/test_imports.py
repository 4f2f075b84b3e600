"""Large files of sessions, and what else the server does meanwhile."""

import hashlib
import json
import struct
import threading
import time

import numpy as np

from tests.wire.session_server import PATIENCE, attnd, create, wire  # noqa: F401


def session_file(weights_hash: str, tokens: np.ndarray, seed: int) -> bytes:
    """A session of these tokens, without a state, as service/session/session_file.h has it."""
    chain = hashlib.sha256(struct.pack("<Q", seed)).digest()
    words = tokens.astype("<i4").tobytes()
    for at in range(0, len(words), 4):
        chain = hashlib.sha256(chain + words[at : at + 4]).digest()
    metadata = {
        "format": "attnd.session", "version": "1", "model": "gated_deltanet", "weights_hash": weights_hash, "seed": str(seed),
        "sampler": "philox4x32-10 of seed and position", "position": str(len(tokens)), "chain_hash": chain.hex(),
        "state_position": "0", "labels": "{}",
    }
    checked = b"".join(f"{key}={value}\n".encode() for key, value in sorted(metadata.items())) + words
    metadata["sha256"] = hashlib.sha256(checked).hexdigest()
    tensors = {"tokens": {"dtype": "I32", "shape": [len(tokens)], "data_offsets": [0, len(words)]}}
    header = json.dumps({"__metadata__": metadata, **tensors}).encode()
    return struct.pack("<Q", len(header)) + header + words


def import_file(wire, attnd, session: str, file: bytes):
    messages = wire["sessions"][0]
    parts = [messages.ImportChunk(header=messages.ImportHeader(session=session, recompute=True))]
    size = 1 << 20
    for at in range(0, len(file), size):
        parts.append(messages.ImportChunk(chunk=messages.FileChunk(offset=at, data=file[at : at + size])))
    return attnd.sessions.Import(iter(parts), timeout=PATIENCE)


def appends_during(wire, attnd, session: str, work) -> list[float]:
    """Seconds that appends in durability SYNC take, one after another, while `work` runs."""
    create(wire, attnd, session, [1], durability="SYNC")
    thread = threading.Thread(target=work)
    thread.start()
    seconds = []
    while thread.is_alive():
        append = wire["sessions"][0].AppendRequest(session=session, tokens=[2], expected_position=1 + len(seconds))
        begin = time.monotonic()
        attnd.sessions.Append(append, timeout=PATIENCE)
        seconds.append(time.monotonic() - begin)
    thread.join()
    return sorted(seconds)


def test_a_large_import_keeps_no_other_session_waiting(wire, attnd):
    models = wire["models"][0]
    model = attnd.models.Load(models.LoadModelRequest(name="gated_deltanet"))
    tokens = np.random.default_rng().integers(0, 96, 1 << 20)
    file = session_file(model.weights_hash, tokens, seed=7)
    begin = time.monotonic()
    assert import_file(wire, attnd, "alone", file).position == len(tokens)
    alone = time.monotonic() - begin
    seconds = appends_during(wire, attnd, "s", lambda: [import_file(wire, attnd, f"i{i}", file) for i in range(3)])
    print(
        f"an import of {len(tokens)} tokens {alone:.2f} s; {len(seconds)} appends during three: "
        f"p50 {1e3 * seconds[len(seconds) // 2]:.1f} ms, p99 {1e3 * seconds[int(0.99 * len(seconds))]:.1f} ms, most {1e3 * seconds[-1]:.1f} ms"
    )
    # Hashing the tokens is most of an import.
    assert seconds[int(0.99 * len(seconds))] < alone / 4
