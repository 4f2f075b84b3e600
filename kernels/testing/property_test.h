// The fixture of properties: identities that an operator's mathematics promises, on every device
// and in float64 and float32.
//
//   TEST_P(GlaTest, ...)  with  class GlaTest : public PropertyTest {};
//   INSTANTIATE_PROPERTIES(GlaTest);
#ifndef ATTND_KERNELS_TESTING_PROPERTY_TEST_H_
#define ATTND_KERNELS_TESTING_PROPERTY_TEST_H_

#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/testing/array.h"
#include "kernels/testing/operator_testing.h"

namespace attnd::testing {

struct Setting {
  Device device;
  DType dtype;
};

// A call in the making; floating inputs get the setting's type.
class CallBuilder {
 public:
  CallBuilder(absl::string_view op, DType dtype) : dtype_(dtype) { request_.op = std::string(op); }

  CallBuilder& In(absl::string_view name, const Array& values);
  CallBuilder& Int(absl::string_view name, Dims shape, const std::vector<int32_t>& values);
  CallBuilder& Bool(absl::string_view name, const Array& values);
  CallBuilder& Offsets(const std::vector<int32_t>& cu_seqlens);
  CallBuilder& Put(absl::string_view name, Tensor tensor);
  CallBuilder& Set(absl::string_view attribute, AttrValue value);

  const CallRequest& request() const { return request_; }

 private:
  DType dtype_;
  CallRequest request_;
};

class PropertyTest : public ::testing::TestWithParam<Setting> {
 protected:
  PropertyTest();
  void SetUp() override;

  bool exact() const { return GetParam().dtype == DType::kFloat64; }
  // Of two calls that compute the same in different ways.
  double tolerance() const { return exact() ? 1e-10 : 4e-5; }

  // Fresh on every run.
  Array Normal(Dims shape);
  Array Uniform(Dims shape, double low, double high);
  std::vector<int64_t> Permutation(int64_t size);

  CallBuilder Call(absl::string_view op) const { return {op, GetParam().dtype}; }
  Evaluation RunRequest(const CallRequest& request) const { return RunCall(request, *backend_); }
  Evaluation Run(const CallBuilder& call) const { return RunRequest(call.request()); }
  // One output.
  Array Out(const CallBuilder& call, absl::string_view output = "o") const {
    return Array(Output(Run(call), output));
  }
  // INVALID_ARGUMENT whose message has `what` in it.
  void ExpectRefused(const CallBuilder& call, absl::string_view what) const;

  void ExpectClose(const Array& actual, const Array& expected) const {
    EXPECT_LE(RelativeError(actual, expected), tolerance());
  }
  // The same outputs of both, all of them.
  void ExpectSame(const CallBuilder& actual, const CallBuilder& expected) const;

 private:
  std::mt19937_64 random_;
  ::testing::ScopedTrace trace_;
  Backend* backend_ = nullptr;
};

#define INSTANTIATE_PROPERTIES(fixture)                                                \
  INSTANTIATE_TEST_SUITE_P(All, fixture,                                               \
                           ::testing::Values(Setting{Device::kCpu, DType::kFloat64},   \
                                             Setting{Device::kCpu, DType::kFloat32},   \
                                             Setting{Device::kCuda, DType::kFloat32}), \
                           [](const auto& info) {                                      \
                             return absl::StrCat(Name(info.param.dtype), "_",          \
                                                 Name(info.param.device));             \
                           })

}  // namespace attnd::testing

#endif  // ATTND_KERNELS_TESTING_PROPERTY_TEST_H_
