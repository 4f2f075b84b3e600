from tests.wire.draw import case, packed, qkv, qkv_pieces

FLOAT32 = {"beta", "initial_state"}
AMPLIFIES = True


@case
def delta_rule__no_beta(d):
    return qkv(d, T=70, unit=True), {}


@case
def delta_rule__beta(d):
    return qkv(d, T=70, unit=True) | {"beta": d.probability(2, 70, 2), "initial_state": d.normal(2, 4, 16, 20)}, {}


@case
def delta_rule__norms_and_logits(d):
    return qkv(d, T=70) | {"beta": d.normal(2, 70, 4)}, {
        "qk_l2norm": True, "qk_l2norm_eps": 1e-3, "beta_sigmoid": True, "allow_neg_eigval": True, "scale": 0.6,
    }


@case
def delta_rule__packed(d):
    state = {"initial_state": d.normal(4, 4, 16, 20), "beta": d.probability(1, 37, 4)}
    return qkv(d, B=1, unit=True) | {"cu_seqlens": packed()} | state, {}


PIECES = [{}]


def pieces(d, tokens):
    along, fixed = qkv_pieces(d, tokens)
    return along | {"beta": d.probability(2, tokens, 3)}, fixed
