import numpy as np

from tests.wire.draw import case, qkv


def documents(T=70):
    return np.array([0, 9, 9, 30, 45, T], np.int32)


def inputs(d, T=70, S=None, B=2):
    return qkv(d, B=B, T=T, S=S, HV=2)


@case
def masked_attention__full(d):
    return inputs(d, T=30, S=70), {"pattern": "full", "return_lse": True}


@case
def masked_attention__causal_more_queries(d):
    return inputs(d, T=70, S=30), {"pattern": "causal", "return_lse": True}


@case
def masked_attention__sliding_window(d):
    return inputs(d, T=40, S=70), {"pattern": "sliding_window", "window_left": 9, "window_right": 4, "scale": 0.4}


@case
def masked_attention__sliding_window_to_the_right(d):
    return inputs(d), {"pattern": "sliding_window", "window_right": 4, "return_lse": True}


@case
def masked_attention__sliding_window_causal(d):
    return inputs(d), {"pattern": "sliding_window_causal", "window_left": 9, "return_lse": True}


@case
def masked_attention__full_document(d):
    return inputs(d) | {"cu_seqlens": documents()}, {"pattern": "full_document", "return_lse": True}


@case
def masked_attention__causal_document(d):
    return inputs(d, B=1) | {"cu_seqlens": documents()}, {"pattern": "causal_document", "return_lse": True}


@case
def masked_attention__share_question(d):
    return inputs(d) | {"cu_seqlens": documents()}, {"pattern": "share_question"}


@case
def masked_attention__share_an_empty_question(d):
    return inputs(d) | {"cu_seqlens": np.array([0, 0, 33, 70], np.int32)}, {"pattern": "share_question"}


@case
def masked_attention__causal_blockwise(d):
    return inputs(d) | {"cu_seqlens": documents()}, {"pattern": "causal_blockwise", "return_lse": True}


@case
def masked_attention__causal_blockwise_with_an_empty_last_document(d):
    return inputs(d) | {"cu_seqlens": np.array([0, 31, 70, 70], np.int32)}, {"pattern": "causal_blockwise"}


@case
def masked_attention__prefix_lm_causal(d):
    return inputs(d), {"pattern": "prefix_lm_causal", "prefix_length": 13, "return_lse": True}


@case
def masked_attention__prefix_lm_document(d):
    attributes = {"pattern": "prefix_lm_document", "prefix_length": 13, "return_lse": True}
    return inputs(d) | {"cu_seqlens": documents()}, attributes


@case
def masked_attention__global_sliding_window(d):
    return inputs(d), {"pattern": "global_sliding_window", "window_left": 4, "window_right": 2, "return_lse": True}


@case
def masked_attention__global_sliding_window_without_limits_to_the_left(d):
    return inputs(d), {"pattern": "global_sliding_window", "window_right": 2, "global_size": 5}


@case
def masked_attention__block_causal_document(d):
    attributes = {"pattern": "block_causal_document", "block_size": 8, "return_lse": True}
    return inputs(d) | {"cu_seqlens": documents()}, attributes


def columns(d, *shape, most=70):
    return {"startend_row_indices": d.rng.integers(0, most + 1, shape).astype(np.int32)}


@case
def masked_attention__causal_columns_of_one(d):
    return inputs(d) | columns(d, 1, 1, 70, 1), {"pattern": "columns", "causal": True, "return_lse": True}


@case
def masked_attention__causal_columns_of_two(d):
    return inputs(d) | columns(d, 2, 2, 70, 2), {"pattern": "columns", "causal": True, "return_lse": True}


@case
def masked_attention__columns_of_two(d):
    return inputs(d, T=50) | columns(d, 2, 1, 50, 2, most=50), {"pattern": "columns", "return_lse": True}


@case
def masked_attention__columns_of_four(d):
    return inputs(d, T=50, S=31) | columns(d, 1, 4, 31, 4, most=50), {"pattern": "columns", "return_lse": True}


@case
def masked_attention__slices(d):
    ranges = {
        "q_ranges": np.array([[0, 40], [20, 50], [5, 50], [30, 30], [3, 33]], np.int32),
        "k_ranges": np.array([[0, 30], [10, 70], [60, 70], [0, 70], [20, 65]], np.int32),
        "slice_types": np.array([1, 2, 0, 0, 3], np.int32),
    }
    return inputs(d, T=60, S=70) | ranges, {"pattern": "slices", "return_lse": True}
