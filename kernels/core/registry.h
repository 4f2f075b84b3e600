// The catalogue: every operator with its schema, its composed definition and its kernels.
#ifndef ATTND_KERNELS_CORE_REGISTRY_H_
#define ATTND_KERNELS_CORE_REGISTRY_H_

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/core/call.h"
#include "kernels/core/op_spec.h"
#include "kernels/primitives/primitives.h"

namespace attnd {

class Composer;
class RandomSource;
class Registry;

// The composed definition: reads inputs from the composer, writes every output to it.
using Definition = std::function<absl::Status(Composer&)>;

// A fused kernel's body. `call` holds tensors in the backend's memory, `outputs` are allocated
// there (contiguous, uninitialised, named as call.outputs()). Queues work; does not synchronise.
using KernelBody =
    std::function<absl::Status(Backend&, const BoundCall& call, const NamedTensors& outputs)>;

// What random calls must be like for a kernel to take them, where few are: for tests.
struct KernelExample {
  std::optional<DType> dtype;
  // By symbol, sizes that it takes in any combination.
  Named<std::vector<int64_t>> sizes;
};

struct Kernel {
  std::string name;  // "chunk_cpu", "stream_cuda": <algorithm>_<device>
  Device device = Device::kCpu;
  // Whether the kernel takes this call. Must not depend on B, T or M beyond what the
  // result's bits may depend on: a call's answer never depends on the batch it ran in.
  std::function<bool(const BoundCall&)> supports;
  KernelBody run;
  KernelExample example = {};  // Empty: takes most calls.
  bool of_parts = false;       // The definition, with the kernels of the operators that it calls.
};

// Adds what the schema cannot say: checks of values and combinations, e.g. block lists within
// range. INVALID_ARGUMENT in the style of Bind's errors. Sees canonical host tensors.
using ValueCheck = std::function<absl::Status(const BoundCall&)>;

// Fills in what random generation cannot guess from the schema (index lists, grids); runs after the
// schema's own choice of sizes and before the tensors without a value are drawn. See random_call.h.
using RandomHook = std::function<void(RandomSource&)>;

struct Operator {
  const Registry* registry = nullptr;  // Where it is, with the operators that it calls.
  OpSpec spec;
  Definition definition;
  ValueCheck check;   // May be empty.
  RandomHook random;  // May be empty.
  // Attributes under which the operator is causal along T; decides which shared tests apply.
  std::function<bool(const BoundCall&)> causal;  // Empty: never causal.
  std::vector<Kernel> kernels;                   // In order of preference.
};

class Registry {
 public:
  Registry() = default;
  Registry(const Registry&) = delete;  // Operators know where they are.
  Registry& operator=(const Registry&) = delete;

  // Parses the schema and adds the operator. Aborts on a bad schema or a second operator of the
  // same id: both are bugs that every test run finds.
  Operator& Add(const SchemaText& schema, Definition definition);
  // The same for a definition that calls other operators (part_call.h): besides, on every device a
  // kernel "parts_<device>" whose calls run their kernels. Any other kernel goes before it.
  Operator& AddOfParts(const SchemaText& schema, Definition definition);
  // Adds a kernel to an operator that is there. Kernels added first are preferred.
  void AddKernel(absl::string_view op, Kernel kernel);

  // NOT_FOUND naming the nearest known ids.
  absl::StatusOr<const Operator*> Find(absl::string_view op) const;
  // In order of id.
  std::vector<const Operator*> operators() const;

 private:
  std::map<std::string, std::unique_ptr<Operator>, std::less<>> operators_;
};

// Registers every operator with its CPU kernels (generated from kernels/ops/CMakeLists.txt).
void RegisterAllOperators(Registry& registry);

// The kernel that runs `call` on `device`: the forced one, else the first whose condition holds,
// else null: the composed definition. INVALID_ARGUMENT if a forced kernel is unknown or declines
// the call.
absl::StatusOr<const Kernel*> SelectKernel(const Operator& op, const BoundCall& call, Device device,
                                           absl::string_view forced);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORE_REGISTRY_H_
