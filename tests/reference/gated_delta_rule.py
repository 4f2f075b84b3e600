import numpy as np

from tests.reference.common import delta_recurrence, most_heads, softplus, widen


def gated_delta_rule(q, k, v, g, beta=None, A_log=None, dt_bias=None, initial_state=None, cu_seqlens=None, *,
                     scale=None, qk_l2norm=False, qk_l2norm_eps=1e-6, gate="log", beta_sigmoid=False,
                     allow_neg_eigval=False):
    """The delta rule on a state that first decays by one factor of each head."""
    log_decay = widen(g, most_heads(q, k, v))
    if gate == "softplus":
        log_decay = -np.exp(A_log) * softplus(log_decay + (0.0 if dt_bias is None else dt_bias))
    return delta_recurrence(q, k, v, log_decay[..., None], beta, initial_state, cu_seqlens, scale, qk_l2norm,
                            qk_l2norm_eps, beta_sigmoid, allow_neg_eigval)
