import numpy as np

from tests.reference.common import hedgehog_map, initial, sequences, widen


def hedgehog(q, k, v, w_q, w_k=None, b_q=None, b_k=None, initial_state=None, initial_state_z=None, cu_seqlens=None, *,
             activation="softmax_dim", fullspace=True, causal=True, feature_eps=1e-12, eps=1e-12):
    """S = S + phi(k) v^T, z = z + phi(k);  o = phi(q)^T S / (phi(q).z + eps), over the past or over all keys."""
    batch, tokens, heads, _ = q.shape
    value = v.shape[-1]
    phi_q, phi_k = hedgehog_map(q, k, w_q, w_k, b_q, b_k, activation, fullspace, feature_eps)
    v = widen(v, heads)
    o = np.zeros((batch, tokens, heads, value))
    if not causal:
        for b in range(batch):
            for h in range(heads):
                for t in range(tokens):
                    weights = phi_k[b, :, h] @ phi_q[b, t, h]
                    o[b, t, h] = weights @ v[b, :, h] / (weights.sum() + eps)
        return {"o": o}
    pieces = sequences(batch, tokens, cu_seqlens)
    S = initial(initial_state, len(pieces), heads, phi_q.shape[-1], value)
    z = initial(initial_state_z, len(pieces), heads, phi_q.shape[-1])
    for m, b, steps in pieces:
        for t in steps:
            for h in range(heads):
                S[m, h] += np.outer(phi_k[b, t, h], v[b, t, h])
                z[m, h] += phi_k[b, t, h]
                o[b, t, h] = phi_q[b, t, h] @ S[m, h] / (phi_q[b, t, h] @ z[m, h] + eps)
    return {"o": o, "final_state": S, "final_state_z": z}
