import numpy as np

from tests.reference.common import initial, sequences, silu


def short_conv(x, weight, bias=None, residual=None, initial_state=None, cu_seqlens=None, *, activation="silu"):
    """y_t = bias + sum_j weight_j x_{t-(W-1)+j} per channel; o = act(y) + residual. The state is the last W-1 inputs."""
    batch, tokens, channels = x.shape
    taps = weight.shape[1]
    pieces = sequences(batch, tokens, cu_seqlens)
    past = initial(initial_state, len(pieces), channels, taps - 1)
    o = np.zeros((batch, tokens, channels))
    final = np.zeros((len(pieces), channels, taps - 1))
    for m, b, steps in pieces:
        line = np.concatenate([past[m], x[b, steps.start : steps.stop].T], axis=1)
        for index, t in enumerate(steps):
            o[b, t] = (weight * line[:, index : index + taps]).sum(1) + (0.0 if bias is None else bias)
        final[m] = line[:, line.shape[1] - (taps - 1) :]
    if activation == "silu":
        o = silu(o)
    if residual is not None:
        o = o + residual
    return {"o": o, "final_state": final}
