// The CPU forms of the primitives, one file each; primitives.h says what they compute.
#ifndef ATTND_KERNELS_PRIMITIVES_CPU_PRIMITIVES_CPU_H_
#define ATTND_KERNELS_PRIMITIVES_CPU_PRIMITIVES_CPU_H_

#include "kernels/core/tensor.h"
#include "kernels/primitives/primitives.h"

namespace attnd::cpu {

void Copy(const Tensor& x, const Tensor& out);
void Fill(double value, const Tensor& out);
void Iota(double start, double step, const Tensor& out);
void Unary(UnaryOp op, const Tensor& x, const Tensor& out);
void Binary(BinaryOp op, const Tensor& a, const Tensor& b, const Tensor& out);
void Where(const Tensor& condition, const Tensor& a, const Tensor& b, const Tensor& out);
void Reduce(ReduceOp op, const Tensor& x, int axis, const Tensor& out);
void CumSum(const Tensor& x, int axis, const Tensor& out);
void Softmax(const Tensor& x, const Tensor& mask, const Tensor& out, const Tensor& lse);
void MatMul(const Tensor& a, const Tensor& b, const Tensor& out, double alpha, double beta);
void SolveUnitLower(const Tensor& a, const Tensor& b, const Tensor& out);
void Gather(const Tensor& x, const Tensor& index, int axis, const Tensor& out);
void SortDescending(const Tensor& x, const Tensor& out);
void LinearScan(const Tensor& factor, const Tensor& x, const Tensor& initial, const Tensor& out);
void LogSumExpScan(const Tensor& x, const Tensor& initial, const Tensor& out);

}  // namespace attnd::cpu

#endif  // ATTND_KERNELS_PRIMITIVES_CPU_PRIMITIVES_CPU_H_
