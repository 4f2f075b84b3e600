from tests.wire.draw import case

AMPLIFIES = True


def inputs(d, causal, B=2, T=13, H=2, K=6, P=8, R=9):
    C, D = (2 * H, P // 2) if causal else (4 * H, 2 * P)
    x = {name: d.normal(B, T, H, K) for name in ("q", "k", "v")}
    x |= {"projection": d.normal(R, K), "enc_w": d.normal(3 * K, 2 * K) / K, "enc_b": d.normal(2 * K)}
    x |= {"enc_ln_w": d.normal(2 * K), "enc_ln_b": d.normal(2 * K)}
    x |= {"row_w": d.normal(2 * K, D) / K, "row_b": d.normal(D), "scaler_w": d.normal(2 * K, 2), "scaler_b": d.normal(2)}
    x |= {"conv1_w": 0.2 * d.normal(C, C, 3, 3), "conv1_b": d.normal(C)}
    x |= {"conv2_w": 0.2 * d.normal(C, C, 3, 3), "conv2_b": d.normal(C)}
    side = 1 if causal else 3
    x |= {"conv3_w": 0.5 * d.normal(H, C, side, side), "conv3_b": d.normal(H)}
    if causal:
        x |= {f"cnn_ln1_{name}": d.normal(P // 4) for name in "wb"}
        x |= {f"cnn_ln2_{name}": d.normal(P) for name in "wb"}
        x |= {"v_pos": d.normal(T + 2, K)}
    return x


@case
def sea__item(d):
    return inputs(d, False), {"predictor_length": 8, "top_k": 3, "return_mask": True}


@case
def sea__query_of_even_length(d):
    attributes = {"predictor_length": 6, "top_k": 2, "budget": "query", "scale": 0.7, "return_mask": True}
    return inputs(d, False, T=14, P=6), attributes


@case
def sea__causal(d):
    return inputs(d, True), {"causal": True, "predictor_length": 8, "top_k": 2, "return_mask": True}


@case
def sea__causal_shorter_than_its_width(d):
    return inputs(d, True, T=5, P=16), {"causal": True, "predictor_length": 16, "top_k": 1}


@case
def sea__one_token(d):
    return inputs(d, False, T=1), {"predictor_length": 8}
