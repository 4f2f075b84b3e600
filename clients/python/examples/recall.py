"""Recall against the state that a session keeps, from the models that a server has: a table, and a plot.

    attnd serve --models models/weights --state-dir DIR &
    recall.py [--address localhost:8001] [--out recall.png] [MODEL...]

Multi-query associative recall: a session is told pairs of a key and a value, then a key, and decodes one token. What it
decoded is taken back (Rewind), and the next key comes. --out needs matplotlib.
"""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import Any

import grpc
import numpy as np

from attnd.v1 import models_pb2, models_pb2_grpc, sessions_pb2, sessions_pb2_grpc

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "models/training"))
import mqar  # noqa: E402

PREFIX = "attnd-recall-"
LENGTH, VOCAB = 256, 256  # Of the models in models/weights.


def answers(sessions: Any, model: str, tokens: list[int], queries: list[int]) -> tuple[list[int], int]:
    """The most probable token behind each of the positions `queries`; and the bytes of the session's state at the end."""
    session = sessions.Create(sessions_pb2.CreateSessionRequest(model=model, durability=sessions_pb2.NONE)).session
    told, decoded = 0, []
    for query in queries:
        sessions.Append(sessions_pb2.AppendRequest(session=session, tokens=tokens[told : query + 1]))
        told = query + 1
        request = sessions_pb2.DecodeRequest(
            session=session, max_new_tokens=1, stop=sessions_pb2.Stop(ignore_eos=True)
        )
        decoded += [sampled.token for event in sessions.Decode(request) for sampled in event.tokens]
        sessions.Rewind(sessions_pb2.RewindRequest(session=session, position=told))
    sessions.Append(sessions_pb2.AppendRequest(session=session, tokens=tokens[told:] or [0]))
    state = sessions.Get(sessions_pb2.GetSessionRequest(session=session)).state_bytes
    sessions.Delete(sessions_pb2.DeleteSessionRequest(session=session))
    return decoded, state


def recall(sessions: Any, model: str, pairs: int, count: int, seed: int) -> tuple[float, int]:
    """Share of right answers over `count` fresh examples, and the bytes of a session's state."""
    right = state = 0
    for row, label in zip(*mqar.examples(np.random.default_rng(seed), count, LENGTH, pairs, VOCAB)):
        queries = np.flatnonzero(label != mqar.IGNORED).tolist()
        decoded, state = answers(sessions, model, row.tolist(), queries)
        right += sum(a == b for a, b in zip(decoded, label[queries].tolist()))
    return right / (count * pairs), state


def family(model: str) -> str:
    """Models of one family differ in their size, which ends the name."""
    name = model.removeprefix(PREFIX)
    return name.rsplit("-", 1)[0] if name.rsplit("-", 1)[-1].isdigit() and "hybrid" not in name else name


def plot(points: dict[str, tuple[float, int]], pairs: int, out: pathlib.Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for kind in dict.fromkeys(map(family, points)):
        line = sorted((state, score) for model, (score, state) in points.items() if family(model) == kind)
        axes.plot(*zip(*line), marker="o", label=kind)
    axes.set_xscale("log", base=2)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel(f"bytes of a session's state after {LENGTH} tokens")
    axes.set_ylabel(f"recall of {pairs} pairs")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    figure.savefig(out, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", metavar="MODEL", help=f"all {PREFIX}* of the server unless given")
    parser.add_argument("--address", default="localhost:8001")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--examples", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=pathlib.Path, help="a PNG, SVG or PDF")
    arguments = parser.parse_args()
    with grpc.insecure_channel(arguments.address) as channel:
        sessions = sessions_pb2_grpc.SessionsStub(channel)
        listed = models_pb2_grpc.ModelsStub(channel).List(models_pb2.ListModelsRequest()).models
        names = arguments.models or [model.name for model in listed if model.name.startswith(PREFIX)]
        points = {}
        for name in names:
            score, state = recall(sessions, name, arguments.pairs, arguments.examples, arguments.seed)
            points[name] = score, state
            print(f"{name:32} {score:6.3f} {state:10,} bytes", flush=True)
    if arguments.out:
        plot(points, arguments.pairs, arguments.out)


if __name__ == "__main__":
    main()
