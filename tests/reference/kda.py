import numpy as np

from tests.reference.common import delta_recurrence, most_heads, sigmoid, softplus, widen


def kda(q, k, v, g, beta=None, A_log=None, dt_bias=None, initial_state=None, cu_seqlens=None, *, scale=None,
        qk_l2norm=False, qk_l2norm_eps=1e-6, gate="log", lower_bound=-5.0, beta_sigmoid=False, allow_neg_eigval=False):
    """The delta rule on a state that first decays by one factor of each key channel."""
    x = widen(g, most_heads(q, k, v))
    if gate == "log":
        log_decay = x
    else:
        x = x + (0.0 if dt_bias is None else dt_bias)
        rate = 1.0 if A_log is None else np.exp(A_log)[:, None]
        log_decay = -rate * softplus(x) if gate == "softplus" else lower_bound * sigmoid(rate * x)
    return delta_recurrence(q, k, v, log_decay, beta, initial_state, cu_seqlens, scale, qk_l2norm, qk_l2norm_eps,
                            beta_sigmoid, allow_neg_eigval)
