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

import grpc
import numpy as np

import attnd
from attnd.v1 import models_pb2, models_pb2_grpc

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "models/training"))
import mqar  # noqa: E402

PREFIX = "attnd-recall-"
LENGTH, VOCAB = 256, 256  # Of the models in models/weights.


def answers(client: attnd.Client, model: str, tokens: list[int], queries: list[int]) -> tuple[list[int], int]:
    """The most probable token behind each of the positions `queries`; and the bytes of the session's state at the end."""
    session = attnd.Session.create(client, model, durability="none")
    told, decoded = 0, []
    for query in queries:
        session.append(tokens[told : query + 1])
        told = query + 1
        decoded += [token.id for token in session.decode(1, ignore_eos=True)]
        session.rewind(told)
    if tokens[told:]:
        session.append(tokens[told:])
    state = session.info().state_bytes
    session.delete()
    return decoded, state


def recall(client: attnd.Client, model: str, pairs: int, count: int, seed: int) -> tuple[float, int]:
    """Share of right answers over `count` fresh examples, and the bytes of a session's state."""
    right = state = 0
    for row, label in zip(*mqar.examples(np.random.default_rng(seed), count, LENGTH, pairs, VOCAB)):
        queries = np.flatnonzero(label != mqar.IGNORED).tolist()
        decoded, state = answers(client, model, row.tolist(), queries)
        right += sum(a == b for a, b in zip(decoded, label[queries].tolist()))
    return right / (count * pairs), state


def served(address: str) -> list[str]:
    with grpc.insecure_channel(address) as channel:
        listed = models_pb2_grpc.ModelsStub(channel).List(models_pb2.ListModelsRequest()).models
    return [model.name for model in listed if model.name.startswith(PREFIX)]


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
    with attnd.Client(arguments.address) as client:
        names = arguments.models or served(arguments.address)
        points = {}
        for name in names:
            score, state = recall(client, name, arguments.pairs, arguments.examples, arguments.seed)
            points[name] = score, state
            print(f"{name:32} {score:6.3f} {state:10,} bytes", flush=True)
    if arguments.out:
        plot(points, arguments.pairs, arguments.out)


if __name__ == "__main__":
    main()
