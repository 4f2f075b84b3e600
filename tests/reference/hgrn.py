import numpy as np

from tests.reference.common import initial, sequences, sigmoid, silu


def hgrn(x=None, g=None, i=None, f=None, lower_bound=None, initial_state=None, cu_seqlens=None):
    """h = a h + u, per channel; a = e^g, u = x, or a = lb + (1 - lb) sigmoid(f), u = silu(i) (1 - a)."""
    if x is None:
        bound = 0.0 if lower_bound is None else lower_bound
        a = bound + (1 - bound) * sigmoid(f)
        u = silu(i) * (1 - bound) * sigmoid(-f)
    else:
        a, u = np.exp(g), x
    batch, tokens, size = u.shape
    pieces = sequences(batch, tokens, cu_seqlens)
    state = initial(initial_state, len(pieces), size)
    o = np.zeros(u.shape)
    for m, b, steps in pieces:
        for t in steps:
            state[m] = a[b, t] * state[m] + u[b, t]
            o[b, t] = state[m]
    return {"o": o, "final_state": state}
