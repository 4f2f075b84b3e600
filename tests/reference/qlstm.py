import math

import numpy as np

from tests.reference.common import initial, sequences, sigmoid, softplus

ERF = np.vectorize(math.erf)


def qlstm(x, f, i=None, o=None, gate=None, alpha=None, initial_state=None, cu_seqlens=None, *, reversed=True,
          tied=False, activation="none", output_activation="none"):
    """h = a h + w act(x);  output = gelu(gate) sigmoid(o) outact(h)."""
    exponent = 1.0 if alpha is None else max(float(np.reshape(alpha, ())), 0.0)
    a = np.exp(-exponent * softplus(f)) if reversed else sigmoid(f)
    w = 1.0 - a if tied else sigmoid(i)
    act = {"none": lambda u: u, "tanh": np.tanh}
    batch, tokens, size = x.shape
    pieces = sequences(batch, tokens, cu_seqlens)
    h = initial(initial_state, len(pieces), size)
    out = np.zeros(x.shape)
    for m, b, steps in pieces:
        for t in steps:
            h[m] = a[b, t] * h[m] + w[b, t] * act[activation](x[b, t])
            out[b, t] = act[output_activation](h[m])
            if o is not None:
                out[b, t] *= sigmoid(o[b, t])
            if gate is not None:
                out[b, t] *= 0.5 * gate[b, t] * (1.0 + ERF(gate[b, t] / math.sqrt(2.0)))
    return {"o": out, "final_state": h}
