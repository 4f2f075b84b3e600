import math

import numpy as np

from tests.reference.common import sequences


def default_theta(kind, rule, base, heads, angles, row):
    """[heads,E] of E = `angles` per head; `row` is the head size that the shared rule divides by."""
    if rule == "head":
        return np.array([[base ** (-2 * (h * angles + i) / (heads * angles)) for i in range(angles)]
                         for h in range(heads)])
    return np.array([[base ** (-2 * i / row) for i in range(angles)]] * heads)


def lrpe_angles(kind, theta, rule, base, heads, key, grid):
    """A function (position or coordinates) -> angles [heads,n]."""
    n = key if kind == "cosine" else key // 2
    if theta is not None:
        theta = np.broadcast_to(theta, (heads, theta.shape[1]))
    if grid is None:
        if theta is None:
            theta = default_theta(kind, rule, base, heads, n, key)
        padded = np.zeros((heads, n))
        padded[:, : theta.shape[1]] = theta
        return lambda position: position * padded
    if theta is None:
        per_axis = math.ceil(n / len(grid))
        theta = default_theta(kind, rule, base, heads, per_axis, per_axis if kind == "cosine" else 2 * per_axis)
    return lambda coordinates: np.concatenate([c * theta for c in coordinates], axis=1)[:, :n]


def encode(kind, x, angle):
    """One row by its angles."""
    if kind == "cosine":
        return np.concatenate([x * np.cos(angle), x * np.sin(angle)], axis=-1)
    one, two = np.split(x, 2, axis=-1)
    return np.concatenate([one * np.cos(angle) - two * np.sin(angle), one * np.sin(angle) + two * np.cos(angle)], -1)


def lrpe(x, theta=None, initial_state_pos=None, cu_seqlens=None, *, kind="cosine", theta_rule="head", base=10000.0,
         height=None, width=None, depth=None, prefix=0):
    batch, tokens, heads, key = x.shape
    grid = None if width is None else [size for size in (depth, height, width) if size is not None]
    angles = lrpe_angles(kind, theta, theta_rule, base, heads, key, grid)
    y = np.zeros((batch, tokens, heads, 2 * key if kind == "cosine" else key))
    if grid is not None:
        for t in range(tokens):
            at = np.unravel_index(t - prefix, grid) if t >= prefix else [0] * len(grid)
            for b in range(batch):
                y[b, t] = encode(kind, x[b, t], angles(at))
        return {"y": y}
    pieces = sequences(batch, tokens, cu_seqlens)
    position = np.zeros(len(pieces), np.int64) if initial_state_pos is None else np.array(initial_state_pos)
    for m, b, steps in pieces:
        for t in steps:
            y[b, t] = encode(kind, x[b, t], angles(position[m]))
            position[m] += 1
    return {"y": y, "final_state_pos": position}
