import numpy as np

from tests.reference.common import hedgehog_map, initial, ring_states, rings, sequences, sigmoid, widen


def lizard(q, k, v, gate, w_q, alpha, w_k=None, meta=None, q_rope=None, k_rope=None, cu_seqlens=None,
           initial_state=None, initial_state_z=None, initial_state_k=None, initial_state_v=None,
           initial_state_pos=None, *, window=128, scale=None, meta_space="logit", eps=1e-12, activation="softmax_dim",
           fullspace=True, feature_eps=1e-12):
    """Gated, normalised linear attention of hedgehog's features plus alpha times a softmax window whose sinks take
    mass alone."""
    batch, tokens, heads, key = q.shape
    value = v.shape[-1]
    scale = key**-0.5 if scale is None else scale
    q_rope, k_rope = (q, k) if q_rope is None else (q_rope, k_rope)
    phi_q, phi_k = hedgehog_map(q, k, w_q, w_k, None, None, activation, fullspace, feature_eps)
    keep = np.broadcast_to(sigmoid(gate), (batch, tokens, heads))
    alpha = np.broadcast_to(alpha, (heads,))
    mass = np.zeros(heads)
    if meta is not None and meta.size:
        mass = np.broadcast_to((np.exp(meta) if meta_space == "logit" else meta).sum(-1), (heads,))
    pieces = sequences(batch, tokens, cu_seqlens)
    windows = rings(len(pieces), window, k, v, initial_state_k, initial_state_v, initial_state_pos)
    S = initial(initial_state, len(pieces), heads, phi_q.shape[-1], value)
    z = initial(initial_state_z, len(pieces), heads, phi_q.shape[-1])
    values = widen(v, heads)
    o = np.zeros((batch, tokens, heads, value))
    for m, b, steps in pieces:
        for t in steps:
            windows[m].add(k_rope[b, t], v[b, t])
            near_k, near_v = (widen(x, heads, 1) for x in windows[m].last(window))
            for h in range(heads):
                S[m, h] = keep[b, t, h] * S[m, h] + np.outer(phi_k[b, t, h], values[b, t, h])
                z[m, h] = keep[b, t, h] * z[m, h] + phi_k[b, t, h]
                weights = np.exp(scale * near_k[:, h] @ q_rope[b, t, h])
                anchor = weights @ near_v[:, h] / (mass[h] + weights.sum())
                o[b, t, h] = phi_q[b, t, h] @ S[m, h] / (phi_q[b, t, h] @ z[m, h] + eps) + alpha[h] * anchor
    return {"o": o, "final_state": S, "final_state_z": z} | ring_states(windows)
