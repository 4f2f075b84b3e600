// Time of every operator's CPU kernels beside its composed definition, in one run:
// <op>/<kernel>/<T>. Rates are tokens a second. The shapes are those of the papers' figures;
// `--benchmark_filter=gla` narrows.
#include <benchmark/benchmark.h>

#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/evaluate.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/primitives/cpu/cpu_backend.h"

namespace attnd {
namespace {

struct Subject {
  std::string op;
  Named<int64_t> dims;
  Attributes attributes;
  std::vector<int64_t> lengths;   // Of the fused kernel.
  std::vector<int64_t> composed;  // Of the composed definition, where it is bearable.
};

Named<int64_t> Dims4(int64_t heads, int64_t size) {
  Named<int64_t> dims;
  dims.Set("B", 1);
  for (const char* symbol : {"H", "HK", "HV", "HG", "HB"}) dims.Set(symbol, heads);
  for (const char* symbol : {"K", "V"}) dims.Set(symbol, size);
  return dims;
}

Attributes With(absl::string_view name, AttrValue value) {
  Attributes attributes;
  attributes.Set(name, std::move(value));
  return attributes;
}

std::vector<Subject> Subjects() {
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
  return subjects;
}

void Time(benchmark::State& state, const Operator& op, Backend& backend, const CallRequest& request,
          int64_t tokens) {
  const absl::StatusOr<BoundCall> call = BindAndCheck(op, request);
  if (!call.ok()) {
    state.SkipWithError(std::string(call.status().message()).c_str());
    return;
  }
  for (auto step : state) {
    absl::StatusOr<Evaluation> result = EvaluateBound(op, backend, *call, request.kernel);
    if (!result.ok()) {
      state.SkipWithError(std::string(result.status().message()).c_str());
      return;
    }
    benchmark::DoNotOptimize(result->outputs);
  }
  state.counters["tokens"] =
      benchmark::Counter(static_cast<double>(tokens) * static_cast<double>(state.iterations()),
                         benchmark::Counter::kIsRate);
}

void Register(const Registry& registry, Backend& backend) {
  for (const Subject& subject : Subjects()) {
    const Operator& op = **registry.Find(subject.op);
    const auto add = [&](const std::string& kernel, int64_t length) {
      RandomOptions options;
      options.seed = 1;
      options.dims = subject.dims;
      options.attributes = subject.attributes;
      options.optional_inputs = 0;
      options.with = {"beta"};
      options.dims.Set("T", length);
      options.dims.Set("S", length);
      std::string name =
          absl::StrCat(subject.op, "/H", *subject.dims.Find("H"), "xK", *subject.dims.Find("K"));
      for (const auto& [attribute, value] : subject.attributes)
        absl::StrAppend(&name, "/", attribute, "=", ToString(value));
      absl::StrAppend(&name, "/", kernel, "/", length);
      benchmark::RegisterBenchmark(
          name.c_str(),
          [&op, &backend, options, kernel, length](benchmark::State& state) {
            absl::StatusOr<CallRequest> request = RandomCall(op, options);
            if (!request.ok()) {
              state.SkipWithError(std::string(request.status().message()).c_str());
              return;
            }
            request->kernel = kernel;
            Time(state, op, backend, *request, length);
          })
          ->Unit(benchmark::kMillisecond)
          ->UseRealTime();
    };
    for (int64_t length : subject.lengths) add("", length);
    for (int64_t length : subject.composed) add("composed", length);
  }
}

}  // namespace
}  // namespace attnd

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  attnd::Registry registry;
  attnd::RegisterAllOperators(registry);
  const std::unique_ptr<attnd::Backend> backend = attnd::CreateCpuBackend();
  std::printf("%s\n", backend->name().c_str());
  attnd::Register(registry, *backend);
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
