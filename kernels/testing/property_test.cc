#include "kernels/testing/property_test.h"

#include <algorithm>
#include <functional>
#include <numeric>

namespace attnd::testing {
namespace {

// Differs from test to test, and from run to run unless the base seed is fixed.
uint64_t SeedOfThisTest() {
  const auto* info = ::testing::UnitTest::GetInstance()->current_test_info();
  return BaseSeed() + std::hash<std::string>()(absl::StrCat(info->test_suite_name(), info->name()));
}

}  // namespace

CallBuilder& CallBuilder::In(absl::string_view name, const Array& values) {
  request_.inputs.Set(name, FromDoubles(dtype_, values.shape(), values.values()));
  return *this;
}

CallBuilder& CallBuilder::Int(absl::string_view name, Dims shape,
                              const std::vector<int32_t>& values) {
  request_.inputs.Set(name, HostTensor<int32_t>(std::move(shape), values));
  return *this;
}

CallBuilder& CallBuilder::Bool(absl::string_view name, const Array& values) {
  Tensor tensor = AllocateHost(DType::kBool, values.shape()).value();
  std::transform(values.values().begin(), values.values().end(), tensor.data<uint8_t>(),
                 [](double x) { return x != 0 ? 1 : 0; });
  request_.inputs.Set(name, std::move(tensor));
  return *this;
}

CallBuilder& CallBuilder::Offsets(const std::vector<int32_t>& cu_seqlens) {
  return Int("cu_seqlens", {static_cast<int64_t>(cu_seqlens.size())}, cu_seqlens);
}

CallBuilder& CallBuilder::Put(absl::string_view name, Tensor tensor) {
  request_.inputs.Set(name, std::move(tensor));
  return *this;
}

CallBuilder& CallBuilder::Set(absl::string_view attribute, AttrValue value) {
  request_.attributes.Set(attribute, std::move(value));
  return *this;
}

PropertyTest::PropertyTest()
    : random_(SeedOfThisTest()),
      trace_(__FILE__, __LINE__, absl::StrCat("ATTND_TEST_SEED=", BaseSeed())) {}

void PropertyTest::SetUp() {
  backend_ = BackendOf(GetParam().device);
  if (backend_ == nullptr) GTEST_SKIP() << "no " << Name(GetParam().device) << " device";
}

Array PropertyTest::Normal(Dims shape) {
  Array array(std::move(shape));
  std::normal_distribution<double> draw;
  for (double& value : array.values()) value = static_cast<float>(draw(random_));
  return array;
}

Array PropertyTest::Uniform(Dims shape, double low, double high) {
  Array array(std::move(shape));
  std::uniform_real_distribution<double> draw(low, high);
  for (double& value : array.values()) value = static_cast<float>(draw(random_));
  return array;
}

std::vector<int64_t> PropertyTest::Permutation(int64_t size) {
  std::vector<int64_t> order(static_cast<size_t>(size));
  std::iota(order.begin(), order.end(), 0);
  std::shuffle(order.begin(), order.end(), random_);
  return order;
}

void PropertyTest::ExpectRefused(const CallBuilder& call, absl::string_view what) const {
  const absl::Status status = Evaluate(Find(call.request().op), *backend_, call.request()).status();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(std::string(what)));
}

void PropertyTest::ExpectSame(const CallBuilder& actual, const CallBuilder& expected) const {
  const Evaluation a = Run(actual), b = Run(expected);
  EXPECT_FALSE(b.outputs.empty());
  for (const auto& [name, tensor] : b.outputs) {
    if (!a.outputs.contains(name)) continue;  // States differ between operators.
    SCOPED_TRACE(name);
    ExpectClose(Array(Output(a, name)), Array(tensor));
  }
  EXPECT_TRUE(a.outputs.contains("o") && b.outputs.contains("o"));
}

}  // namespace attnd::testing
