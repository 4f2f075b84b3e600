import numpy as np

from tests.wire.draw import CASES, case, packed, qkv, qkv_pieces

FLOAT32 = {"initial_state", "initial_state_z"}


def linear_attention_case(feature_map, **attributes):
    def draw(d):
        return qkv(d, T=70), {"feature_map": feature_map, **attributes}

    return draw


CASES["linear_attention"] = {
    f"{feature_map}{'' if causal else '_global'}": linear_attention_case(feature_map, causal=causal)
    for feature_map in ("identity", "elu1", "relu", "relu2", "silu", "exp", "softmax")
    for causal in (True, False)
}


@case
def linear_attention__normalized(d):
    return qkv(d, T=70), {"feature_map": "elu1", "normalize": True, "eps": 1e-3, "scale": 0.4}


@case
def linear_attention__normalized_from_a_state(d):
    state = {"initial_state": d.normal(2, 4, 16, 20), "initial_state_z": np.abs(d.normal(2, 4, 16)) * 5}
    return qkv(d) | state, {"feature_map": "softmax", "normalize": True}


@case
def linear_attention__masked_keys(d):
    mask = d.mask(2, 23)
    mask[1] = False
    return qkv(d, S=23) | {"k_mask": mask}, {"causal": False, "feature_map": "elu1", "normalize": True}


@case
def linear_attention__packed(d):
    state = {"initial_state": d.normal(4, 4, 16, 20)}
    return qkv(d, B=1) | state | {"cu_seqlens": packed()}, {"feature_map": "relu"}


PIECES = [{"feature_map": "elu1", "normalize": True}]


def pieces(d, tokens):
    return qkv_pieces(d, tokens)
