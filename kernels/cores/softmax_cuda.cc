#include "kernels/cores/softmax_cuda.h"

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <algorithm>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "kernels/cores/softmax_composed.h"
#include "kernels/cores/softmax_launch.h"
#include "kernels/cuda/launch.h"

namespace attnd::cuda {
namespace {

constexpr double kLog2E = 1.4426950408889634;
// Positions, and sums of a position and a window, are 32-bit numbers on the device.
constexpr int64_t kMaxTokens = int64_t{1} << 30;

bool Aligned(const Tensor& x) {
  return reinterpret_cast<uintptr_t>(x.raw()) % 16 == 0 &&
         x.dim(3) * static_cast<int64_t>(SizeOf(x.dtype())) % 16 == 0;
}

cudaError_t Launch(DType dtype, const SoftmaxArguments& arguments, unsigned blocks,
                   cudaStream_t stream) {
  switch (dtype) {
    case DType::kFloat16:
      return LaunchSoftmax<__half>(arguments, blocks, stream);
    case DType::kBFloat16:
      return LaunchSoftmax<__nv_bfloat16>(arguments, blocks, stream);
    default:
      return LaunchSoftmax<float>(arguments, blocks, stream);
  }
}

int SharedMemory(DType dtype, int width) {
  switch (dtype) {
    case DType::kFloat16:
      return SoftmaxSharedMemory<__half>(width);
    case DType::kBFloat16:
      return SoftmaxSharedMemory<__nv_bfloat16>(width);
    default:
      return SoftmaxSharedMemory<float>(width);
  }
}

}  // namespace

bool SoftmaxSupports(DType dtype, int64_t key_size, int64_t value_size) {
  const int64_t width = std::max(key_size, value_size);
  return dtype != DType::kFloat64 && width <= kMaxSoftmaxHeadSize &&
         SharedMemory(dtype, static_cast<int>(width)) <= SharedMemoryLimit();
}

int ClampToken(int64_t value) {
  return static_cast<int>(std::clamp(value, -kMaxTokens, kMaxTokens));
}

absl::Status Softmax(Backend& backend, const SoftmaxCall& call) {
  std::vector<SoftmaxSequence> sequences(call.queries.size());
  int64_t longest = 0;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const Sequence& queries = call.queries[i];
    const Sequence& keys = call.keys[i];
    if (std::max(queries.length, keys.length) > kMaxTokens) {
      return absl::ResourceExhaustedError(
          absl::StrCat("given ", std::max(queries.length, keys.length),
                       " tokens in a sequence, expected at most ", kMaxTokens));
    }
    sequences[i] = {queries.row * call.q.dim(1) + queries.begin,
                    keys.row * call.k.dim(1) + keys.begin, queries.length, keys.length,
                    queries.row};
    longest = std::max(longest, queries.length);
  }
  if (longest == 0 || call.o.num_elements() == 0) return absl::OkStatus();
  const int64_t widest = std::max({call.q.dim(2) * call.q.dim(3), call.k.dim(2) * call.k.dim(3),
                                   call.v.dim(2) * call.v.dim(3)});
  if (widest > (int64_t{1} << 24)) {
    return absl::ResourceExhaustedError(
        absl::StrCat("given ", widest, " elements per token, expected at most ", int64_t{1} << 24));
  }
  const absl::StatusOr<Tensor> table =
      UploadTable<SoftmaxSequence>(backend, DType::kInt64, sequences);
  if (!table.ok()) return table.status();

  SoftmaxArguments a;
  a.q = call.q.raw();
  a.k = call.k.raw();
  a.v = call.v.raw();
  a.o = call.o.raw();
  a.lse = call.lse.defined() ? call.lse.data<float>() : nullptr;
  a.sinks = call.sinks.defined() ? call.sinks.data<float>() : nullptr;
  a.sequences = static_cast<const SoftmaxSequence*>(table->raw());
  a.query_tiles = static_cast<int>(CeilDiv(longest, int64_t{kSoftmaxQueries}));
  a.heads = static_cast<int>(call.q.dim(2));
  a.key_heads = static_cast<int>(call.k.dim(2));
  a.value_heads = static_cast<int>(call.v.dim(2));
  a.key_size = static_cast<int>(call.q.dim(3));
  a.value_size = static_cast<int>(call.v.dim(3));
  const double softcap = UsableSoftcap(call.softcap);
  a.score_scale = static_cast<float>(softcap > 0 ? call.scale / softcap : call.scale * kLog2E);
  a.softcap_scale = static_cast<float>(softcap * kLog2E);
  a.keys_aligned = Aligned(call.q) && Aligned(call.k);
  a.values_aligned = Aligned(call.v);
  a.mask = call.mask;

  const absl::StatusOr<unsigned> blocks =
      GridSize(static_cast<int64_t>(sequences.size()) * a.heads * a.query_tiles);
  if (!blocks.ok()) return blocks.status();
  return LaunchStatus("softmax core", Launch(call.q.dtype(), a, *blocks, StreamOf(backend)));
}

}  // namespace attnd::cuda
