#include "models/mixers/gated_delta.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "kernels/primitives/cpu/vector_math.h"
#include "models/layers/rows.h"

namespace attnd::models {

void GatedDeltaMixer::ReadShared(ConfigReader& config, int64_t head_dim, int64_t heads,
                                 double expand_v) {
  RecurrentSizes& sizes = sizes_;
  sizes.key_size = config.Positive("head_dim", head_dim);
  sizes.query_heads = sizes.key_heads = config.Positive("num_heads", heads);
  sizes.heads = sizes.value_heads = config.Positive("num_v_heads", sizes.query_heads);
  sizes.value_size =
      static_cast<int64_t>(static_cast<double>(sizes.key_size) * config.Real("expand_v", expand_v));
  if (sizes.value_size < 1) {
    config.Fail("expand_v", "a number above 0");
    sizes.value_size = 1;
  }
  if (sizes.heads % sizes.query_heads != 0) {
    config.Fail("num_v_heads", absl::StrCat("a multiple of num_heads ", sizes.query_heads));
    sizes.heads = sizes.value_heads = sizes.query_heads;
  }
  strength_ = config.Flag("allow_neg_eigval", false) ? 2 : 1;
  const bool conv = config.Flag("use_short_conv", true);
  const int64_t taps = config.Positive("conv_size", 4);
  silu_ = !conv;
  shape_.delta = true;
  scale_ = 1 / std::sqrt(static_cast<double>(sizes.key_size));
  AddStreams("q_proj", "k_proj", "v_proj");
  beta_ = AddPart("b_proj", sizes.heads);
  const bool bias = config.Flag("conv_bias", false);
  if (conv && config.status().ok()) {
    AddConvolutions("q_conv1d", "k_conv1d", "v_conv1d", taps, bias, true, true);
  }
  decay_rate_ = weights_.Vector("A_log", {sizes.heads});
  for (float& rate : decay_rate_) rate = std::exp(rate);
}

void GatedDeltaMixer::Features(int64_t, const float*, float* row) const {
  if (silu_) {
    for (const Part* part : {&q_, &k_, &v_}) cpu::SiluRow(row + part->offset, part->size);
  }
  const int64_t size = sizes_.key_size;
  for (const Part* part : {&q_, &k_}) {
    for (int64_t h = 0; h < sizes_.query_heads; ++h) {
      L2NormRow(row + part->offset + h * size, size, 1e-6);
    }
  }
}

void GatedDeltaMixer::GateHead(int64_t head, const float* x, int64_t count, float* g) const {
  const float rate = decay_rate_[static_cast<size_t>(head)];
  const float* bias = dt_bias_.data() + head * count;
  if (lower_bound_ < 0) {
    for (int64_t i = 0; i < count; ++i) g[i] = rate * (x[i] + bias[i]);
    cpu::SigmoidRow(g, count);
    cpu::ScaleRow(g, static_cast<float>(lower_bound_), count);
    return;
  }
  for (int64_t i = 0; i < count; ++i) g[i] = -rate * Softplus(x[i] + bias[i]);
}

void GatedDeltaMixer::FillBeta(const float* row, float* beta) const {
  std::copy_n(row + beta_.offset, sizes_.heads, beta);
  cpu::SigmoidRow(beta, sizes_.heads);
  cpu::ScaleRow(beta, strength_, sizes_.heads);
}

}  // namespace attnd::models
