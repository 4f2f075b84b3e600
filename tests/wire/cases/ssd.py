import numpy as np

from tests.wire.draw import case, packed

FLOAT32 = {"a", "a_log", "d", "dt", "dt_bias", "initial_state"}


def ssd_inputs(d, B=2, T=70, G=2):
    inputs = {"x": d.normal(B, T, 4, 20), "dt": np.abs(d.normal(B, T, 4)), "a": -d.probability(4)}
    return inputs | {"b": d.normal(B, T, G, 16), "c": d.normal(B, T, G, 16)}


@case
def ssd__plain(d):
    return ssd_inputs(d), {}


@case
def ssd__mamba(d):
    inputs = ssd_inputs(d, G=1)
    del inputs["a"]
    more = {"a_log": d.normal(4), "dt_bias": d.normal(4), "d": d.normal(4), "z": d.normal(2, 70, 4, 20)}
    return inputs | {"dt": d.normal(2, 70, 4)} | more, {"dt_softplus": True}


@case
def ssd__clamped(d):
    return ssd_inputs(d, G=4) | {"d": d.normal(4, 20), "initial_state": d.normal(2, 4, 16, 20)}, {
        "dt_min": 0.2, "dt_max": 0.9,
    }


@case
def ssd__packed(d):
    state = {"initial_state": d.normal(4, 4, 16, 20), "dt_bias": d.normal(4)}
    return ssd_inputs(d, B=1, T=37) | state | {"cu_seqlens": packed()}, {}


PIECES = [{"dt_softplus": True}]


def pieces(d, tokens):
    along = {"x": d.normal(2, tokens, 3, 20), "dt": d.normal(2, tokens, 3)}
    along |= {"b": d.normal(2, tokens, 1, 16), "c": d.normal(2, tokens, 1, 16)}
    return along, {"a_log": d.normal(3)}
