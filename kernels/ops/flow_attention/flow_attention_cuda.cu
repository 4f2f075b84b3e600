// The weights of tokens first (flow_kernels.cuh), then a linear core does the sums over values.
#include <algorithm>
#include <vector>

#include "kernels/core/registry.h"
#include "kernels/cores/linear_global_cuda.h"
#include "kernels/cores/recurrent_cuda.h"
#include "kernels/cuda/launch.h"
#include "kernels/ops/flow_attention/flow_kernels.cuh"

namespace attnd::cuda::flow {
namespace {

// The stages of one call, queued in order. The first failure stops all that follow.
class Flow {
 public:
  Flow(Backend& backend, const BoundCall& call, const NamedTensors& outputs)
      : backend_(backend), call_(call), outputs_(outputs) {
    a_.map = map();
    a_.causal = call.flag("causal");
    a_.heads = static_cast<int>(call.dim("H"));
    a_.key_size = static_cast<int>(call.dim("K"));
    a_.eps = call.real("eps");
    a_.clamp = call.real("clamp");
    a_.ratio = a_.causal || call.dim("S") == 0
                   ? 1
                   : static_cast<double>(call.dim("T")) / static_cast<double>(call.dim("S"));
    a_.count = nullptr;
    if (const Tensor& count = call.input("initial_state_count"); count.defined()) {
      a_.count = count.data<int64_t>();
    }
    AddSide(kQueries, "q");
    AddSide(kKeys, "k");
    a_.exp_sums = Doubles({a_.sides[kKeys].n_chunks, a_.heads});
  }

  FeatureMap map() const {
    return call_.choice("feature_map") == "relu" ? FeatureMap::kReluEps : FeatureMap::kSigmoid;
  }
  // Causal: alloc I/n and exp(source); otherwise alloc I and comp. [B,H,N]
  const Tensor& weight(int side) const { return weights_[side]; }

  absl::Status Weigh() {
    Launch<0>();
    AddUp(0, "q", "k");
    Launch<1>();
    AddUp(1, "qi", "ko");
    Launch<2>();
    if (a_.causal) {
      AddUpExponentials();
    } else if (status_.ok()) {
      const absl::StatusOr<unsigned> blocks = GridSize(call_.dim("B") * a_.heads);
      if (!blocks.ok()) return blocks.status();
      CompeteKernel<<<*blocks, kThreads, 0, StreamOf(backend_)>>>(a_.sides[kKeys].weight,
                                                                  call_.dim("S"));
      Keep(LaunchStatus("flow_attention: competition"));
    }
    return status_;
  }

  // After Weigh, causal.
  absl::Status MakeSources(const Tensor& q, const Tensor& k, const Tensor& v) {
    const Sources out = {Elements(call_.input("v")), q.data<float>(), k.data<float>(),
                         v.data<float>(), static_cast<int>(call_.dim("V"))};
    const dim3 grid = Grid(CeilDiv(a_.sides[kKeys].n_chunks * a_.heads, int64_t{kWarps}), 1);
    if (!status_.ok() || grid.x == 0) return status_;
    SourceKernel<<<grid, kThreads, 0, StreamOf(backend_)>>>(a_, out);
    return LaunchStatus("flow_attention: sources");
  }

 private:
  void Keep(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
  }

  Tensor Allocate(DType dtype, Dims shape) {
    if (!status_.ok()) return {};
    absl::StatusOr<Tensor> tensor = backend_.Allocate(dtype, std::move(shape));
    if (!tensor.ok()) {
      status_ = tensor.status();
      return {};
    }
    held_.push_back(*tensor);
    return *std::move(tensor);
  }

  double* Doubles(Dims shape) {
    const Tensor tensor = Allocate(DType::kFloat64, std::move(shape));
    return tensor.defined() ? tensor.data<double>() : nullptr;
  }

  template <typename T>
  const T* Table(const std::vector<T>& entries) {
    if (!status_.ok() || entries.empty()) return nullptr;
    absl::StatusOr<Tensor> table = UploadTable<T>(backend_, DType::kInt64, entries);
    if (!table.ok()) {
      status_ = table.status();
      return nullptr;
    }
    held_.push_back(*table);
    return static_cast<const T*>(table->raw());
  }

  void AddSide(int index, absl::string_view name) {
    const Tensor& x = call_.input(name);
    std::vector<Chunk> chunks;
    std::vector<Run> runs;
    for (const Sequence& sequence : call_.sequences()) {
      const int64_t tokens = a_.causal ? sequence.length : x.dim(1);
      const auto run = static_cast<int64_t>(runs.size());
      runs.push_back({static_cast<int64_t>(chunks.size()), CeilDiv(tokens, int64_t{kChunk}),
                      sequence.state, tokens});
      for (int64_t t = 0; t < tokens; t += kChunk) {
        chunks.push_back(
            {sequence.row, sequence.begin + t, std::min<int64_t>(kChunk, tokens - t), t, run});
      }
    }
    Side& side = a_.sides[index];
    side.x = Elements(x);
    side.tokens = x.dim(1);
    side.n_chunks = static_cast<int64_t>(chunks.size());
    n_runs_ = static_cast<int64_t>(runs.size());
    side.chunks = Table(chunks);
    side.runs = Table(runs);
    for (double*& sums : side.sums) sums = Doubles({side.n_chunks, a_.heads, a_.key_size});
    const Dims per_token = {x.dim(0), a_.heads, x.dim(1)};
    if (const Tensor flow = Allocate(DType::kFloat32, per_token); flow.defined()) {
      side.flow = flow.data<float>();
    }
    weights_[index] = Allocate(DType::kFloat32, per_token);
    if (weights_[index].defined()) side.weight = weights_[index].data<float>();
  }

  dim3 Grid(int64_t blocks, unsigned sides) {
    const absl::StatusOr<unsigned> size = GridSize(blocks);
    if (!size.ok()) Keep(size.status());
    return dim3(size.ok() ? *size : 0, sides);
  }

  template <int kStage>
  void Launch() {
    const int64_t chunks = std::max(a_.sides[kQueries].n_chunks, a_.sides[kKeys].n_chunks);
    const dim3 grid = Grid(CeilDiv(chunks * a_.heads, int64_t{kWarps}), 2);
    if (!status_.ok() || grid.x == 0) return;
    FlowKernel<kStage><<<grid, kThreads, 0, StreamOf(backend_)>>>(a_);
    Keep(LaunchStatus("flow_attention: sums"));
  }

  // The scan of a state named initial_state_<name>, final_state_<name>.
  Scan ScanOf(double* sums, absl::string_view name) const {
    const Tensor& initial = call_.input(absl::StrCat("initial_state_", name));
    const Tensor* final_sums = outputs_.Find(absl::StrCat("final_state_", name));
    return {sums, initial.defined() ? initial.data<float>() : nullptr,
            final_sums != nullptr ? final_sums->data<float>() : nullptr};
  }

  void AddUp(int stage, absl::string_view query_name, absl::string_view key_name) {
    LaunchScan(ScanOf(a_.sides[kQueries].sums[stage], query_name),
               ScanOf(a_.sides[kKeys].sums[stage], key_name), int64_t{a_.heads} * a_.key_size, 2);
  }

  void AddUpExponentials() {
    // One side only: the first of the kernel's two.
    const Scan scan = ScanOf(a_.exp_sums, "exp");
    LaunchScan(scan, scan, a_.heads, 1);
    const dim3 grid = Grid(CeilDiv(n_runs_, int64_t{kThreads}), 1);
    if (!status_.ok() || grid.x == 0) return;
    CountKernel<<<grid, kThreads, 0, StreamOf(backend_)>>>(
        a_.count, a_.sides[kKeys].runs, n_runs_,
        outputs_.Find("final_state_count")->data<int64_t>());
    Keep(LaunchStatus("flow_attention: counts"));
  }

  void LaunchScan(const Scan& queries, const Scan& keys, int64_t width, unsigned sides) {
    const dim3 grid = Grid(CeilDiv(n_runs_ * width, int64_t{kThreads}), sides);
    if (!status_.ok() || grid.x == 0) return;
    ScanKernel<<<grid, kThreads, 0, StreamOf(backend_)>>>(
        queries, keys, a_.sides[kQueries].runs, a_.sides[kKeys].runs, n_runs_, width, a_.causal);
    Keep(LaunchStatus("flow_attention: scan"));
  }

  Backend& backend_;
  const BoundCall& call_;
  const NamedTensors& outputs_;
  Arguments a_ = {};
  int64_t n_runs_ = 0;
  Tensor weights_[2];
  std::vector<Tensor> held_;
  absl::Status status_;
};

absl::Status RunNormal(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  if (outputs.Find("o")->num_elements() == 0) return absl::OkStatus();
  Flow flow(backend, call, outputs);
  if (absl::Status s = flow.Weigh(); !s.ok()) return s;
  LinearGlobalCall core;
  core.q = call.input("q");
  core.k = call.input("k");
  core.v = call.input("v");
  core.o = *outputs.Find("o");
  core.feature_map = flow.map();
  core.key_weight = flow.weight(kKeys);
  core.query_weight = flow.weight(kQueries);
  core.readout = LinearReadout::kWeight;
  return LinearGlobal(backend, core);
}

absl::Status RunCausal(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  Flow flow(backend, call, outputs);
  if (absl::Status s = flow.Weigh(); !s.ok()) return s;
  const Dims features = call.input("q").shape();
  RecurrentCall core;
  for (Tensor* tensor : {&core.q, &core.k, &core.v}) {
    absl::StatusOr<Tensor> allocated =
        backend.Allocate(DType::kFloat32, tensor == &core.v ? call.input("v").shape() : features);
    if (!allocated.ok()) return allocated.status();
    *tensor = *std::move(allocated);
  }
  if (absl::Status s = flow.MakeSources(core.q, core.k, core.v); !s.ok()) return s;
  core.o = *outputs.Find("o");
  core.sequences = call.sequences();
  core.initial_state = call.input("initial_state");
  core.final_state = *outputs.Find("final_state");
  return Recurrent(backend, core);
}

}  // namespace
}  // namespace attnd::cuda::flow

namespace attnd {

void RegisterFlowAttentionCuda(Registry& registry);

void RegisterFlowAttentionCuda(Registry& registry) {
  registry.AddKernel("flow_attention", {"global_cuda", Device::kCuda,
                                        [](const BoundCall& call) {
                                          return !call.flag("causal") &&
                                                 call.dim("K") <= cuda::flow::kMaxKeySize &&
                                                 call.dim("V") <= cuda::kMaxLinearGlobalHeadSize;
                                        },
                                        cuda::flow::RunNormal});
  registry.AddKernel("flow_attention", {"chunk_cuda", Device::kCuda,
                                        [](const BoundCall& call) {
                                          return call.flag("causal") &&
                                                 call.dim("K") <= cuda::flow::kMaxKeySize &&
                                                 cuda::FitsRecurrent({call.dim("K"), Decay::kNone});
                                        },
                                        cuda::flow::RunCausal});
}

}  // namespace attnd
