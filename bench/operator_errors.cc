// The worst error of every operator against its float64 definition over random calls, for each type
// and kernel: a table of Markdown on the standard output. Ends with 1 if anything was beyond its
// tolerance, differed where it was not finite, or did not repeat its bits.
//
//   operator_errors [--device=cpu|cuda] [--cases=100] [--seed=N] [--filter=text]
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "kernels/core/numerics.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/primitives/cpu/cpu_backend.h"
#include "kernels/primitives/cuda_module.h"

namespace attnd {
namespace {

struct Options {
  std::string device = "cpu";
  int cases = 100;
  uint64_t seed = std::random_device()();
  std::string filter;
};

struct Worst {
  int calls = 0;
  double error = 0;
  std::string where;  // Output and seed of the worst.
  std::string fault;  // The first that is no rounding.
};

constexpr uint64_t kSeedStep = 7919;

class Table {
 public:
  Table(Backend& backend, Backend& cpu, const Options& options)
      : backend_(backend), cpu_(cpu), options_(options) {}

  // A line for each kernel that a type's random calls were given to.
  absl::Status Add(const Operator& op) {
    for (const DType dtype :
         {DType::kFloat32, DType::kFloat16, DType::kBFloat16, DType::kFloat64}) {
      if (dtype == DType::kFloat64 && backend_.device() != Device::kCpu) continue;
      std::map<std::string, Worst> kernels;
      for (int i = 0; i < options_.cases; ++i) {
        RandomOptions random;
        random.seed = options_.seed + kSeedStep * static_cast<uint64_t>(i);
        random.dtype = dtype;
        random.random_attributes = i % 2 == 1;
        random.packed = op.spec.packs() && i % 4 == 2;
        absl::StatusOr<CallRequest> request = RandomCall(op, random);
        if (!request.ok() && random.packed) {
          random.packed = false;  // Not every attribute goes with packed sequences.
          request = RandomCall(op, random);
        }
        if (!request.ok()) return request.status();
        const absl::StatusOr<NumericsReport> report = Compare(op, backend_, cpu_, *request);
        if (!report.ok()) return report.status();
        Count(*report, random.seed, kernels[report->kernel]);
      }
      for (const auto& [kernel, worst] : kernels) Print(op, dtype, kernel, worst);
    }
    return absl::OkStatus();
  }

  bool sound() const { return sound_; }

 private:
  static void Count(const NumericsReport& report, uint64_t seed, Worst& worst) {
    ++worst.calls;
    for (const ErrorReport& output : report.outputs) {
      if (output.relative > worst.error) {
        worst.error = output.relative;
        worst.where = absl::StrCat(output.output, ", seed ", seed);
      }
    }
    if (!worst.fault.empty()) return;
    if (!report.within_tolerance) worst.fault = absl::StrCat("beyond tolerance, seed ", seed);
    if (!report.bitwise_repeatable) worst.fault = absl::StrCat("not repeatable, seed ", seed);
  }

  void Print(const Operator& op, DType dtype, const std::string& kernel, const Worst& worst) {
    absl::PrintF("| %s | %s | %s | %d | %.2g | %.0g | %s |\n", op.spec.id(), Name(dtype), kernel,
                 worst.calls, worst.error, Tolerance(op.spec, dtype),
                 worst.fault.empty() ? worst.where : absl::StrCat("**", worst.fault, "**"));
    std::fflush(stdout);
    sound_ = sound_ && worst.fault.empty();
  }

  Backend& backend_;
  Backend& cpu_;
  const Options& options_;
  bool sound_ = true;
};

absl::StatusOr<bool> Run(const Options& options) {
  Registry registry;
  RegisterAllOperators(registry);
  const std::unique_ptr<Backend> cpu = CreateCpuBackend({});
  std::unique_ptr<Backend> cuda;
  if (options.device == "cuda") {
    absl::StatusOr<std::unique_ptr<Backend>> loaded = CreateCudaBackend({}, registry);
    if (!loaded.ok()) return loaded.status();
    cuda = *std::move(loaded);
  }
  Backend& backend = cuda != nullptr ? *cuda : *cpu;
  absl::PrintF("%s, %d random calls of each type, seed %d\n\n", backend.name(), options.cases,
               options.seed);
  absl::PrintF("| operator | type | kernel | calls | worst | allowed | where |\n");
  absl::PrintF("| --- | --- | --- | --- | --- | --- | --- |\n");
  Table table(backend, *cpu, options);
  for (const Operator* op : registry.operators()) {
    if (!absl::StrContains(op->spec.id(), options.filter)) continue;
    if (absl::Status s = table.Add(*op); !s.ok()) return s;
  }
  return table.sound();
}

int Main(int argc, char** argv) {
  Options options;
  CLI::App app("Worst errors of operators over random calls");
  app.add_option("--device", options.device)->check(CLI::IsMember({"cpu", "cuda"}));
  app.add_option("--cases", options.cases)->check(CLI::PositiveNumber);
  app.add_option("--seed", options.seed);
  app.add_option("--filter", options.filter, "part of an operator's id");
  CLI11_PARSE(app, argc, argv);
  const absl::StatusOr<bool> sound = Run(options);
  if (!sound.ok()) {
    std::fprintf(stderr, "operator_errors: %s\n", sound.status().ToString().c_str());
    return 2;
  }
  return *sound ? 0 : 1;
}

}  // namespace
}  // namespace attnd

int main(int argc, char** argv) {
  try {
    return attnd::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "operator_errors: %s\n", error.what());
    return 2;
  }
}
