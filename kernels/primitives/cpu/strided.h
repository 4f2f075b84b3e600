// Loops over strided operands: axes are merged where memory allows, so that the innermost loop is
// long and, for contiguous operands, the only one.
#ifndef ATTND_KERNELS_PRIMITIVES_CPU_STRIDED_H_
#define ATTND_KERNELS_PRIMITIVES_CPU_STRIDED_H_

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>
#include <iostream>

#include "kernels/core/tensor.h"
#include "kernels/primitives/cpu/parallel.h"

namespace attnd::cpu {

[[noreturn]] inline void PrimitiveBug(absl::string_view primitive, const Tensor& tensor) {
  std::cerr << "attnd: bug: " << primitive << " cannot take " << tensor.DebugString() << std::endl;
  std::abort();
}

// N operands that walk over one shape, each with its own byte strides (0 repeats).
template <size_t N>
class StridedLoop {
 public:
  // Every operand broadcasts to `shape`.
  StridedLoop(const Dims& shape, const std::array<const Tensor*, N>& operands) {
    std::array<Dims, N> strides;
    for (size_t i = 0; i < N; ++i) {
      const Tensor view = operands[i]->Expand(shape);
      base_[i] = static_cast<char*>(view.raw());
      strides[i] = view.strides();
      const auto size = static_cast<int64_t>(SizeOf(view.dtype()));
      for (int64_t& stride : strides[i]) stride *= size;
    }
    for (size_t axis = 0; axis < shape.size(); ++axis) {
      if (shape[axis] == 0) empty_ = true;
      if (shape[axis] == 1) continue;
      bool merges = !shape_.empty();
      for (size_t i = 0; i < N && merges; ++i) {
        merges = strides_[i].back() == shape[axis] * strides[i][axis];
      }
      if (merges) {
        shape_.back() *= shape[axis];
        for (size_t i = 0; i < N; ++i) strides_[i].back() = strides[i][axis];
      } else {
        shape_.push_back(shape[axis]);
        for (size_t i = 0; i < N; ++i) strides_[i].push_back(strides[i][axis]);
      }
    }
    if (shape_.empty()) {
      shape_.push_back(1);
      for (size_t i = 0; i < N; ++i) strides_[i].push_back(0);
    }
  }

  // inner(pointers, strides in bytes, count) for every run along the innermost axis; runs are
  // spread over the threads. `cost` is the rough number of operations an element takes.
  template <typename Inner>
  void Run(double cost, Inner inner) const {
    if (empty_) return;
    constexpr int64_t kRun = 16384;
    const size_t last = shape_.size() - 1;
    const int64_t length = shape_[last];
    const int64_t pieces = (length + kRun - 1) / kRun;
    int64_t outer = 1;
    for (size_t axis = 0; axis < last; ++axis) outer *= shape_[axis];
    std::array<int64_t, N> inner_strides;
    for (size_t i = 0; i < N; ++i) inner_strides[i] = strides_[i][last];
    // Short runs are grouped so that one task is worth a thread's attention.
    const int64_t runs = outer * pieces;
    const int64_t group = std::max<int64_t>(1, kRun / std::max<int64_t>(1, std::min(length, kRun)));
    const int64_t tasks = (runs + group - 1) / group;
    ParallelFor(tasks, cost * static_cast<double>(outer) * static_cast<double>(length),
                [&](int64_t task) {
                  const int64_t end = std::min(runs, (task + 1) * group);
                  for (int64_t run = task * group; run < end; ++run) {
                    const int64_t piece = run % pieces;
                    int64_t row = run / pieces;
                    std::array<char*, N> at = base_;
                    for (size_t axis = last; axis-- > 0;) {
                      const int64_t index = row % shape_[axis];
                      row /= shape_[axis];
                      for (size_t i = 0; i < N; ++i) at[i] += index * strides_[i][axis];
                    }
                    const int64_t begin = piece * kRun;
                    for (size_t i = 0; i < N; ++i) at[i] += begin * inner_strides[i];
                    inner(at, inner_strides, std::min(kRun, length - begin));
                  }
                });
  }

 private:
  std::array<char*, N> base_;
  Dims shape_;
  std::array<Dims, N> strides_;
  bool empty_ = false;
};

// out[i] = f(x[i]) along one run; the contiguous case is a plain loop that the compiler vectorises.
template <typename X, typename Out, typename F>
void MapRun(const std::array<char*, 2>& at, const std::array<int64_t, 2>& strides, int64_t n, F f) {
  if (strides[0] == sizeof(X) && strides[1] == sizeof(Out)) {
    const X* x = reinterpret_cast<const X*>(at[0]);
    Out* out = reinterpret_cast<Out*>(at[1]);
    for (int64_t i = 0; i < n; ++i) out[i] = f(x[i]);
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    *reinterpret_cast<Out*>(at[1] + i * strides[1]) =
        f(*reinterpret_cast<const X*>(at[0] + i * strides[0]));
  }
}

// out[i] = f(a[i], b[i]); contiguous with either operand repeated is fast too.
template <typename In, typename Out, typename F>
void ZipRun(const std::array<char*, 3>& at, const std::array<int64_t, 3>& strides, int64_t n, F f) {
  const In* a = reinterpret_cast<const In*>(at[0]);
  const In* b = reinterpret_cast<const In*>(at[1]);
  Out* out = reinterpret_cast<Out*>(at[2]);
  constexpr int64_t kIn = sizeof(In);
  if (strides[2] == sizeof(Out) && strides[0] == kIn && strides[1] == kIn) {
    for (int64_t i = 0; i < n; ++i) out[i] = f(a[i], b[i]);
  } else if (strides[2] == sizeof(Out) && strides[0] == kIn && strides[1] == 0) {
    const In value = *b;
    for (int64_t i = 0; i < n; ++i) out[i] = f(a[i], value);
  } else if (strides[2] == sizeof(Out) && strides[0] == 0 && strides[1] == kIn) {
    const In value = *a;
    for (int64_t i = 0; i < n; ++i) out[i] = f(value, b[i]);
  } else {
    for (int64_t i = 0; i < n; ++i) {
      *reinterpret_cast<Out*>(at[2] + i * strides[2]) =
          f(*reinterpret_cast<const In*>(at[0] + i * strides[0]),
            *reinterpret_cast<const In*>(at[1] + i * strides[1]));
    }
  }
}

// Calls f with a value of the C++ type of `dtype`, so that a generic lambda can name it.
template <typename F>
void WithType(DType dtype, F f) {
  switch (dtype) {
    case DType::kBool:
      return f(bool{});
    case DType::kInt32:
      return f(int32_t{});
    case DType::kInt64:
      return f(int64_t{});
    case DType::kFloat16:
      return f(Half{});
    case DType::kBFloat16:
      return f(BFloat16{});
    case DType::kFloat32:
      return f(float{});
    case DType::kFloat64:
      return f(double{});
  }
}

// The same for the two compute types; anything else is a bug.
template <typename F>
void WithComputeType(absl::string_view primitive, const Tensor& tensor, F f) {
  if (tensor.dtype() == DType::kFloat32) return f(float{});
  if (tensor.dtype() == DType::kFloat64) return f(double{});
  PrimitiveBug(primitive, tensor);
}

}  // namespace attnd::cpu

#endif  // ATTND_KERNELS_PRIMITIVES_CPU_STRIDED_H_
