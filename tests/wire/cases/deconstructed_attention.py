import numpy as np

from tests.wire.draw import CASES, case, packed, qkv, qkv_pieces

FLOAT32 = {"initial_state", "initial_state_z", "initial_state_m", "initial_state_den", "initial_state_num"}


def variant_case(variant):
    def draw(d):
        return qkv(d, K=6, HV=2), {"variant": variant}

    return draw


CASES["deconstructed_attention"] = {
    variant: variant_case(variant) for variant in ("standard", "static_emb_qk", "approximate", "non_approximate")
}


@case
def deconstructed_attention__mlp(d):
    weights = {"w_gate": d.normal(30, 12) * 0.3, "w_up": d.normal(30, 12) * 0.3, "w_down": d.normal(12, 30) * 0.2}
    return {"x": d.normal(2, 37, 12)} | weights, {"variant": "mlp"}


@case
def deconstructed_attention__standard_with_cache(d):
    cache = {"initial_state_k": d.normal(2, 11, 2, 16), "initial_state_v": d.normal(2, 11, 2, 20)}
    return qkv(d, HV=2) | cache, {"scale": 0.4}


@case
def deconstructed_attention__standard_packed(d):
    return qkv(d, B=1, HV=2) | {"cu_seqlens": packed()}, {}


@case
def deconstructed_attention__approximate_packed(d):
    return qkv(d, B=1, K=5, HV=2) | {"cu_seqlens": packed()}, {"variant": "approximate"}


@case
def deconstructed_attention__non_approximate_packed_with_state(d):
    state = {
        "initial_state_m": d.normal(4, 4), "initial_state_den": np.abs(d.normal(4, 4)) + 1,
        "initial_state_num": d.normal(4, 4, 20),
    }
    inputs = qkv(d, B=1, HV=2) | state | {"cu_seqlens": packed()}
    return inputs, {"variant": "non_approximate", "scale": 2.0}


@case
def deconstructed_attention__random_embeddings(d):
    inputs = {"q": d.normal(1, 50, 4, 16), "k": d.normal(1, 45, 2, 16), "v": d.normal(3, 37, 1, 20)}
    return inputs, {"variant": "rnd_emb_qk"}


@case
def deconstructed_attention__fixed_sequence_with_cache(d):
    inputs = {"q": d.normal(1, 50, 4, 16), "k": d.normal(1, 50, 4, 16), "v": d.normal(2, 37, 4, 20)}
    return inputs | {"initial_state_v": d.normal(2, 13, 4, 20)}, {"variant": "fixed_seq_qk", "scale": 0.7}


PIECES = [{}, {"variant": "non_approximate"}]


def pieces(d, tokens):
    return qkv_pieces(d, tokens)
