// Time of every operator's kernels beside its composed definition, in one run: <op>/.../<T>, the
// kernel that ran as label. Rates are tokens a second. --device=cpu (the default) or cuda; on a GPU
// one size for all operators, tensors in its memory, every run waited for. The CPU's shapes are
// those of the papers' figures; `--benchmark_filter=gla` narrows.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "kernels/core/evaluate.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/core/staged_call.h"
#include "kernels/primitives/cpu/cpu_backend.h"
#include "kernels/primitives/cuda_module.h"

namespace attnd {
namespace {

struct Subject {
  std::string op;
  Named<int64_t> dims;
  Attributes attributes;
  std::vector<int64_t> lengths;          // Of the fused kernel.
  std::vector<int64_t> composed;         // Those where the composed definition is bearable too.
  std::vector<std::string> inputs = {};  // Optional ones that are given.
};

Named<int64_t> Dims4(int64_t heads, int64_t size) {
  Named<int64_t> dims;
  dims.Set("B", 1);
  for (const char* symbol : {"H", "HK", "HV", "HG", "HB"}) dims.Set(symbol, heads);
  for (const char* symbol : {"K", "V"}) dims.Set(symbol, size);
  return dims;
}

Named<int64_t> Sizes(std::initializer_list<std::pair<const char*, int64_t>> sizes) {
  Named<int64_t> dims;
  dims.Set("B", 1);
  for (const auto& [symbol, size] : sizes) dims.Set(symbol, size);
  return dims;
}

Attributes With(absl::string_view name, AttrValue value) {
  Attributes attributes;
  attributes.Set(name, std::move(value));
  return attributes;
}

std::vector<Subject> CpuSubjects() {
  const std::vector<int64_t> sweep = {1024, 4096, 16384, 65536};
  std::vector<Subject> subjects;
  for (const char* op : {"gla", "gated_delta_rule", "kda", "delta_rule", "retention",
                         "lightning_attention", "linear_attention"}) {
    subjects.push_back({op, Dims4(4, 128), {}, sweep, {4096}});
  }
  for (bool causal : {false, true}) {
    subjects.push_back(
        {"softmax_attention", Dims4(8, 64), With("causal", causal), {1024, 2048, 4096}, {2048}});
    subjects.push_back({"softmax_attention", Dims4(4, 128), With("causal", causal), {4096}, {}});
  }
  subjects.push_back({"mala", Dims4(4, 64), {}, {4096, 16384}, {4096}});
  subjects.push_back({"flow_attention", Dims4(4, 64), {}, {4096, 16384}, {4096}});
  subjects.push_back({"flow_attention", Dims4(4, 64), With("causal", true), {4096, 16384}, {4096}});
  subjects.push_back({"hgrn2", Dims4(4, 128), {}, sweep, {4096}});
  subjects.push_back(
      {"based", Sizes({{"H", 4}, {"HK", 4}, {"HV", 4}, {"K", 16}, {"V", 64}}), {}, sweep, {1024}});
  // Heads of Mamba-2, and of Kimi Linear's latent attention: a prompt, and one token behind a
  // cache.
  subjects.push_back(
      {"ssd", Sizes({{"H", 8}, {"G", 1}, {"N", 128}, {"P", 64}}), {}, sweep, {4096}});
  const auto mla = [](int64_t cached) {
    return Sizes({{"H", 8}, {"D", 192}, {"E", 256}, {"R", 512}, {"Dr", 64}, {"S0", cached}});
  };
  subjects.push_back({"mla", mla(0), {}, {1024, 2048}, {1024}});
  subjects.push_back({"mla", mla(4096), {}, {1, 16}, {}, {"initial_state_c"}});
  return subjects;
}

// Every operator at one size.
std::vector<Subject> GpuSubjects() {
  constexpr int64_t kTokens = 8192;
  std::vector<Subject> subjects;
  const auto add = [&](const char* op, Attributes attributes) -> Subject& {
    subjects.push_back({op, Dims4(16, 128), std::move(attributes), {kTokens}, {kTokens}});
    return subjects.back();
  };
  for (const char* op : {"gla", "gated_delta_rule", "kda", "delta_rule", "retention",
                         "lightning_attention", "hgrn2"}) {
    add(op, {});
  }
  for (bool causal : {false, true}) {
    for (const char* op : {"softmax_attention", "linear_attention", "flow_attention"}) {
      add(op, With("causal", causal));
    }
  }
  add("mala", {});
  Attributes grid = With("window", std::vector<int64_t>{13, 13});
  grid.Set("height", int64_t{64});
  grid.Set("width", int64_t{128});
  add("neighborhood_attention", grid).dims.Set("N", kTokens);
  Subject& blocks = add("block_sparse_attention", With("causal", true));
  blocks.inputs = {"block_indices"};
  for (const auto& [symbol, size] : {std::pair{"BM", 1}, {"NK", 16}}) blocks.dims.Set(symbol, size);
  Subject& conv = add("short_conv", {});
  conv.dims.Set("D", 2048);
  conv.dims.Set("W", 4);
  const auto add_sized = [&](const char* op,
                             std::initializer_list<std::pair<const char*, int64_t>> sizes) {
    subjects.push_back({op, Sizes(sizes), {}, {kTokens}, {kTokens}});
  };
  add_sized("based", {{"H", 16}, {"HK", 16}, {"HV", 16}, {"K", 16}, {"V", 128}});
  add_sized("ssd", {{"H", 32}, {"G", 1}, {"N", 128}, {"P", 64}});
  add_sized("mla", {{"H", 16}, {"D", 192}, {"E", 256}, {"R", 512}, {"Dr", 64}, {"S0", 0}});
  return subjects;
}

void Time(benchmark::State& state, const Operator& op, Backend& backend, const CallRequest& request,
          int64_t tokens) {
  const auto fail = [&state](const absl::Status& status) {
    state.SkipWithError(std::string(status.message()).c_str());
  };
  const absl::StatusOr<BoundCall> call = BindAndCheck(op, request);
  if (!call.ok()) return fail(call.status());
  const absl::StatusOr<StagedCall> staged = StagedCall::Create(op, backend, *call, request.kernel);
  if (!staged.ok()) return fail(staged.status());
  const auto run = [&] {
    const absl::Status status = staged->Run();
    return status.ok() ? backend.Synchronize() : status;
  };
  if (backend.device() != Device::kCpu) {
    // The first run loads kernels and takes memory that later ones find kept.
    if (absl::Status s = run(); !s.ok()) return fail(s);
  }
  for (auto step : state) {
    if (absl::Status s = run(); !s.ok()) return fail(s);
  }
  state.SetLabel(staged->kernel() != nullptr ? staged->kernel()->name : "composed");
  state.counters["tokens"] =
      benchmark::Counter(static_cast<double>(tokens) * static_cast<double>(state.iterations()),
                         benchmark::Counter::kIsRate);
}

RandomOptions OptionsOf(const Subject& subject, DType dtype, int64_t length) {
  RandomOptions options;
  options.seed = 1;
  options.dtype = dtype;
  options.dims = subject.dims;
  options.attributes = subject.attributes;
  options.optional_inputs = 0;
  options.with = {"beta", "k_rope"};
  options.with.insert(options.with.end(), subject.inputs.begin(), subject.inputs.end());
  for (const char* symbol : {"T", "S"}) options.dims.Set(symbol, length);
  return options;
}

// The inputs that were drawn last: drawing takes longer than many a benchmark, and those of one
// operator, type and length follow one another.
struct Drawn {
  std::string of;
  absl::StatusOr<CallRequest> request;
};

void Register(const Registry& registry, Backend& backend) {
  const bool gpu = backend.device() != Device::kCpu;
  const std::vector<DType> types = gpu ? std::vector<DType>{DType::kBFloat16, DType::kFloat32}
                                       : std::vector<DType>{DType::kFloat32};
  const auto drawn = std::make_shared<Drawn>();
  for (const Subject& subject : gpu ? GpuSubjects() : CpuSubjects()) {
    const Operator& op = **registry.Find(subject.op);
    const auto add = [&](const std::string& kernel, DType dtype, int64_t length) {
      std::string name = absl::StrCat(subject.op, "/H", *subject.dims.Find("H"));
      for (const char* symbol : {"K", "N", "R", "S0"}) {
        const int64_t* size = subject.dims.Find(symbol);
        if (size != nullptr) absl::StrAppend(&name, "x", symbol, *size);
      }
      for (const auto& [attribute, value] : subject.attributes)
        absl::StrAppend(&name, "/", attribute, "=", ToString(value));
      if (gpu) absl::StrAppend(&name, "/", Name(dtype));
      const std::string inputs = absl::StrCat(name, "/", length);
      absl::StrAppend(&name, "/", kernel, "/", length);
      auto* added = benchmark::RegisterBenchmark(
          name.c_str(), [&op, &backend, options = OptionsOf(subject, dtype, length), kernel, length,
                         inputs, drawn](benchmark::State& state) {
            if (drawn->of != inputs) *drawn = {inputs, RandomCall(op, options)};
            if (!drawn->request.ok()) {
              state.SkipWithError(std::string(drawn->request.status().message()).c_str());
              return;
            }
            drawn->request->kernel = kernel;
            Time(state, op, backend, *drawn->request, length);
          });
      added->Unit(benchmark::kMillisecond)->UseRealTime();
      if (gpu) added->Iterations(kernel.empty() ? 30 : 1);
    };
    for (int64_t length : subject.lengths) {
      for (DType dtype : types) {
        add("", dtype, length);
        const bool composed = std::count(subject.composed.begin(), subject.composed.end(), length);
        if (composed && dtype == types[0]) add("composed", dtype, length);
      }
    }
  }
}

absl::StatusOr<std::unique_ptr<Backend>> BackendFor(const std::string& device, Registry& registry) {
  if (device == "cpu") return CreateCpuBackend();
  if (device == "cuda") return CreateCudaBackend({}, registry);
  return absl::InvalidArgumentError(
      absl::StrCat("--device: given ", device, ", expected cpu or cuda"));
}

}  // namespace
}  // namespace attnd

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  std::string device = "cpu";
  for (int i = 1; i < argc; ++i) {
    absl::string_view argument = argv[i];
    if (!absl::ConsumePrefix(&argument, "--device=")) {
      std::fprintf(stderr, "given %s, expected --device=cpu|cuda or --benchmark_...\n", argv[i]);
      return 2;
    }
    device = std::string(argument);
  }
  attnd::Registry registry;
  attnd::RegisterAllOperators(registry);
  const absl::StatusOr<std::unique_ptr<attnd::Backend>> backend =
      attnd::BackendFor(device, registry);
  if (!backend.ok()) {
    std::fprintf(stderr, "%s\n", std::string(backend.status().message()).c_str());
    return 1;
  }
  std::printf("%s\n", (*backend)->name().c_str());
  attnd::Register(registry, **backend);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
