import numpy as np

from tests.reference.common import initial, sequences


def rwkv7(r, w, k, v, a=None, b=None, kk=None, rate=None, initial_state=None, cu_seqlens=None, *, scale=1.0):
    """S = diag(e^w) S + b (a^T S) + k v^T, a reading the state before;  o = scale S^T r."""
    if a is None:
        a, b = -kk, kk * rate
    batch, tokens, heads, key = r.shape
    pieces = sequences(batch, tokens, cu_seqlens)
    S = initial(initial_state, len(pieces), heads, key, v.shape[-1])
    o = np.zeros(v.shape)
    for m, n, steps in pieces:
        for t in steps:
            for h in range(heads):
                transition = np.diag(np.exp(w[n, t, h])) + np.outer(b[n, t, h], a[n, t, h])
                S[m, h] = transition @ S[m, h] + np.outer(k[n, t, h], v[n, t, h])
                o[n, t, h] = scale * S[m, h].T @ r[n, t, h]
    return {"o": o, "final_state": S}
