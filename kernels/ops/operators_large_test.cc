// Sizes that random calls do not reach: full heads in whole vectors, more keys than one list of
// tiles holds, sums over many slices, long recurrences.
#include <ostream>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "kernels/ops/operators_test.h"

namespace attnd::testing {
namespace {

struct LargeCase {
  std::string name;
  std::string op;
  std::vector<std::pair<std::string, int64_t>> dims;
  std::vector<std::pair<std::string, AttrValue>> attributes = {};
  std::vector<std::string> with = {};
  // The definition would take too long: kernels of other devices are compared with the CPU's.
  bool definition = true;
};

void PrintTo(const LargeCase& large, std::ostream* out) { *out << large.name; }

using DimList = std::vector<std::pair<std::string, int64_t>>;

DimList Recurrent(int64_t tokens, int64_t heads, int64_t size) {
  return {{"B", 1},      {"T", tokens}, {"H", heads}, {"HK", heads}, {"HV", heads},
          {"HG", heads}, {"HB", heads}, {"K", size},  {"V", size}};
}

DimList Softmax(int64_t queries, int64_t keys, int64_t heads, int64_t key_heads, int64_t size) {
  return {{"B", 1},          {"T", queries},    {"S", keys}, {"H", heads},
          {"HK", key_heads}, {"HV", key_heads}, {"K", size}, {"V", size}};
}

std::vector<LargeCase> Cases() {
  std::vector<LargeCase> cases;
  const std::pair<std::string, AttrValue> causal = {"causal", true}, everywhere = {"causal", false};
  for (int64_t size : {128, 256}) {
    const std::string suffix = std::to_string(size);
    cases.push_back(
        {"softmax_" + suffix, "softmax_attention", Softmax(200, 200, 2, 1, size), {causal}});
    for (const char* op : {"retention", "gated_delta_rule", "linear_attention"}) {
      LargeCase next = {std::string(op) + "_" + suffix, op, Recurrent(150, 2, size)};
      if (next.op == "linear_attention") next.attributes = {causal};
      cases.push_back(std::move(next));
    }
    cases.push_back(
        {"global_" + suffix, "linear_attention", Softmax(150, 150, 2, 2, size), {everywhere}});
  }
  for (const char* op : {"gla", "kda", "delta_rule"}) {
    cases.push_back({std::string(op) + "_128", op, Recurrent(150, 2, 128)});
  }
  cases.push_back({"softmax_many_keys", "softmax_attention", Softmax(40, 9000, 2, 1, 64)});
  cases.push_back(
      {"softmax_many_keys_causal", "softmax_attention", Softmax(70, 9000, 1, 1, 48), {causal}});
  DimList blocks = Softmax(70, 9000, 2, 1, 64);
  blocks.insert(blocks.end(), {{"HB", 2}, {"BM", 1}});
  cases.push_back({"block_sparse_many_keys", "block_sparse_attention", std::move(blocks)});
  cases.push_back(
      {"neighborhood_many_tokens",
       "neighborhood_attention",
       {{"B", 1}, {"N", 96 * 96}, {"H", 1}, {"HK", 1}, {"HV", 1}, {"K", 32}, {"V", 32}},
       {{"height", int64_t{96}}, {"width", int64_t{96}}, {"window", std::vector<int64_t>{70, 9}}},
       {},
       /*definition=*/false});
  for (const char* op : {"linear_attention", "mala", "flow_attention"}) {
    LargeCase next = {std::string(op) + "_many_keys", op, Softmax(40, 20000, 1, 1, 64)};
    if (next.op != "mala") next.attributes = {everywhere};
    cases.push_back(std::move(next));
  }
  for (const char* op : {"gla", "kda", "delta_rule", "gated_delta_rule", "retention",
                         "lightning_attention", "linear_attention", "flow_attention"}) {
    LargeCase next = {std::string(op) + "_long", op, Recurrent(4096, 1, 32)};
    next.dims.emplace_back("S", 4096);
    if (next.op == "linear_attention" || next.op == "flow_attention") next.attributes = {causal};
    cases.push_back(std::move(next));
  }
  LargeCase fading = {"gla_long_with_value_decay", "gla", Recurrent(4096, 1, 32), {}, {"g_v"}};
  fading.dims.emplace_back("HGV", 1);
  cases.push_back(std::move(fading));
  for (const char* op : {"gla", "gated_delta_rule", "retention"}) {
    cases.push_back({std::string(op) + "_longest", op, Recurrent(16384, 1, 16)});
  }
  cases.push_back({"short_conv_long", "short_conv", {{"B", 1}, {"T", 5000}, {"D", 130}, {"W", 4}}});
  return cases;
}

class LargeTest : public ::testing::TestWithParam<std::tuple<LargeCase, Device>> {};

TEST_P(LargeTest, KernelsAgreeWithTheDefinition) {
  const auto& [large, device] = GetParam();
  Backend* backend = BackendOf(device);
  if (backend == nullptr) GTEST_SKIP() << "no " << Name(device) << " device";
  if (!large.definition && device == Device::kCpu) GTEST_SKIP() << "compared with this device's";
  const Operator& op = Find(large.op);
  int tested = 0;
  for (DType dtype : {DType::kFloat32, DType::kBFloat16}) {
    RandomOptions options;
    options.seed = BaseSeed();
    options.dtype = dtype;
    options.optional_inputs = 0;
    options.with = large.with;
    for (const auto& [symbol, size] : large.dims) options.dims.Set(symbol, size);
    for (const auto& [name, value] : large.attributes) options.attributes.Set(name, value);
    CallRequest request = Random(large.op, options);
    const Evaluation reference = large.definition ? RunReference(request) : RunCall(request);
    const BoundCall call = BindAndCheck(op, request).value();
    for (const Kernel& kernel : op.kernels) {
      if (kernel.device != device || !kernel.supports(call)) continue;
      ++tested;
      request.kernel = kernel.name;
      EXPECT_TRUE(Close(op.spec, dtype, RunCall(request, *backend), reference))
          << "seed " << options.seed;
    }
  }
  EXPECT_GT(tested, 0) << "every kernel declined";
}

INSTANTIATE_TEST_SUITE_P(All, LargeTest,
                         ::testing::Combine(::testing::ValuesIn(Cases()),
                                            ::testing::Values(Device::kCpu, Device::kCuda)),
                         [](const auto& info) {
                           return absl::StrCat(std::get<0>(info.param).name, "_",
                                               Name(std::get<1>(info.param)));
                         });

}  // namespace
}  // namespace attnd::testing
