#include <algorithm>
#include <vector>

#include "kernels/core/registry.h"
#include "kernels/cores/block_lists.h"
#include "kernels/cores/softmax_cuda.h"
#include "kernels/cuda/launch.h"

namespace attnd {
namespace {

constexpr int kThreads = 256;

// listed[list, indices[list, i]] = true for the entries that count; the others are negative. Zeros
// before.
__global__ void SpreadListsKernel(const int64_t* indices, const int64_t* counts, int64_t lists,
                                  int64_t slots, int64_t key_blocks, bool* listed) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= lists * slots) return;
  const int64_t list = i / slots;
  if (counts != nullptr && i % slots >= counts[list]) return;
  if (indices[i] >= 0) listed[list * key_blocks + indices[i]] = true;
}

// The lists as bool [BM,HB,MB,NB].
absl::StatusOr<Tensor> Lists(Backend& backend, const BoundCall& call) {
  if (call.has("block_mask")) return call.input("block_mask");
  const Tensor& indices = call.input("block_indices");
  const Tensor& counts = call.input("block_counts");
  absl::StatusOr<Tensor> listed = backend.Allocate(
      DType::kBool, {indices.dim(0), indices.dim(1), indices.dim(2), KeyBlocks(call)});
  if (!listed.ok()) return listed;
  backend.Fill(0, *listed);
  if (indices.num_elements() == 0) return listed;
  const absl::StatusOr<unsigned> blocks =
      cuda::GridSize(cuda::CeilDiv(indices.num_elements(), int64_t{kThreads}));
  if (!blocks.ok()) return blocks.status();
  SpreadListsKernel<<<*blocks, kThreads, 0, cuda::StreamOf(backend)>>>(
      indices.data<int64_t>(), counts.defined() ? counts.data<int64_t>() : nullptr,
      indices.num_elements() / indices.dim(3), indices.dim(3), listed->dim(3),
      listed->data<bool>());
  if (absl::Status s = cuda::LaunchStatus("block_sparse_attention: lists"); !s.ok()) return s;
  return listed;
}

absl::Status Run(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  const absl::StatusOr<Tensor> lists = Lists(backend, call);
  if (!lists.ok()) return lists.status();
  std::vector<Sequence> keys = call.sequences();
  if (!call.packed()) {
    for (Sequence& sequence : keys) sequence.length = call.dim("S");
  }
  cuda::SoftmaxCall core;
  core.q = call.input("q");
  core.k = call.input("k");
  core.v = call.input("v");
  core.o = *outputs.Find("o");
  if (const Tensor* lse = outputs.Find("lse")) core.lse = *lse;
  core.queries = call.sequences();
  core.keys = keys;
  core.scale = call.real("scale");
  core.mask.kind = cuda::SoftmaxMask::Kind::kBlocks;
  cuda::BlockMask& blocks = core.mask.blocks;
  blocks.listed = lists->data<bool>();
  blocks.list_batches = lists->dim(0);
  blocks.list_heads = static_cast<int>(lists->dim(1));
  blocks.query_blocks = lists->dim(2);
  blocks.key_blocks = lists->dim(3);
  blocks.block_size_q = cuda::ClampToken(call.integer("block_size_q"));
  blocks.block_size_k = cuda::ClampToken(call.integer("block_size_k"));
  blocks.causal = call.flag("causal");
  blocks.sink = cuda::ClampToken(call.integer("sink"));
  blocks.window = cuda::ClampToken(call.integer("window"));
  return cuda::Softmax(backend, core);
}

}  // namespace

void RegisterBlockSparseAttentionCuda(Registry& registry);

void RegisterBlockSparseAttentionCuda(Registry& registry) {
  registry.AddKernel("block_sparse_attention", {"flash_cuda", Device::kCuda,
                                                [](const BoundCall& call) {
                                                  return cuda::SoftmaxSupports(
                                                      call.dtype(), call.dim("K"), call.dim("V"));
                                                },
                                                Run});
}

}  // namespace attnd
