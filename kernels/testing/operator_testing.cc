#include "kernels/testing/operator_testing.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <limits>
#include <memory>
#include <random>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "kernels/primitives/cpu/cpu_backend.h"
#include "kernels/primitives/cuda_module.h"

namespace attnd::testing {
namespace {

struct World {
  Registry registry;
  std::unique_ptr<Backend> cpu = CreateCpuBackend();
  std::unique_ptr<Backend> cuda;
  uint64_t seed = 0;

  World() {
    RegisterAllOperators(registry);
    absl::StatusOr<std::unique_ptr<Backend>> device = CreateCudaBackend({}, registry);
    if (device.ok()) {
      cuda = *std::move(device);
      std::cout << "CUDA backend: " << cuda->name() << std::endl;
    } else {
      std::cout << "CUDA TESTS ARE SKIPPED: " << device.status().message() << std::endl;
    }
    const char* fixed = std::getenv("ATTND_TEST_SEED");
    if (fixed == nullptr || !absl::SimpleAtoi(fixed, &seed)) seed = std::random_device()();
    std::cout << "ATTND_TEST_SEED=" << seed << std::endl;
  }
};

World& TheWorld() {
  static World world;
  return world;
}

}  // namespace

const Registry& Operators() { return TheWorld().registry; }

const Operator& Find(absl::string_view op) { return **Operators().Find(op); }

Backend& Cpu() { return *TheWorld().cpu; }
Backend* Cuda() { return TheWorld().cuda.get(); }
Backend* BackendOf(Device device) { return device == Device::kCpu ? &Cpu() : Cuda(); }
uint64_t BaseSeed() { return TheWorld().seed; }

CallRequest Random(absl::string_view op, const RandomOptions& options) {
  absl::StatusOr<CallRequest> request = RandomCall(Find(op), options);
  EXPECT_TRUE(request.ok()) << request.status() << " seed " << options.seed;
  return request.ok() ? *std::move(request) : CallRequest{std::string(op), {}, {}, ""};
}

Evaluation RunCall(const CallRequest& request, Backend& backend) {
  absl::StatusOr<Evaluation> result = Evaluate(Find(request.op), backend, request);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *std::move(result) : Evaluation();
}

Evaluation RunReference(const CallRequest& request) {
  absl::StatusOr<Evaluation> result = EvaluateReference(Find(request.op), Cpu(), request);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *std::move(result) : Evaluation();
}

const Tensor& Output(const Evaluation& evaluation, absl::string_view name) {
  static const Tensor kNone;
  const Tensor* found = evaluation.outputs.Find(name);
  EXPECT_NE(found, nullptr) << "no output " << name;
  return found != nullptr ? *found : kNone;
}

std::vector<double> ToDoubles(const Tensor& tensor) {
  Tensor wide = AllocateHost(DType::kFloat64, tensor.shape()).value();
  Cpu().Copy(tensor, wide);
  return std::vector<double>(wide.data<double>(), wide.data<double>() + wide.num_elements());
}

Tensor FromDoubles(DType dtype, Dims shape, absl::Span<const double> values) {
  const Tensor wide = HostTensor<double>(shape, values);
  Tensor out = AllocateHost(dtype, std::move(shape)).value();
  Cpu().Copy(wide, out);
  return out;
}

double RelativeError(const Tensor& a, const Tensor& b) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  if (a.shape() != b.shape()) return kInfinity;
  const std::vector<double> x = ToDoubles(a);
  const std::vector<double> y = ToDoubles(b);
  double difference = 0, norm = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    if (!std::isfinite(y[i]) || !std::isfinite(x[i])) {
      if ((std::isnan(x[i]) && std::isnan(y[i])) || x[i] == y[i]) continue;
      return kInfinity;
    }
    difference += (x[i] - y[i]) * (x[i] - y[i]);
    norm += y[i] * y[i];
  }
  return norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
}

bool BitEqual(const Tensor& a, const Tensor& b) {
  if (a.dtype() != b.dtype() || a.shape() != b.shape()) return false;
  const Tensor x = CopyOf(a);
  const Tensor y = CopyOf(b);
  return std::memcmp(x.raw(), y.raw(), static_cast<size_t>(x.byte_size())) == 0;
}

::testing::AssertionResult Close(const OpSpec& spec, DType dtype, const Evaluation& result,
                                 const Evaluation& reference) {
  if (result.outputs.size() != reference.outputs.size() || result.outputs.empty()) {
    return ::testing::AssertionFailure() << "outputs differ in number";
  }
  for (const auto& [name, expected] : reference.outputs) {
    const Tensor* got = result.outputs.Find(name);
    if (got == nullptr) return ::testing::AssertionFailure() << "no output " << name;
    const double error = RelativeError(*got, expected);
    if (!(error <= Tolerance(spec, dtype))) {
      return ::testing::AssertionFailure()
             << name << " of kernel " << result.kernel << " is off by " << error << ", allowed "
             << Tolerance(spec, dtype) << " (" << Name(dtype) << ", " << got->DebugString() << ")";
    }
  }
  return ::testing::AssertionSuccess();
}

::testing::AssertionResult SameBits(const Evaluation& a, const Evaluation& b) {
  if (a.outputs.size() != b.outputs.size() || a.outputs.empty()) {
    return ::testing::AssertionFailure() << "outputs differ in number";
  }
  for (const auto& [name, expected] : b.outputs) {
    const Tensor* got = a.outputs.Find(name);
    if (got == nullptr || !BitEqual(*got, expected)) {
      return ::testing::AssertionFailure()
             << name << " differs in bits (kernels " << a.kernel << ", " << b.kernel << "), by "
             << (got != nullptr ? RelativeError(*got, expected) : 0.0);
    }
  }
  return ::testing::AssertionSuccess();
}

CallRequest CutTokens(const Operator& op, const CallRequest& request, int64_t begin,
                      int64_t length) {
  CallRequest cut = request;
  const BoundCall call = BindAndCheck(op, request).value();
  const int64_t tokens = call.dim("T");
  for (auto& [name, tensor] : cut.inputs) {
    const Port& port = *op.spec.FindInput(name);
    const auto& shape = port.shapes[static_cast<size_t>(call.alternative(name))];
    for (int axis = 0; axis < tensor.rank(); ++axis) {
      const std::string& size = shape[static_cast<size_t>(axis)].text();
      if (size == "T" || size == "S") {
        tensor = tensor.Slice(axis, begin, length);
      } else if (size == "P+S") {
        tensor = tensor.Slice(axis, 0, tensor.dim(axis) - tokens + begin + length);
      }
    }
  }
  return cut;
}

CallRequest WithStates(const Operator& op, CallRequest request, const Evaluation& previous) {
  for (const Port& port : op.spec.inputs()) {
    const std::string final_name = FinalStateName(port.name);
    if (final_name.empty()) continue;
    const Tensor* state = previous.outputs.Find(final_name);
    if (state != nullptr) request.inputs.Set(port.name, *state);
  }
  return request;
}

Tensor CopyOf(const Tensor& tensor) {
  Tensor copy = AllocateHost(tensor.dtype(), tensor.shape()).value();
  Cpu().Copy(tensor, copy);
  return copy;
}

Tensor AsStridedView(const Tensor& tensor) {
  std::vector<int> order(tensor.rank());
  Dims reversed(tensor.rank());
  for (int i = 0; i < tensor.rank(); ++i) {
    order[i] = tensor.rank() - 1 - i;
    reversed[i] = tensor.dim(order[i]);
  }
  const Tensor storage = AllocateHost(tensor.dtype(), reversed).value();
  Tensor view = storage.Permute(order);
  Cpu().Copy(tensor, view);
  return view;
}

}  // namespace attnd::testing
