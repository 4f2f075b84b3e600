// The fixture of the suite that every registered operator and kernel passes through: a kernel that
// registers is a kernel that is tested. Inputs are fresh on every run; ATTND_TEST_SEED repeats one.
#ifndef ATTND_KERNELS_OPS_OPERATORS_TEST_H_
#define ATTND_KERNELS_OPS_OPERATORS_TEST_H_

#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/testing/operator_testing.h"

namespace attnd::testing {

inline std::vector<std::string> OperatorIds() {
  std::vector<std::string> ids;
  for (const Operator* op : Operators().operators()) ids.push_back(op->spec.id());
  return ids;
}

// Kernels of an operator on a device, the composed definition included.
inline std::vector<std::string> KernelNames(const Operator& op, Device device) {
  std::vector<std::string> names = {"composed"};
  for (const Kernel& kernel : op.kernels) {
    if (kernel.device == device) names.push_back(kernel.name);
  }
  return names;
}

class OperatorTest : public ::testing::TestWithParam<std::tuple<std::string, Device>> {
 protected:
  void SetUp() override {
    backend_ = BackendOf(std::get<1>(GetParam()));
    if (backend_ == nullptr) GTEST_SKIP() << "no " << Name(std::get<1>(GetParam())) << " device";
  }

  const Operator& op() const { return Find(std::get<0>(GetParam())); }
  Backend& backend() const { return *backend_; }
  std::vector<std::string> kernels() const { return KernelNames(op(), backend_->device()); }

  // Of the i-th random call for a kernel.
  RandomOptions Options(int i, absl::string_view kernel) const {
    RandomOptions options;
    options.seed = BaseSeed() + 7919u * static_cast<uint64_t>(i);
    options.random_attributes = i % 2 == 1;
    options.packed = op().spec.packs() && i % 3 == 2;
    // Chunk and tile borders, one token, and whatever the generator draws.
    constexpr int64_t kLengths[] = {1, 63, 64, 65, 127, 200};
    if (i % 2 == 0 && op().spec.packs()) options.dims.Set("T", kLengths[(i / 2) % 6]);
    if (const KernelExample* example = ExampleOf(kernel)) {
      options.dtype = example->dtype.value_or(options.dtype);
      for (const auto& [symbol, sizes] : example->sizes) {
        options.dims.Set(symbol, sizes[static_cast<size_t>(i) % sizes.size()]);
      }
    }
    return options;
  }

  // Null for a kernel that takes most calls.
  const KernelExample* ExampleOf(absl::string_view name) const {
    for (const Kernel& kernel : op().kernels) {
      if (kernel.device == backend_->device() && kernel.name == name &&
          (kernel.example.dtype || !kernel.example.sizes.empty())) {
        return &kernel.example;
      }
    }
    return nullptr;
  }

  // Whether the kernel takes the request; a forced kernel that declines is not a failure of the
  // kernel.
  bool Takes(CallRequest& request, const std::string& kernel) const {
    request.kernel = kernel;
    const absl::StatusOr<BoundCall> call = BindAndCheck(op(), request);
    EXPECT_TRUE(call.ok()) << call.status();
    return call.ok() && SelectKernel(op(), *call, backend_->device(), kernel).ok();
  }

  // A random call. Where a kernel of narrow taste declines it, others are drawn, a few times.
  CallRequest RandomFor(const std::string& kernel, RandomOptions options) const {
    constexpr int kDraws = 12;
    CallRequest request = Random(op().spec.id(), options);
    if (ExampleOf(kernel) == nullptr) return request;
    for (int i = 1; i < kDraws && !Takes(request, kernel); ++i) {
      options.seed += 104729;
      request = Random(op().spec.id(), options);
    }
    request.kernel.clear();
    return request;
  }

 private:
  Backend* backend_ = nullptr;
};

#define INSTANTIATE_FOR_ALL_OPERATORS(fixture)                                                 \
  INSTANTIATE_TEST_SUITE_P(All, fixture,                                                       \
                           ::testing::Combine(::testing::ValuesIn(OperatorIds()),              \
                                              ::testing::Values(Device::kCpu, Device::kCuda)), \
                           [](const auto& info) {                                              \
                             return absl::StrCat(std::get<0>(info.param), "_",                 \
                                                 Name(std::get<1>(info.param)));               \
                           })

}  // namespace attnd::testing

#endif  // ATTND_KERNELS_OPS_OPERATORS_TEST_H_
