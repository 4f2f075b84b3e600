"""Fresh inputs for calls of operators, and the list of such calls.

A case is a function of a generator that gives float64 inputs and attributes, named `op__name`, in tests/wire/cases/op.py;
`CASES[op]` maps names to cases. A module of cases may say more of its operator:
    FLOAT32     names of its float32 ports: they keep that type in half-precision calls
    AMPLIFIES   True where the operator amplifies rounding: float32 within 1e-4 instead of 1e-5
    PIECES      attributes under each of which its tokens may come in pieces, the state handed on
    pieces      function of a generator and a number of tokens: inputs with a token axis (axis 1), and those without"""

import numpy as np


class Draw:
    """A generator of inputs."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def normal(self, *shape):
        return self.rng.standard_normal(shape)

    def unit(self, *shape):
        x = self.normal(*shape)
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    def decay(self, *shape):
        """Log decays, mostly mild."""
        return -np.logaddexp(0.0, -self.normal(*shape) - 1.0)

    def probability(self, *shape):
        return self.rng.uniform(0.05, 0.95, shape)

    def mask(self, *shape, share=0.6):
        return self.rng.uniform(size=shape) < share


def qkv(d, B=2, T=37, S=None, H=4, HK=2, HV=4, K=16, V=20, unit=False):
    S = T if S is None else S
    q = d.normal(B, T, H, K)
    k = (d.unit if unit else d.normal)(B, S, HK, K)
    return {"q": q, "k": k, "v": d.normal(B, S, HV, V)}


def qkv_pieces(d, tokens, H=3, K=16, V=20):
    """Queries, keys of length one and values, along the tokens; nothing beside them."""
    return {"q": d.normal(2, tokens, H, K), "k": d.unit(2, tokens, H, K), "v": d.normal(2, tokens, H, V)}, {}


def packed(T=37):
    """Three sequences and an empty one."""
    return np.array([0, 9, 9, 30, T], np.int32)


CASES = {}


def case(function):
    """Registers `op__name`."""
    op, name = function.__name__.split("__")
    CASES.setdefault(op, {})[name] = function
    return function
