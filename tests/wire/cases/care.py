from tests.wire.draw import case

FLOAT32 = {"inter1_norm_var", "inter2_norm_var"}


def groups(d, g, memory, tokens):
    return {"x": d.normal(2, tokens, memory + 3 * g), "conv3_weight": d.normal(g, 3, 3), "conv3_bias": d.normal(g),
            "conv7_weight": d.normal(g, 7, 7), "conv7_bias": d.normal(g)}


def attention(d, g):
    return {"qk_weight": d.normal(2 * g, g) / g, "qk_bias": d.normal(2 * g)}


def convolutions(d, g):
    return {"conv11v_weight": d.normal(g, 11, 1), "conv11v_bias": d.normal(g), "conv11h_weight": d.normal(g, 1, 11),
            "conv11h_bias": d.normal(g)}


def interaction(d, name, channels, ratio, fc2=True):
    rows = ratio * channels
    inputs = {f"norm_{part}": d.normal(channels) for part in ("weight", "bias", "mean")}
    inputs |= {"norm_var": d.probability(channels), "fc1_weight": d.normal(rows, channels) / channels, "fc1_bias": d.normal(rows),
               "conv_weight": d.normal(rows, 3, 3), "conv_bias": d.normal(rows)}
    if fc2:
        inputs |= {"fc2_weight": d.normal(channels, rows) / rows, "fc2_bias": d.normal(channels)}
    return {f"{name}_{key}": value for key, value in inputs.items()}


@case
def care__attention_alone(d):
    return groups(d, 6, 6, 35) | attention(d, 6), {"height": 5, "width": 7}


@case
def care__convolutions_alone(d):
    return groups(d, 5, 2, 24) | convolutions(d, 5), {"height": 4, "width": 6, "mixer": "conv"}


@case
def care__attention(d):
    inputs = groups(d, 6, 4, 35) | attention(d, 6) | interaction(d, "inter1", 18, 2) | interaction(d, "inter2", 22, 3)
    return inputs, {"height": 5, "width": 7, "head_dim": 2, "eps": 1e-3, "bn_eps": 1e-3}


@case
def care__last(d):
    inputs = groups(d, 4, 0, 12) | convolutions(d, 4) | interaction(d, "inter1", 12, 1)
    return inputs | interaction(d, "inter2", 12, 2, fc2=False), {
        "height": 3, "width": 4, "mixer": "conv", "last": True,
    }
