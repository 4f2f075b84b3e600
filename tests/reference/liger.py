import numpy as np

from tests.reference.common import initial, ring_states, rings, sequences, sigmoid, softmax_over, widen


def softmax_rows(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def liger(q, k, v, q_rope=None, k_rope=None, cu_seqlens=None, initial_state=None, initial_state_k=None,
          initial_state_v=None, initial_state_pos=None, *, variant="gla", gate_normalizer=16.0, window_left=64,
          window_weight=0.5, linear_weight=0.5, scale=None):
    """A recurrence gated by the key, and softmax over the last window_left + 1 tokens, weighed together."""
    batch, tokens, heads, key = q.shape
    value = v.shape[-1]
    scale = key**-0.5 if scale is None else scale
    q_rope, k_rope = (q, k) if q_rope is None else (q_rope, k_rope)
    pieces = sequences(batch, tokens, cu_seqlens)
    windows = rings(len(pieces), window_left + 1, k, v, initial_state_k, initial_state_v, initial_state_pos)

    logits = widen(k, heads)
    log_gate = -np.logaddexp(0.0, -logits)
    if variant == "gla":
        write, log_gate = softmax_rows(logits), log_gate / gate_normalizer
    else:
        write = 1.0 - sigmoid(logits)
    read, values = softmax_rows(q), widen(v, heads)
    state = initial(initial_state, len(pieces), heads, key, value)
    o = np.zeros((batch, tokens, heads, value))
    for m, b, steps in pieces:
        for t in steps:
            windows[m].add(k_rope[b, t], v[b, t])
            near_k, near_v = windows[m].last(window_left + 1)
            near_k, near_v = widen(near_k, heads, 1), widen(near_v, heads, 1)
            for h in range(heads):
                state[m, h] = np.exp(log_gate[b, t, h])[:, None] * state[m, h] + np.outer(write[b, t, h], values[b, t, h])
                scores = scale * near_k[:, h] @ q_rope[b, t, h]
                window, _ = softmax_over(scores, np.ones(len(scores), bool), near_v[:, h])
                o[b, t, h] = window_weight * window + linear_weight * state[m, h].T @ read[b, t, h]
    return {"o": o, "final_state": state} | ring_states(windows)
