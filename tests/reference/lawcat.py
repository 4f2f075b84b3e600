import numpy as np

from tests.reference.common import hedgehog_map, initial, sequences, softplus, widen


def lawcat(q, k, v, gate, conv_q, conv_k, w_q, w_k=None, cu_seqlens=None, initial_state=None, initial_state_z=None,
           initial_state_conv_q=None, initial_state_conv_k=None, *, gate_normalizer=16.0, eps=1e-10, scale=None,
           activation="softmax_dim", fullspace=True, feature_eps=1e-12):
    """Convolutions over time, hedgehog's features, and a gated recurrence with its normaliser."""
    batch, tokens, heads, key = q.shape
    value, taps = v.shape[-1], conv_q.shape[-1]
    pieces = sequences(batch, tokens, cu_seqlens)
    k, v = widen(k, heads), widen(v, heads)

    def convolved(x, weight, before):
        """The outputs, and for each sequence its last inputs [H,K,C-1]."""
        past = initial(before, len(pieces), heads, key, taps - 1)
        y = np.zeros(x.shape)
        for m, b, steps in pieces:
            for t in steps:
                window = np.concatenate([past[m], x[b, t][:, :, None]], axis=-1)
                y[b, t] = (weight * window).sum(-1)
                past[m] = window[:, :, 1:]
        return y, past

    q, past_q = convolved(q, conv_q, initial_state_conv_q)
    k, past_k = convolved(k, conv_k, initial_state_conv_k)
    phi_q, phi_k = hedgehog_map(q, k, w_q, w_k, None, None, activation, fullspace, feature_eps)
    size = phi_q.shape[-1]
    scale = size**-0.5 if scale is None else scale
    decay = np.exp(-softplus(-widen(gate, heads)) / gate_normalizer)
    S = initial(initial_state, len(pieces), heads, size, value)
    z = initial(initial_state_z, len(pieces), heads, size)
    o = np.zeros((batch, tokens, heads, value))
    for m, b, steps in pieces:
        for t in steps:
            for h in range(heads):
                S[m, h] = decay[b, t, h][:, None] * S[m, h] + np.outer(phi_k[b, t, h], v[b, t, h])
                z[m, h] = decay[b, t, h] * z[m, h] + phi_k[b, t, h]
                o[b, t, h] = scale * phi_q[b, t, h] @ S[m, h] / (scale * phi_q[b, t, h] @ z[m, h] + eps)
    return {
        "o": o, "final_state": S, "final_state_z": z, "final_state_conv_q": past_q, "final_state_conv_k": past_k,
    }
