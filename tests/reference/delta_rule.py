import numpy as np

from tests.reference.common import delta_recurrence


def delta_rule(q, k, v, beta=None, initial_state=None, cu_seqlens=None, *, scale=None, qk_l2norm=False,
               qk_l2norm_eps=1e-6, beta_sigmoid=False, allow_neg_eigval=False):
    """S = S + k (beta (v - S^T k))^T, o = scale S^T q."""
    return delta_recurrence(q, k, v, np.zeros(1), beta, initial_state, cu_seqlens, scale, qk_l2norm, qk_l2norm_eps,
                            beta_sigmoid, allow_neg_eigval)
