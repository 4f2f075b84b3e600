from tests.wire.draw import CASES, case, packed, qkv, qkv_pieces

FLOAT32 = {"initial_state"}


def feature_map_case(feature_map, **attributes):
    def draw(d):
        return qkv(d, T=70), {"feature_map": feature_map, **attributes}

    return draw


CASES["norm_attention"] = {
    f"{feature_map}{'' if causal else '_global'}": feature_map_case(feature_map, causal=causal)
    for feature_map in ("elu1", "elu", "relu", "silu", "sigmoid", "gelu", "identity")
    for causal in (True, False)
}


@case
def norm_attention__gated_rms_and_gate(d):
    weights = {"norm_gate": 0.1 * d.normal(80), "norm_weight": d.normal(80), "u": d.normal(2, 37, 4, 20)}
    return qkv(d) | weights, {"norm": "gated_rms"}


@case
def norm_attention__layer_of_each_head(d):
    weights = {"norm_weight": d.normal(20), "norm_bias": d.normal(20)}
    return qkv(d) | weights, {"norm": "layer", "norm_scope": "head"}


@case
def norm_attention__other_lengths_no_norm(d):
    return qkv(d, T=19, S=31), {"norm": "none", "causal": False, "scale": 0.3}


@case
def norm_attention__more_value_heads(d):
    return qkv(d, T=19, H=2, HK=1, HV=6), {"norm_scope": "head", "eps": 0.5}


@case
def norm_attention__packed_with_state(d):
    inputs = qkv(d, B=1) | {"initial_state": d.normal(4, 4, 16, 20), "norm_bias": d.normal(80)}
    return inputs | {"cu_seqlens": packed()}, {"feature_map": "silu"}


PIECES = [{}]


def pieces(d, tokens):
    return qkv_pieces(d, tokens)
