// The element-wise row loops of CPU kernels, compiled for AVX2 and AVX-512 and chosen at run time.
// A result depends on the elements and the row's length alone.
#ifndef ATTND_KERNELS_PRIMITIVES_CPU_VECTOR_MATH_H_
#define ATTND_KERNELS_PRIMITIVES_CPU_VECTOR_MATH_H_

#include <cstdint>

#include "kernels/core/dtype.h"

namespace attnd::cpu {

// x[n] of type float32, float16 or bfloat16 as float32.
void LoadRow(const void* x, DType dtype, float* out, int64_t n);
// The way back, rounded to nearest even.
void StoreRow(const float* x, DType dtype, void* out, int64_t n);

// x = e^x within 2 ulp; -inf, and all below -87.34 where results are subnormal, give 0; above
// 88.722 gives inf; NaN stays NaN.
void ExpRow(float* x, int64_t n);
// out = e^(x - shift); returns the sum of out. In place is legal.
float ExpShiftedRow(const float* x, float shift, float* out, int64_t n);
// out = e^(a - b).
void ExpDifferenceRow(const float* a, const float* b, float* out, int64_t n);
// sum += gate; returns the sum over the row of a b e^sum. Walking on from token to token this
// weighs pairs by the decay between them without ever subtracting one prefix sum from another: -inf
// stays exact.
float DotDecayed(const float* a, const float* b, const float* gate, float* sum, int64_t n);

// In place; NaN stays NaN.
void TanhRow(float* x, int64_t n);
void SigmoidRow(float* x, int64_t n);  // 1 / (1 + e^-x)
void SiluRow(float* x, int64_t n);     // x / (1 + e^-x)
void Elu1Row(float* x, int64_t n);     // x + 1 for x > 0, else e^x
void ReluRow(float* x, int64_t n);     // max(x, 0)
void Log1pRow(float* x, int64_t n);    // ln(1 + x), x >= -1; -inf at -1

float SumRow(const float* x, int64_t n);
// -inf for an empty row; NaN if any is.
float MaxRow(const float* x, int64_t n);
// Whether no element is NaN or infinite.
bool AllFiniteRow(const float* x, int64_t n);
float DotRow(const float* a, const float* b, int64_t n);

// x *= factor.
void ScaleRow(float* x, float factor, int64_t n);
// x[i,:] *= factors[i * step] for `rows` rows of n elements, `stride` apart.
void ScaleRows(float* x, int64_t rows, int64_t n, int64_t stride, const float* factors,
               int64_t step);
// out = a b.
void MulRow(const float* a, const float* b, float* out, int64_t n);
// y += a x.
void AxpyRow(float a, const float* x, float* y, int64_t n);
// y += a b.
void MulAddRow(const float* a, const float* b, float* y, int64_t n);
// y = y decay + a x.
void FadeAddRow(float a, const float* x, const float* decay, float* y, int64_t n);
// out = a + b.
void AddRow(const float* a, const float* b, float* out, int64_t n);

}  // namespace attnd::cpu

#endif  // ATTND_KERNELS_PRIMITIVES_CPU_VECTOR_MATH_H_
