import numpy as np

from tests.reference.common import sigmoid
from tests.reference.softmax_attention import softmax_attention

ACTIVATIONS = {
    "sigmoid": sigmoid,
    "silu": lambda z: z * sigmoid(z),
    "ns_sigmoid": lambda z: 0.5 + 0.5 * sigmoid(z),
    "identity": lambda z: z,
}


def gated_softmax_attention(q, k, v, gate, cos=None, sin=None, w_o=None, *, position="g1", activation="sigmoid",
                            mode="multiplicative", **rest):
    """M(x, z) = x * a(z) or x + a(z), of q (g4), k (g3), v (g2), the output (g1) or its projection (g5)."""
    gates = ACTIVATIONS[activation](gate)

    def gated(at, x):
        if at != position:
            return x
        return x * gates if mode == "multiplicative" else x + gates

    def turned(x):
        """x cos + [-x2 | x1] sin, cos and sin the same for all heads."""
        if cos is None:
            return x
        out, half = np.zeros(x.shape), x.shape[-1] // 2
        for b, t, h, c in np.ndindex(x.shape):
            other = -x[b, t, h, c + half] if c < half else x[b, t, h, c - half]
            at = (b, t, c) if cos.ndim == 3 else (t, c)
            out[b, t, h, c] = x[b, t, h, c] * cos[at] + other * sin[at]
        return out

    names = ("mask", "sinks", "cu_seqlens", "initial_state_k", "initial_state_v", "initial_state_pos")
    inputs = {name: rest.pop(name) for name in names if name in rest}
    outputs = softmax_attention(turned(gated("g4", q)), turned(gated("g3", k)), gated("g2", v), **inputs, **rest)
    o = gated("g1", outputs.pop("o"))
    if w_o is None:
        return {"o": o} | outputs
    batch, tokens = o.shape[:2]
    y = np.array([[w_o @ o[b, t].reshape(-1) for t in range(tokens)] for b in range(batch)])
    return {"y": gated("g5", y.reshape(batch, tokens, len(w_o)))} | outputs
