import numpy as np

from tests.reference.common import fusion_outputs, moment, sigmoid


def gl_dmnet_channel_fusion(f_rgb, f_depth, fc1_weight, fc2_weight, mix_weight, mix_scale, mix_shift, fc1_bias=0.0,
                            fc2_bias=0.0, out1_weight=None, out1_scale=None, out1_shift=None, out3_weight=None,
                            out3_scale=None, out3_shift=None, *, height, width, moment_power=0.5,
                            normalize_over="channel", gate="none"):
    """Channel x: sum_y M(sum_n f[n,x] h[n,y]) f[:,y], and for the fusion the sum of both maps with h."""

    def fc(t):
        return np.maximum(t @ fc1_weight.T + fc1_bias, 0.0) @ fc2_weight.T + fc2_bias

    c = np.concatenate([f_rgb, f_depth], axis=-1)
    w = fc(c.max(1)) + fc(c.mean(1))
    w = sigmoid(w) if gate == "sigmoid" else w
    h = np.maximum(mix_scale * ((c * w[:, None]) @ mix_weight.T) + mix_shift, 0.0)
    c_rgb, c_depth, c_fused = np.zeros_like(f_rgb), np.zeros_like(f_rgb), np.zeros_like(f_rgb)
    for n, x, y in np.ndindex(f_rgb.shape[0], f_rgb.shape[2], f_rgb.shape[2]):
        m_rgb = moment(f_rgb[n, :, x] @ h[n, :, y], moment_power)
        m_depth = moment(f_depth[n, :, x] @ h[n, :, y], moment_power)
        c_rgb[n, :, x] += m_rgb * f_rgb[n, :, y]
        c_depth[n, :, x] += m_depth * f_depth[n, :, y]
        c_fused[n, :, x] += (m_rgb + m_depth) * h[n, :, y]
    return fusion_outputs("c", (c_rgb, c_depth, c_fused), height, width, normalize_over, out1_weight, out1_scale,
                          out1_shift, out3_weight, out3_scale, out3_shift)
