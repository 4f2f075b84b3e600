#include "kernels/cores/forget_gate.h"

#include <cstring>

#include "kernels/primitives/cpu/vector_math.h"

namespace attnd {

ForgetGate ForgetGateOf(const Array& f, const Array& lower_bound) {
  Array key = Sigmoid(-f);
  if (lower_bound.defined()) key = (1.0 - lower_bound) * key;
  return {key, Apply(UnaryOp::kLog1p, -key)};
}

namespace cpu {

void ForgetGateRows(const float* lower_bound, int64_t count, int64_t key_size, float* keys,
                    float* gates) {
  const int64_t n = count * key_size;
  ScaleRow(keys, -1.0f, n);
  SigmoidRow(keys, n);
  for (int64_t r = 0; lower_bound != nullptr && r < count; ++r) {
    float* row = keys + r * key_size;
    for (int64_t i = 0; i < key_size; ++i) row[i] *= 1.0f - lower_bound[i];
  }
  std::memcpy(gates, keys, static_cast<size_t>(n) * sizeof(float));
  ScaleRow(gates, -1.0f, n);
  Log1pRow(gates, n);
}

}  // namespace cpu
}  // namespace attnd
