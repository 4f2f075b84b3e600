import numpy as np

from tests.reference.common import additive_recurrence, most_heads


def alibi_slopes(heads):
    """2^(-8 (h+1) / heads) for a power of two; else those of the next lower power, then every second of twice it."""
    if heads & (heads - 1) == 0:
        return [2.0 ** (-8.0 * (h + 1) / heads) for h in range(heads)]
    lower = 1 << (heads.bit_length() - 1)
    return alibi_slopes(lower) + alibi_slopes(2 * lower)[0::2][: heads - lower]


def lightning_attention(q, k, v, g=None, initial_state=None, cu_seqlens=None, *, scale=1.0, decay="alibi",
                        layer_idx=0, num_layers=1):
    """S = exp(g_h) S + k v^T, o = scale S^T q, with a constant g of each head."""
    heads = most_heads(q, k, v)
    if g is None:
        if decay == "alibi":
            depth = layer_idx / (num_layers - 1) if num_layers > 1 else 0.0
            g = -np.array(alibi_slopes(heads)) * (1.0 - depth + 1e-5)
        elif decay == "linear":
            g = -(8.0 / heads) * (1.0 - layer_idx / num_layers) * np.arange(heads)
        else:
            g = np.zeros(heads)
    return additive_recurrence(q, k, v, np.exp(g)[None, None, :, None], np.ones(1), initial_state, cu_seqlens, scale)
