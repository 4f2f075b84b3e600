import numpy as np

from tests.reference.common import additive_recurrence, sigmoid, silu


def hgrn2(q, f, v, lower_bound=None, initial_state=None, cu_seqlens=None, *, scale=None, q_silu=True):
    """a = lb + (1 - lb) sigmoid(f), S = diag(a) S + (1 - a) v^T, o = scale S^T silu(q)."""
    bound = 0.0 if lower_bound is None else lower_bound
    forget = bound + (1.0 - bound) * sigmoid(f)
    return additive_recurrence(silu(q) if q_silu else q, 1.0 - forget, v, forget, np.ones(1), initial_state,
                               cu_seqlens, q.shape[-1] ** -0.5 if scale is None else scale)
