// Gather.
#include "kernels/primitives/cpu/primitives_cpu.h"
#include "kernels/primitives/cpu/strided.h"

namespace attnd::cpu {

void Gather(const Tensor& x, const Tensor& index, int axis, const Tensor& out) {
  if (index.dtype() != DType::kInt64 || index.rank() != 1) PrimitiveBug("Gather", index);
  for (int64_t i = 0; i < index.dim(0); ++i) {
    const int64_t from = index.data<int64_t>()[i * index.stride(0)];
    Copy(x.Slice(axis, from, 1), out.Slice(axis, i, 1));
  }
}

}  // namespace attnd::cpu
