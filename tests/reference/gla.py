import numpy as np

from tests.reference.common import additive_recurrence, most_heads, widen


def gla(q, k, v, g, g_v=None, initial_state=None, cu_seqlens=None, *, scale=None):
    """S = diag(exp g) S diag(exp g_v) + k v^T, o = scale S^T q."""
    heads = most_heads(q, k, v)
    decay = np.exp(widen(g, heads))
    if decay.ndim == 3:  # One value for all key channels of a head.
        decay = decay[..., None]
    decay_v = np.ones(1) if g_v is None else np.exp(widen(g_v, heads))
    return additive_recurrence(q, k, v, decay, decay_v, initial_state, cu_seqlens,
                               q.shape[-1] ** -0.5 if scale is None else scale)
