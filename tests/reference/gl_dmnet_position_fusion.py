import numpy as np

from tests.reference.common import dense_conv, fusion_outputs, moment, sigmoid


def gl_dmnet_position_fusion(f_rgb, f_depth, sp_weight, sp_scale, sp_shift, mix_weight, mix_scale, mix_shift,
                             out1_weight=None, out1_scale=None, out1_shift=None, out3_weight=None, out3_scale=None,
                             out3_shift=None, *, height, width, moment_power=0.5, normalize_over="channel", gate="relu"):
    """Receiver j: sum_i M(s_i . f_j) f_i, and for the fusion sum_i (M(s_i . rgb_j) + M(s_i . depth_j)) s_i."""
    A = f_rgb + f_depth
    maps = np.stack([A.max(-1), A.mean(-1)], axis=-1)
    W = sp_scale * dense_conv(maps, sp_weight[None], height, width) + sp_shift
    W = np.maximum(W, 0.0) if gate == "relu" else sigmoid(W)
    s = np.maximum(mix_scale * ((A * W + A) @ mix_weight.T) + mix_shift, 0.0)
    p_rgb, p_depth, p_fused = np.zeros_like(A), np.zeros_like(A), np.zeros_like(A)
    for n, j in np.ndindex(*A.shape[:2]):
        for i in range(A.shape[1]):
            m_rgb = moment(s[n, i] @ f_rgb[n, j], moment_power)
            m_depth = moment(s[n, i] @ f_depth[n, j], moment_power)
            p_rgb[n, j] += m_rgb * f_rgb[n, i]
            p_depth[n, j] += m_depth * f_depth[n, i]
            p_fused[n, j] += (m_rgb + m_depth) * s[n, i]
    return fusion_outputs("p", (p_rgb, p_depth, p_fused), height, width, normalize_over, out1_weight, out1_scale,
                          out1_shift, out3_weight, out3_scale, out3_shift)
