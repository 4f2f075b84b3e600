// What layers do to single rows. A row's bits depend on that row alone.
#ifndef ATTND_MODELS_LAYERS_ROWS_H_
#define ATTND_MODELS_LAYERS_ROWS_H_

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/types/span.h"
#include "models/layers/weights.h"
#include "models/step.h"

namespace attnd::models {

// out = x / sqrt(mean x^2 + eps) * weight; an empty weight counts as ones. In place is legal.
void RmsNormRow(const float* x, int64_t n, double eps, absl::Span<const float> weight, float* out);

// body(row, position) for every row of the step, spread over threads; `work` as in ParallelFor.
void ForRows(const Step& step, double work,
             absl::FunctionRef<void(int64_t row, int64_t position)> body);

}  // namespace attnd::models

#endif  // ATTND_MODELS_LAYERS_ROWS_H_
