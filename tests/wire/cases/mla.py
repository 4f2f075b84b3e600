import numpy as np

from tests.wire.draw import case, packed


def mla_inputs(d, B=2, T=37, rope=6, rank=24):
    inputs = {"q": d.normal(B, T, 4, 10 + rope), "c": d.normal(B, T, rank)}
    if rope:
        inputs["k_rope"] = d.normal(B, T, rope)
    return inputs | {"w_kv_b": d.normal(4, 10 + 12, rank) / np.sqrt(rank)}


@case
def mla__plain(d):
    return mla_inputs(d), {}


@case
def mla__no_rope_channels(d):
    return mla_inputs(d, rope=0) | {"initial_state_c": d.normal(2, 9, 24)}, {"window": 12}


@case
def mla__half_and_norm(d):
    return mla_inputs(d) | {"kv_norm_weight": d.normal(24)}, {"rope": "half", "norm_eps": 1e-3, "scale": 0.3}


@case
def mla__interleaved_behind_a_long_cache(d):
    past = {"initial_state_c": d.normal(2, 60, 24), "initial_state_r": d.normal(2, 60, 6)}
    return mla_inputs(d, T=3) | past, {"rope": "interleaved", "rope_theta": 500.0}


@case
def mla__window_behind_a_cache(d):
    past = {"initial_state_c": d.normal(2, 20, 24), "initial_state_r": d.normal(2, 20, 6)}
    return mla_inputs(d) | past, {"rope": "half", "window": 8}


@case
def mla__small_latents(d):
    return mla_inputs(d, rank=5), {}


@case
def mla__packed(d):
    return mla_inputs(d, B=1) | {"cu_seqlens": packed()}, {"rope": "half"}


PIECES = [{"rope": "half", "window": 30}]


def pieces(d, tokens):
    along = {"q": d.normal(2, tokens, 3, 16), "c": d.normal(2, tokens, 24), "k_rope": d.normal(2, tokens, 6)}
    return along, {"w_kv_b": d.normal(3, 22, 24) / 5.0, "kv_norm_weight": d.normal(24)}
