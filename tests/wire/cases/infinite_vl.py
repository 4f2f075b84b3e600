import numpy as np

from tests.wire.cases.liger import ring
from tests.wire.draw import case, packed

FLOAT32 = {
    "cos", "sin", "A_log", "dt_bias", "initial_state", "initial_state_conv_q", "initial_state_conv_k",
    "initial_state_conv_v",
}
H, K, V, D = 3, 8, 12, 20


def delta_weights(d):
    def rows(*shape):
        return d.normal(*shape) * shape[-1] ** -0.5

    return {
        "w_q": rows(H * K, D), "w_k": rows(H * K, D), "w_v": rows(H * V, D), "w_g": rows(H * V, D), "w_a": rows(H, D),
        "w_b": rows(H, D), "w_o": rows(D, H * V), "conv_q": rows(H * K, 4), "conv_k": rows(H * K, 4),
        "conv_v": rows(H * V, 4), "A_log": d.normal(H) * 0.3, "dt_bias": d.normal(H), "o_norm": d.normal(V),
    }


def window_weights(d, heads=4, key_heads=2):
    return {
        "w_q": d.normal(heads * K, D) * 0.2, "w_k": d.normal(key_heads * K, D) * 0.2,
        "w_v": d.normal(key_heads * K, D) * 0.2, "w_o": d.normal(D, heads * K) * 0.2, "b_q": d.normal(heads * K),
        "b_k": d.normal(key_heads * K), "b_v": d.normal(key_heads * K),
    }


def rotation(d, B, T):
    angles = np.concatenate([d.normal(B, T, K // 2) * 3] * 2, axis=-1)
    return {"cos": np.cos(angles), "sin": np.sin(angles)}


@case
def infinite_vl__gdn(d):
    return {"x": d.normal(2, 70, D)} | delta_weights(d), {"num_heads": H}


@case
def infinite_vl__gdn_packed_with_state(d):
    state = {
        "initial_state": d.normal(4, H, K, V), "initial_state_conv_q": d.normal(4, H * K, 3),
        "initial_state_conv_k": d.normal(4, H * K, 3), "initial_state_conv_v": d.normal(4, H * V, 3),
    }
    inputs = {"x": d.normal(1, 37, D), "cu_seqlens": packed()} | delta_weights(d) | state
    return inputs, {"num_heads": H, "norm_eps": 0.01}


WINDOW = {"layer": "swa", "num_heads": 4, "num_kv_heads": 2}


@case
def infinite_vl__swa(d):
    return {"x": d.normal(2, 50, D)} | window_weights(d) | rotation(d, 2, 50), WINDOW | {"window": 9}


@case
def infinite_vl__swa_one_key_head(d):
    attributes = {"layer": "swa", "num_heads": 4, "num_kv_heads": 1, "window": 40}
    return {"x": d.normal(2, 37, D)} | window_weights(d, key_heads=1) | rotation(d, 2, 37), attributes


@case
def infinite_vl__swa_packed_with_state(d):
    inputs = {"x": d.normal(1, 37, D), "cu_seqlens": packed()} | window_weights(d) | rotation(d, 1, 37)
    return inputs | ring(d, 4, 6, key=K, value=K), WINDOW | {"window": 6}


PIECES = [{"num_heads": H}]


def pieces(d, tokens):
    return {"x": d.normal(2, tokens, D)}, delta_weights(d)
