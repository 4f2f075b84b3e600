import numpy as np

from tests.reference.common import (
    delta_recurrence, initial, ring_states, rings, sequences, silu, softmax_over, softplus, widen,
)


def delta_layer(x, p, pieces, cu_seqlens, heads, norm_eps):
    batch, tokens, _ = x.shape
    past = {}

    def convolved(which):
        u, taps = x @ p["w_" + which].T, p["conv_" + which]
        past[which] = initial(p["initial_state_conv_" + which], len(pieces), u.shape[-1], 3)
        y = np.zeros(u.shape)
        for m, b, steps in pieces:
            for t in steps:
                window = np.concatenate([past[which][m], u[b, t][:, None]], axis=1)
                y[b, t] = silu((taps * window).sum(1))
                past[which][m] = window[:, 1:]
        return y.reshape(batch, tokens, heads, -1)

    q, k, v = (convolved(which) for which in "qkv")
    g = -np.exp(p["A_log"]) * softplus(x @ p["w_a"].T + p["dt_bias"])
    core = delta_recurrence(q, k, v, g[..., None], x @ p["w_b"].T, p["initial_state"], cu_seqlens, None, True, 1e-6,
                            True, False)
    o = core["o"]
    o = o / np.sqrt((o**2).mean(-1, keepdims=True) + norm_eps) * p["o_norm"]
    y = (o.reshape(batch, tokens, -1) * silu(x @ p["w_g"].T)) @ p["w_o"].T
    return {"y": y, "final_state": core["final_state"]} | {f"final_state_conv_{w}": past[w] for w in "qkv"}


def window_layer(x, p, pieces, heads, key_heads, window):
    batch, tokens, _ = x.shape

    def projected(which, count):
        return (x @ p["w_" + which].T + p["b_" + which]).reshape(batch, tokens, count, -1)

    def turned(u):
        one, two = np.split(u, 2, axis=-1)
        return u * p["cos"][:, :, None] + np.concatenate([-two, one], -1) * p["sin"][:, :, None]

    q, k, v = turned(projected("q", heads)), turned(projected("k", key_heads)), projected("v", key_heads)
    states = rings(len(pieces), window, k, v, p["initial_state_k"], p["initial_state_v"], p["initial_state_pos"])
    o = np.zeros(q.shape)
    for m, b, steps in pieces:
        for t in steps:
            states[m].add(k[b, t], v[b, t])
            keys, values = (widen(u, heads, 1) for u in states[m].last(window))
            for h in range(heads):
                scores = keys[:, h] @ q[b, t, h] * q.shape[-1] ** -0.5
                o[b, t, h], _ = softmax_over(scores, np.ones(len(scores), bool), values[:, h])
    return {"y": o.reshape(batch, tokens, -1) @ p["w_o"].T} | ring_states(states)


def infinite_vl(x, cu_seqlens=None, *, layer="gdn", num_heads, num_kv_heads=None, window=8192, norm_eps=1e-5, **inputs):
    """One mixer layer with its projections."""
    p = {name: inputs.get(name) for name in (
        "initial_state", "initial_state_conv_q", "initial_state_conv_k", "initial_state_conv_v", "initial_state_k",
        "initial_state_v", "initial_state_pos")} | inputs
    pieces = sequences(x.shape[0], x.shape[1], cu_seqlens)
    if layer == "gdn":
        return delta_layer(x, p, pieces, cu_seqlens, num_heads, norm_eps)
    return window_layer(x, p, pieces, num_heads, num_kv_heads, window)
