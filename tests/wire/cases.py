"""Calls of every operator with fresh inputs. A case is a function of a generator that gives float64 inputs and
attributes; `CASES[op]` maps names to cases.

Floating inputs named here as float32 ports keep that type in half-precision calls; the others take the call's type."""

import numpy as np

# Gates, states and learned parameters that the schemas keep in float32.
FLOAT32 = {
    "gla": {"g", "g_v", "initial_state"},
    "retention": {"g", "initial_state", "initial_state_n", "initial_state_z"},
    "lightning_attention": {"g", "initial_state"},
    "linear_attention": {"initial_state", "initial_state_z"},
    "delta_rule": {"beta", "initial_state"},
    "gated_delta_rule": {"g", "beta", "A_log", "dt_bias", "initial_state"},
    "kda": {"g", "beta", "A_log", "dt_bias", "initial_state"},
    "short_conv": {"initial_state"},
    "softmax_attention": {"sinks"},
    "flow_attention": {
        "initial_state", "initial_state_k", "initial_state_q", "initial_state_ko", "initial_state_qi",
        "initial_state_exp",
    },
    "mala": set(),
    "neighborhood_attention": set(),
    "block_sparse_attention": set(),
    "hgrn2": {"lower_bound", "initial_state"},
    "based": {"initial_state", "initial_state_z"},
    "ssd": {"dt", "a", "a_log", "dt_bias", "d", "initial_state"},
    "mla": set(),
}


class Draw:
    """A generator of inputs."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def normal(self, *shape):
        return self.rng.standard_normal(shape)

    def unit(self, *shape):
        x = self.normal(*shape)
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    def decay(self, *shape):
        """Log decays, mostly mild."""
        return -np.logaddexp(0.0, -self.normal(*shape) - 1.0)

    def probability(self, *shape):
        return self.rng.uniform(0.05, 0.95, shape)

    def mask(self, *shape, share=0.6):
        return self.rng.uniform(size=shape) < share


def qkv(d, B=2, T=37, S=None, H=4, HK=2, HV=4, K=16, V=20, unit=False):
    S = T if S is None else S
    q = d.normal(B, T, H, K)
    k = (d.unit if unit else d.normal)(B, S, HK, K)
    return {"q": q, "k": k, "v": d.normal(B, S, HV, V)}


def packed(T=37):
    """Three sequences and an empty one."""
    return np.array([0, 9, 9, 30, T], np.int32)


CASES = {}


def case(function):
    """Registers `op__name`."""
    op, name = function.__name__.split("__")
    CASES.setdefault(op, {})[name] = function
    return function


# softmax_attention ---------------------------------------------------------------------------------------------------


@case
def softmax_attention__plain(d):
    return qkv(d, S=29), {}


@case
def softmax_attention__causal_more_keys(d):
    return qkv(d, T=19, S=50), {"causal": True, "return_lse": True}


@case
def softmax_attention__causal_fewer_keys(d):
    return qkv(d, T=30, S=11), {"causal": True, "return_lse": True}


@case
def softmax_attention__windows(d):
    return qkv(d, S=41), {"window_left": 5, "window_right": 3, "softcap": 2.5, "scale": 0.7}


@case
def softmax_attention__mask_and_sinks(d):
    inputs = qkv(d, S=23)
    mask = d.mask(2, 37, 23)
    mask[0, 3] = False
    return inputs | {"mask": mask, "sinks": d.normal(4)}, {"return_lse": True}


@case
def softmax_attention__mask_of_all_rows(d):
    mask = d.mask(37, 37)
    mask[7] = False
    return qkv(d) | {"mask": mask}, {"causal": True, "return_lse": True}


@case
def softmax_attention__packed(d):
    return qkv(d, B=1) | {"cu_seqlens": packed()}, {"causal": True, "window_left": 6, "return_lse": True}


@case
def softmax_attention__dense_cache(d):
    inputs = qkv(d, T=7)
    past = {"initial_state_k": d.normal(2, 13, 2, 16), "initial_state_v": d.normal(2, 13, 4, 20)}
    return inputs | past, {"causal": True, "cache": "dense", "return_lse": True}


@case
def softmax_attention__dense_cache_with_mask(d):
    inputs = qkv(d, T=7)
    past = {"initial_state_k": d.normal(2, 13, 2, 16), "initial_state_v": d.normal(2, 13, 4, 20)}
    return inputs | past | {"mask": d.mask(7, 20)}, {"causal": True, "cache": "dense"}


@case
def softmax_attention__ring_cache(d):
    past = {
        "initial_state_k": d.normal(2, 9, 2, 16),
        "initial_state_v": d.normal(2, 9, 4, 20),
        "initial_state_pos": np.array([14, 23], np.int64),
    }
    return qkv(d, T=21) | past, {"causal": True, "cache": "ring", "window_left": 8}


@case
def softmax_attention__ring_from_nothing(d):
    return qkv(d, T=5), {"causal": True, "cache": "ring", "window_left": 8}


@case
def softmax_attention__large_logits(d):
    inputs = qkv(d)
    return inputs | {"q": 60.0 * inputs["q"]}, {}


# linear_attention ----------------------------------------------------------------------------------------------------


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


# retention -----------------------------------------------------------------------------------------------------------


@case
def retention__plain(d):
    return qkv(d, T=70), {}


@case
def retention__own_decay(d):
    return qkv(d, T=70) | {"g": d.decay(4), "initial_state": d.normal(2, 4, 16, 20)}, {"scale": 0.3}


@case
def retention__rotary_half_decay(d):
    state = {
        "initial_state": d.normal(2, 4, 16, 20),
        "initial_state_n": np.abs(d.normal(2, 4)) * 3,
        "initial_state_pos": np.array([5, 1000], np.int64),
    }
    return qkv(d) | state, {"rotary": "half", "normalize": "decay", "rotary_base": 500.0}


@case
def retention__rotary_interleaved_row(d):
    state = {
        "initial_state": d.normal(2, 4, 16, 20),
        "initial_state_n": np.abs(d.normal(2, 4)) * 3,
        "initial_state_z": d.normal(2, 4, 16),
        "initial_state_pos": np.array([5, 77], np.int64),
    }
    return qkv(d) | state, {"rotary": "interleaved", "normalize": "row"}


@case
def retention__packed(d):
    state = {"initial_state": d.normal(4, 4, 16, 20), "initial_state_pos": np.array([3, 0, 9, 40], np.int64)}
    return qkv(d, B=1) | state | {"cu_seqlens": packed()}, {"rotary": "half"}


# lightning_attention -------------------------------------------------------------------------------------------------


@case
def lightning_attention__alibi(d):
    return qkv(d, T=70), {}


@case
def lightning_attention__alibi_six_heads(d):
    return qkv(d, T=70, H=6, HK=3, HV=2), {"layer_idx": 2, "num_layers": 5, "scale": 0.5}


@case
def lightning_attention__linear(d):
    return qkv(d, T=70) | {"initial_state": d.normal(2, 4, 16, 20)}, {
        "decay": "linear", "layer_idx": 1, "num_layers": 4,
    }


@case
def lightning_attention__none(d):
    return qkv(d), {"decay": "none"}


@case
def lightning_attention__own_decay_packed(d):
    state = {"initial_state": d.normal(4, 4, 16, 20)}
    return qkv(d, B=1) | {"g": d.decay(4), "cu_seqlens": packed()} | state, {}


# gla -----------------------------------------------------------------------------------------------------------------


@case
def gla__vector_gate(d):
    return qkv(d, T=70) | {"g": d.decay(2, 70, 4, 16)}, {}


@case
def gla__scalar_gate(d):
    return qkv(d, T=70) | {"g": d.decay(2, 70, 2), "initial_state": d.normal(2, 4, 16, 20)}, {"scale": 0.2}


@case
def gla__gate_of_values(d):
    return qkv(d, T=70) | {"g": d.decay(2, 70, 4, 16), "g_v": d.decay(2, 70, 2, 20)}, {}


@case
def gla__strong_and_total_forgetting(d):
    g = 12.0 * d.decay(2, 70, 4, 16)
    g[:, 33] = -np.inf
    return qkv(d, T=70) | {"g": g}, {}


@case
def gla__packed(d):
    state = {"initial_state": d.normal(4, 4, 16, 20)}
    return qkv(d, B=1) | {"g": d.decay(1, 37, 4, 16), "cu_seqlens": packed()} | state, {}


# delta_rule ----------------------------------------------------------------------------------------------------------


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


# gated_delta_rule ----------------------------------------------------------------------------------------------------


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


# kda -----------------------------------------------------------------------------------------------------------------


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


# short_conv ----------------------------------------------------------------------------------------------------------


@case
def short_conv__silu(d):
    return {"x": d.normal(2, 37, 20), "weight": d.normal(20, 4), "bias": d.normal(20)}, {}


@case
def short_conv__residual_and_state(d):
    inputs = {"x": d.normal(2, 37, 20), "weight": d.normal(20, 3), "residual": d.normal(2, 37, 20)}
    return inputs | {"initial_state": d.normal(2, 20, 2)}, {"activation": "none"}


@case
def short_conv__one_tap(d):
    return {"x": d.normal(2, 5, 3), "weight": d.normal(3, 1)}, {}


@case
def short_conv__packed(d):
    inputs = {"x": d.normal(1, 37, 20), "weight": d.normal(20, 4), "initial_state": d.normal(4, 20, 3)}
    return inputs | {"cu_seqlens": packed()}, {}


@case
def short_conv__shorter_than_its_taps(d):
    return {"x": d.normal(2, 2, 20), "weight": d.normal(20, 4), "initial_state": d.normal(2, 20, 3)}, {}


# mala ----------------------------------------------------------------------------------------------------------------


@case
def mala__plain(d):
    return qkv(d, S=50, HK=4), {}


@case
def mala__everything(d):
    inputs = qkv(d, T=35, HK=4) | {"gate": d.normal(2, 35, 4, 20)}
    return inputs | {"lepe_weight": d.normal(80, 5, 3), "lepe_bias": d.normal(80)}, {
        "rope": "axial2d", "height": 5, "width": 7, "rope_base": 300.0, "scale": 0.4, "eps": 1e-4,
    }


@case
def mala__one_frequency(d):
    return qkv(d, T=12, HK=4, K=4), {"rope": "axial2d", "height": 3, "width": 4}


# flow_attention ------------------------------------------------------------------------------------------------------


@case
def flow_attention__normal(d):
    return qkv(d, S=50, HK=4), {}


@case
def flow_attention__relu_unclamped(d):
    return qkv(d, S=50, HK=4), {"feature_map": "relu", "clamp": 0.0, "eps": 1e-4}


@case
def flow_attention__causal(d):
    return qkv(d, T=70, HK=4), {"causal": True, "clamp": 5.0}


@case
def flow_attention__causal_packed(d):
    return qkv(d, B=1, HK=4) | {"cu_seqlens": packed()}, {"causal": True}


# neighborhood_attention ----------------------------------------------------------------------------------------------


@case
def neighborhood_attention__one_axis(d):
    return qkv(d, HV=2), {"window": 7, "return_lse": True}


@case
def neighborhood_attention__even_window(d):
    return qkv(d, HV=2), {"window": [6]}


@case
def neighborhood_attention__causal_stride(d):
    return qkv(d, HV=2), {"window": 6, "stride": 3, "causal": True, "return_lse": True}


@case
def neighborhood_attention__image(d):
    return qkv(d, T=54, HV=2), {"height": 9, "width": 6, "window": [3, 4], "stride": [2, 1], "scale": 0.5}


@case
def neighborhood_attention__dilated_image(d):
    return qkv(d, T=77, HV=2), {"height": 7, "width": 11, "window": [3, 3], "dilation": [2, 3]}


@case
def neighborhood_attention__dilated_causal_stride(d):
    return qkv(d, T=77, HV=2), {
        "height": 7, "width": 11, "window": [2, 4], "dilation": [3, 2], "stride": [1, 3], "causal": [False, True],
    }


@case
def neighborhood_attention__volume_with_extra_keys(d):
    extra = {"k_extra": d.normal(2, 3, 2, 16), "v_extra": d.normal(2, 3, 2, 20)}
    return qkv(d, T=60, HV=2) | extra, {
        "depth": 3, "height": 4, "width": 5, "window": [2, 3, 3], "causal": [True, False, False], "return_lse": True,
    }


# block_sparse_attention ----------------------------------------------------------------------------------------------


def lists(d, rows, heads, blocks, slots, count):
    """Block numbers below `count` (of every row), none twice, with empty slots."""
    indices = np.full((rows, heads, blocks, slots), -1, np.int32)
    for place in np.ndindex(rows, heads, blocks):
        limit = count if np.isscalar(count) else count[place[0]]
        chosen = d.rng.permutation(limit)[: d.rng.integers(0, slots + 1)]
        indices[place][: len(chosen)] = chosen
    return indices


@case
def block_sparse_attention__lists(d):
    inputs = qkv(d, T=37, S=50, HV=2)
    return inputs | {"block_indices": lists(d, 2, 2, 5, 4, 4)}, {
        "block_size_q": 8, "block_size_k": 13, "return_lse": True,
    }


@case
def block_sparse_attention__counts(d):
    indices = np.stack([d.rng.permutation(4) for _ in range(5)]).reshape(1, 1, 5, 4).astype(np.int64)
    counts = d.rng.integers(0, 5, (1, 1, 5))
    return qkv(d, T=37, S=50, HV=2) | {"block_indices": indices, "block_counts": counts}, {
        "block_size_q": 8, "block_size_k": 13,
    }


@case
def block_sparse_attention__mask_sink_window(d):
    return qkv(d, T=37, S=50, HV=2) | {"block_mask": d.mask(2, 4, 5, 4, share=0.3)}, {
        "block_size_q": 8, "block_size_k": 13, "causal": True, "sink": 2, "window": 5, "scale": 0.4,
        "return_lse": True,
    }


@case
def block_sparse_attention__packed(d):
    # Sequences of 9, 0, 21 and 7 tokens: at most 3 query blocks of 8 and 6 key blocks of 4.
    return qkv(d, B=1, HV=2) | {"cu_seqlens": packed(), "block_mask": d.mask(4, 1, 3, 6, share=0.4)}, {
        "block_size_q": 8, "block_size_k": 4, "causal": True, "window": 2,
    }


@case
def block_sparse_attention__default_blocks(d):
    return qkv(d, T=100, S=150, HV=2) | {"block_indices": lists(d, 1, 1, 2, 2, 3)}, {"causal": True}


# hgrn2 ---------------------------------------------------------------------------------------------------------------


def hgrn2_inputs(d, B=2, T=70):
    return {"q": d.normal(B, T, 4, 16), "f": d.normal(B, T, 4, 16), "v": d.normal(B, T, 4, 20)}


@case
def hgrn2__plain(d):
    return hgrn2_inputs(d), {}


@case
def hgrn2__bounded(d):
    return hgrn2_inputs(d) | {"lower_bound": d.probability(4, 16), "initial_state": d.normal(2, 4, 16, 20)}, {
        "q_silu": False, "scale": 0.3,
    }


@case
def hgrn2__gates_nearly_open_and_shut(d):
    inputs = hgrn2_inputs(d)
    return inputs | {"f": 8.0 * inputs["f"]}, {}


@case
def hgrn2__packed(d):
    state = {"initial_state": d.normal(4, 4, 16, 20), "lower_bound": d.probability(4, 16)}
    return hgrn2_inputs(d, B=1, T=37) | state | {"cu_seqlens": packed()}, {}


# based ---------------------------------------------------------------------------------------------------------------


@case
def based__plain(d):
    return qkv(d, T=70, K=8), {}


@case
def based__numerator(d):
    return qkv(d, T=70, K=5, H=4, HK=4, HV=2), {"normalize": False, "scale": 0.8}


@case
def based__whole(d):
    return qkv(d, T=70, K=5), {"causal": False, "eps": 1e-3}


@case
def based__from_a_state(d):
    keys = d.normal(2, 4, 9, 5)
    pairs = np.einsum("bhni,bhnj->bhnij", keys, keys).reshape(2, 4, 9, 25) / np.sqrt(2.0)
    z = np.concatenate([np.ones((2, 4, 9, 1)), keys, pairs], axis=-1).sum(2)
    return qkv(d, K=5) | {"initial_state": d.normal(2, 4, 31, 20), "initial_state_z": z}, {}


@case
def based__packed(d):
    return qkv(d, B=1, K=5) | {"cu_seqlens": packed()}, {}


@case
def based__packed_wholes(d):
    return qkv(d, B=1, K=5) | {"cu_seqlens": packed()}, {"causal": False}


# ssd -----------------------------------------------------------------------------------------------------------------


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


# mla -----------------------------------------------------------------------------------------------------------------


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
