#include "kernels/cores/recurrent_sm90.h"

#include <algorithm>
#include <limits>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/cores/recurrent_sm90_params.cuh"
#include "kernels/cuda/hopper/tensor_map.h"
#include "kernels/cuda/launch.h"

namespace attnd::cuda {
namespace {

// Up to so many units, each walk combines the sums of those before it; more are chained apart.
constexpr int kLongestChainInWalk = 8;

bool DeviceIsHopper() {
  int device = 0, major = 0, minor = 0;
  return cudaGetDevice(&device) == cudaSuccess &&
         cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
         cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess &&
         major == 9 && minor == 0;
}

int GroupOf(const RecurrentCall& call, const Tensor& tensor) {
  return static_cast<int>(call.o.dim(2) / tensor.dim(2));
}

cudaError_t EncodeTiles(const Tensor& x, CUtensorMap* map) {
  return hopper::EncodeHeadTiles(
      {x.raw(), x.dtype() == DType::kBFloat16, x.dim(0), x.dim(1), x.dim(2), x.dim(3)}, kSm90Chunk,
      map);
}

// Every sequence is one span and a row of its own: the blocks need no table.
bool IsWhole(const RecurrentCall& call, const Sm90Plan& plan) {
  return plan.chains.empty() && static_cast<int64_t>(call.sequences.size()) == call.o.dim(0) &&
         std::all_of(call.sequences.begin(), call.sequences.end(), [&](const Sequence& sequence) {
           return sequence.begin == 0 && sequence.length == call.o.dim(1) &&
                  sequence.row == sequence.state;
         });
}

// Tables and sums of one call in the device's memory, given back in stream order.
struct Workspace {
  Tensor spans, summed, chains, sums, states, decays;
};

absl::Status UploadPlan(Backend& backend, const Sm90Plan& plan, Workspace& workspace,
                        Sm90Params& p) {
  const auto upload = [&backend](const auto& entries, Tensor& to) -> absl::Status {
    if (entries.empty()) return absl::OkStatus();
    using Entry = typename std::decay_t<decltype(entries)>::value_type;
    absl::StatusOr<Tensor> table =
        UploadTable<Entry>(backend, DType::kInt32, absl::MakeConstSpan(entries));
    if (!table.ok()) return table.status();
    to = *std::move(table);
    return absl::OkStatus();
  };
  if (absl::Status s = upload(plan.spans, workspace.spans); !s.ok()) return s;
  if (absl::Status s = upload(plan.summed, workspace.summed); !s.ok()) return s;
  if (absl::Status s = upload(plan.chains, workspace.chains); !s.ok()) return s;
  p.spans = static_cast<const Sm90Span*>(workspace.spans.raw());
  if (plan.chains.empty()) return absl::OkStatus();
  p.summed = static_cast<const int*>(workspace.summed.raw());
  p.chains = static_cast<const Sm90Chain*>(workspace.chains.raw());

  p.chains_apart = plan.longest_chain > kLongestChainInWalk;
  const int64_t blocks = int64_t{plan.slots} * p.heads, elements = blocks * p.K * p.V;
  const auto floats = [&backend](int64_t count, Tensor& tensor) -> absl::Status {
    absl::StatusOr<Tensor> memory = backend.Allocate(DType::kFloat32, {count});
    if (!memory.ok()) return memory.status();
    tensor = *std::move(memory);
    return absl::OkStatus();
  };
  if (absl::Status s = floats(elements, workspace.sums); !s.ok()) return s;
  if (absl::Status s = floats(blocks, workspace.decays); !s.ok()) return s;
  p.unit_sums = workspace.sums.data<float>();
  p.unit_decays = workspace.decays.data<float>();
  if (!p.chains_apart) return absl::OkStatus();
  if (absl::Status s = floats(elements, workspace.states); !s.ok()) return s;
  p.unit_states = workspace.states.data<float>();
  return absl::OkStatus();
}

}  // namespace

bool FitsRecurrentSm90(DType dtype, int64_t key_size, int64_t value_size) {
  return (dtype == DType::kFloat16 || dtype == DType::kBFloat16) &&
         (key_size == 64 || key_size == 128) && value_size % 64 == 0 && value_size >= 64 &&
         value_size <= 256;
}

absl::Status RecurrentSm90(Backend& any_backend, const RecurrentCall& call) {
  auto& backend = static_cast<CudaBackend&>(any_backend);
  if (call.sequences.empty()) return absl::OkStatus();
  const int64_t heads = call.o.dim(2), tokens = call.o.dim(1), V = call.v.dim(3);
  Sm90Params p = {};
  p.K = static_cast<int>(call.q.dim(3));
  p.V = static_cast<int>(V);
  p.slice = V % 128 == 0 ? 128 : 64;
  p.heads = static_cast<int>(heads);
  p.tokens = tokens;
  p.group_q = GroupOf(call, call.q);
  p.group_k = GroupOf(call, call.k);
  p.group_v = GroupOf(call, call.v);
  p.scale = static_cast<float>(call.scale);
  if (call.decay != Decay::kNone) {
    p.g = call.g.data<float>();
    p.per_token = call.decay == Decay::kScalar;
    p.gate_heads = p.per_token ? static_cast<int>(call.g.dim(2)) : p.heads;
  }
  p.initial_state = call.initial_state.defined() ? call.initial_state.data<float>() : nullptr;
  p.final_state = call.final_state.data<float>();
  p.o = call.o.raw();

  const int64_t columns = heads * (V / p.slice);
  if (tokens > std::numeric_limits<int32_t>::max()) {
    return absl::ResourceExhaustedError(
        absl::StrCat("given ", tokens, " tokens, expected at most 2147483647 in one launch"));
  }
  const Sm90Plan plan = PlanSm90(call.sequences, columns, backend.multiprocessors());
  // ChainUnits has most blocks: up to 16 for each column of a sequence.
  constexpr int64_t kBlocksPerColumn = 16;
  const auto spans = static_cast<int64_t>(plan.spans.size());
  if (absl::StatusOr<unsigned> size = GridSize(spans * columns * kBlocksPerColumn); !size.ok()) {
    return size.status();
  }
  p.whole = IsWhole(call, plan);
  p.unit = plan.spans.front().unit;
  p.span_count = static_cast<int>(spans);
  p.summed_count = static_cast<int>(plan.summed.size());
  p.chain_count = static_cast<int>(plan.chains.size());
  Workspace workspace;
  if (!p.whole) {
    if (absl::Status s = UploadPlan(backend, plan, workspace, p); !s.ok()) return s;
  }

  Sm90Maps maps;
  for (const auto& [tensor, map] : {std::pair(&call.q, &maps.q), std::pair(&call.k, &maps.k),
                                    std::pair(&call.v, &maps.v), std::pair(&call.o, &maps.o)}) {
    if (absl::Status s = LaunchStatus("tensor map", EncodeTiles(*tensor, map)); !s.ok()) return s;
  }
  const auto launch = call.o.dtype() == DType::kBFloat16 ? LaunchSm90Bfloat16 : LaunchSm90Float16;
  return LaunchStatus("chunk_sm90", launch(backend.stream(), maps, p));
}

void AddRecurrentSm90(Registry& registry, absl::string_view op,
                      std::function<bool(const BoundCall&)> supports, KernelBody run) {
  if (!DeviceIsHopper()) return;
  Kernel kernel;
  kernel.name = "chunk_sm90";
  kernel.device = Device::kCuda;
  kernel.supports = [supports = std::move(supports)](const BoundCall& call) {
    return FitsRecurrentSm90(call.dtype(), call.dim("K"), call.dim("V")) && supports(call);
  };
  kernel.run = std::move(run);
  kernel.example.dtype = DType::kBFloat16;
  kernel.example.sizes.Set("K", {128, 64});
  kernel.example.sizes.Set("V", {128, 64, 256});
  registry.AddKernel(op, std::move(kernel));
}

}  // namespace attnd::cuda
