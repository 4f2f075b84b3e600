import numpy as np

from tests.wire.draw import case, packed

FLOAT32 = {"g", "lower_bound", "initial_state"}


@case
def hgrn__core(d):
    return {"x": d.normal(2, 70, 12), "g": d.decay(2, 70, 12)}, {}


@case
def hgrn__raw(d):
    return {"i": d.normal(2, 70, 12), "f": d.normal(2, 70, 12)}, {}


@case
def hgrn__raw_bounded_from_a_state(d):
    inputs = {"i": d.normal(2, 37, 12), "f": 20.0 * d.normal(2, 37, 12), "lower_bound": d.probability(12)}
    return inputs | {"initial_state": d.normal(2, 12)}, {}


@case
def hgrn__packed_and_total_forgetting(d):
    g = d.decay(1, 37, 12)
    g[:, 12] = -np.inf
    return {"x": d.normal(1, 37, 12), "g": g, "initial_state": d.normal(4, 12), "cu_seqlens": packed()}, {}


PIECES = [{}]


def pieces(d, tokens):
    return {"x": d.normal(2, tokens, 12), "g": d.decay(2, tokens, 12)}, {}
