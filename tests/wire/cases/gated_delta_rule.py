import numpy as np

from tests.wire.draw import case, packed, qkv, qkv_pieces

FLOAT32 = {"A_log", "beta", "dt_bias", "g", "initial_state"}
AMPLIFIES = True


@case
def gated_delta_rule__log(d):
    return qkv(d, T=70, unit=True) | {"g": d.decay(2, 70, 4), "beta": d.probability(2, 70, 4)}, {}


@case
def gated_delta_rule__more_values_than_keys(d):
    inputs = qkv(d, T=70, H=2, HK=2, HV=6, unit=True)
    return inputs | {"g": d.decay(2, 70, 6), "initial_state": d.normal(2, 6, 16, 20)}, {"scale": 1.0}


@case
def gated_delta_rule__softplus(d):
    gate = {"g": d.normal(2, 70, 4), "A_log": d.normal(4), "dt_bias": d.normal(4), "beta": d.normal(2, 70, 4)}
    return qkv(d, T=70) | gate, {"gate": "softplus", "qk_l2norm": True, "beta_sigmoid": True}


@case
def gated_delta_rule__forgets_everything_once(d):
    g = d.decay(2, 70, 4)
    g[:, 40] = -np.inf
    return qkv(d, T=70, unit=True) | {"g": g}, {}


@case
def gated_delta_rule__packed(d):
    more = {"initial_state": d.normal(4, 4, 16, 20), "g": d.decay(1, 37, 4), "beta": d.probability(1, 37, 4)}
    return qkv(d, B=1, unit=True) | {"cu_seqlens": packed()} | more, {}


PIECES = [{}]


def pieces(d, tokens):
    along, fixed = qkv_pieces(d, tokens)
    return along | {"g": d.decay(2, tokens, 3), "beta": d.probability(2, tokens, 3)}, fixed
