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

// x /= sqrt(sum x^2 + eps): queries and keys of the delta rule (eps 1e-6).
void L2NormRow(float* x, int64_t n, double eps);

// x = log sigmoid(x), without overflow.
void LogSigmoidRow(float* x, int64_t n);

// log(1 + e^x), without overflow.
float Softplus(float x);

// Turns consecutive heads of one row, pairs in halves, by position times the frequencies.
void RotateHeads(absl::Span<const double> frequencies, int64_t position, int64_t heads, float* row);

// body(row, position) for every row of the step, spread over threads; `work` as in ParallelFor.
void ForRows(const Step& step, double work,
             absl::FunctionRef<void(int64_t row, int64_t position)> body);

}  // namespace attnd::models

#endif  // ATTND_MODELS_LAYERS_ROWS_H_
