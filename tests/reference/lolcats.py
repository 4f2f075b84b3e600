import numpy as np

from tests.reference.common import hedgehog_map, initial, ring_states, rings, sequences, sigmoid, widen


def lolcats(q, k, v, w_q, window_factor, w_k=None, b_q=None, b_k=None, cu_seqlens=None, initial_state=None,
            initial_state_z=None, initial_state_k=None, initial_state_v=None, initial_state_pos=None, *, window=64,
            window_kind="sliding", affine_factors=False, scale=None, activation="softmax_dim", fullspace=True,
            feature_eps=1e-12):
    """Near keys weigh gamma exp(s - max s), far ones lambda phi(q).phi(k); one normaliser. A token is added to the far
    state when it leaves the ring."""
    batch, tokens, heads, key = q.shape
    value = v.shape[-1]
    scale = key**-0.5 if scale is None else scale
    slots = 2 * window if window_kind == "terraced" else window
    gamma = sigmoid(window_factor)
    far_weight = 1.0 - gamma if affine_factors else np.ones(heads)
    phi_q, _ = hedgehog_map(q, k, w_q, w_k, b_q, b_k, activation, fullspace, feature_eps)
    size = phi_q.shape[-1]

    def features(row):
        """phi of one token's keys [HK,K] -> [H,E]."""
        dummy = np.zeros((1, 1, heads, key))
        return hedgehog_map(dummy, row[None, None], w_q, w_k, b_q, b_k, activation, fullspace, feature_eps)[1][0, 0]

    pieces = sequences(batch, tokens, cu_seqlens)
    windows = rings(len(pieces), slots, k, v, initial_state_k, initial_state_v, initial_state_pos)
    S = initial(initial_state, len(pieces), heads, size, value)
    z = initial(initial_state_z, len(pieces), heads, size)
    o = np.zeros((batch, tokens, heads, value))
    for m, b, steps in pieces:
        ring = windows[m]
        for t in steps:
            p = ring.position
            if p >= slots:
                phi = features(ring.keys[p % slots])
                leaving = widen(ring.values[p % slots], heads, 0)
                for h in range(heads):
                    S[m, h] += np.outer(phi[h], leaving[h])
                    z[m, h] += phi[h]
            ring.add(k[b, t], v[b, t])
            past_k, past_v = ring.last(slots)
            positions = np.arange(p + 1 - len(past_k), p + 1)
            near = positions > p - window if window_kind == "sliding" else positions // window >= p // window - 1
            phis = {j: features(past_k[j]) for j in np.flatnonzero(~near)}
            past_k, past_v = widen(past_k, heads, 1), widen(past_v, heads, 1)
            for h in range(heads):
                scores = scale * past_k[near, h] @ q[b, t, h]
                a = gamma[h] * np.exp(scores - scores.max())
                top, bottom = a @ past_v[near, h], a.sum()
                top = top + far_weight[h] * phi_q[b, t, h] @ S[m, h]
                bottom = bottom + far_weight[h] * phi_q[b, t, h] @ z[m, h]
                for j, phi in phis.items():
                    w = far_weight[h] * phi_q[b, t, h] @ phi[h]
                    top, bottom = top + w * past_v[j, h], bottom + w
                o[b, t, h] = top / bottom
    return {"o": o, "final_state": S, "final_state_z": z} | ring_states(windows)
