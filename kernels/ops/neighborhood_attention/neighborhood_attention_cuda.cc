#include <algorithm>
#include <limits>
#include <vector>

#include "kernels/core/registry.h"
#include "kernels/cores/neighborhood.h"
#include "kernels/cores/softmax_cuda.h"
#include "kernels/cuda/launch.h"

namespace attnd {
namespace {

// For every coordinate of an axis, the first and the last that it reads.
void AddBounds(const NeighborhoodAxis& axis, std::vector<int32_t>& bounds) {
  for (int64_t x = 0; x < axis.length; ++x) {
    const int64_t group = x % axis.dilation;
    const NeighborhoodAxis::Range range = axis.Neighbours(group, x / axis.dilation);
    bounds.push_back(static_cast<int32_t>(group + range.begin * axis.dilation));
    bounds.push_back(static_cast<int32_t>(group + (range.end - 1) * axis.dilation));
  }
}

absl::Status Run(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  absl::StatusOr<Tensor> k = WithExtra(backend, call.input("k"), call.input("k_extra"));
  if (!k.ok()) return k.status();
  absl::StatusOr<Tensor> v = WithExtra(backend, call.input("v"), call.input("v_extra"));
  if (!v.ok()) return v.status();

  cuda::SoftmaxCall core;
  core.mask.kind = cuda::SoftmaxMask::Kind::kGrid;
  cuda::GridMask& grid = core.mask.grid;
  std::vector<int32_t> bounds;
  int unused = 0;
  for (const NeighborhoodAxis& axis : NeighborhoodAxes(call)) {
    grid.length[unused] = cuda::ClampToken(axis.length);
    grid.dilation[unused] = cuda::ClampToken(axis.dilation);
    AddBounds(axis, bounds);
    ++unused;
  }
  for (; unused < 3; ++unused) bounds.insert(bounds.end(), {0, 0});
  const absl::StatusOr<Tensor> table = cuda::UploadTable<int32_t>(backend, DType::kInt32, bounds);
  if (!table.ok()) return table.status();
  grid.bounds = table->data<int32_t>();

  std::vector<Sequence> queries, keys;
  for (int64_t row = 0; row < call.dim("B"); ++row) {
    queries.push_back(Sequence{row, 0, call.dim("N"), row});
    keys.push_back(Sequence{row, 0, k->dim(1), row});
  }
  core.q = call.input("q");
  core.k = *std::move(k);
  core.v = *std::move(v);
  core.o = *outputs.Find("o");
  if (const Tensor* lse = outputs.Find("lse")) core.lse = *lse;
  core.queries = queries;
  core.keys = keys;
  core.scale = call.real("scale");
  return cuda::Softmax(backend, core);
}

}  // namespace

void RegisterNeighborhoodAttentionCuda(Registry& registry);

void RegisterNeighborhoodAttentionCuda(Registry& registry) {
  registry.AddKernel("neighborhood_attention", {"flash_cuda", Device::kCuda,
                                                [](const BoundCall& call) {
                                                  return cuda::SoftmaxSupports(
                                                      call.dtype(), call.dim("K"), call.dim("V"));
                                                },
                                                Run});
}

}  // namespace attnd
