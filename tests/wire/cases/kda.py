from tests.wire.draw import case, packed, qkv, qkv_pieces

FLOAT32 = {"A_log", "beta", "dt_bias", "g", "initial_state"}
AMPLIFIES = True


@case
def kda__log(d):
    return qkv(d, T=70, unit=True) | {"g": d.decay(2, 70, 4, 16), "beta": d.probability(2, 70, 4)}, {}


@case
def kda__strong_gates(d):
    return qkv(d, T=70, unit=True) | {"g": 30.0 * d.decay(2, 70, 2, 16)}, {}


@case
def kda__softplus(d):
    gate = {"g": d.normal(2, 70, 4, 16), "A_log": d.normal(4), "dt_bias": d.normal(4, 16), "beta": d.normal(2, 70, 4)}
    return qkv(d, T=70) | gate, {"gate": "softplus", "qk_l2norm": True, "beta_sigmoid": True}


@case
def kda__lower_bound(d):
    gate = {"g": d.normal(2, 70, 4, 16), "A_log": d.normal(4)}
    return qkv(d, T=70, unit=True) | gate, {"gate": "lower_bound", "lower_bound": -3.0}


@case
def kda__lower_bound_without_rate(d):
    gate = {"g": d.normal(2, 70, 4, 16), "dt_bias": d.normal(4, 16)}
    return qkv(d, T=70, unit=True) | gate, {"gate": "lower_bound"}


@case
def kda__packed(d):
    more = {"initial_state": d.normal(4, 4, 16, 20), "g": d.decay(1, 37, 4, 16), "beta": d.probability(1, 37, 2)}
    return qkv(d, B=1, unit=True) | {"cu_seqlens": packed()} | more, {}


PIECES = [{}]


def pieces(d, tokens):
    along, fixed = qkv_pieces(d, tokens)
    return along | {"g": d.decay(2, tokens, 3, 16), "beta": d.probability(2, tokens, 3)}, fixed
