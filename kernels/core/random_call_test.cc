#include "kernels/core/random_call.h"

#include "kernels/testing/operator_testing.h"

namespace attnd::testing {
namespace {

TEST(RandomCallTest, ASeedGivesTheSameBytes) {
  for (const Operator* op : Operators().operators()) {
    RandomOptions options;
    options.seed = BaseSeed();
    const CallRequest a = Random(op->spec.id(), options), b = Random(op->spec.id(), options);
    options.seed += 1;
    const CallRequest c = Random(op->spec.id(), options);
    bool differs = a.inputs.size() != c.inputs.size();
    for (const auto& [name, tensor] : a.inputs) {
      EXPECT_TRUE(BitEqual(tensor, *b.inputs.Find(name))) << op->spec.id() << " " << name;
      differs |= !c.inputs.contains(name) || !BitEqual(tensor, *c.inputs.Find(name));
    }
    EXPECT_TRUE(differs) << op->spec.id();
  }
}

TEST(RandomCallTest, FixedSizesAndInputsAreKept) {
  RandomOptions options;
  options.seed = BaseSeed();
  options.dims.Set("T", 33);
  options.dims.Set("K", 8);
  options.with = {"initial_state"};
  options.without = {"g_v"};
  const CallRequest request = Random("gla", options);
  EXPECT_EQ(request.inputs.Find("q")->dim(1), 33);
  EXPECT_EQ(request.inputs.Find("q")->dim(3), 8);
  EXPECT_TRUE(request.inputs.contains("initial_state"));
  EXPECT_FALSE(request.inputs.contains("g_v"));
}

TEST(RandomCallTest, AnInputIsWantedOrNotForAWholeDraw) {
  int wanted = 0;
  for (uint64_t i = 0; i < 100; ++i) {
    RandomOptions options;
    options.seed = BaseSeed() + i;
    RandomSource source(Find("gla").spec, options);
    const bool first = source.Wants("g_v");
    wanted += first ? 1 : 0;
    for (int again = 0; again < 5; ++again) EXPECT_EQ(source.Wants("g_v"), first);
  }
  EXPECT_GT(wanted, 10);
  EXPECT_LT(wanted, 90);
}

TEST(RandomCallTest, ContradictionsAreRefused) {
  RandomOptions options;
  options.dims.Set("H", 3);
  options.dims.Set("HK", 2);
  options.dims.Set("HV", 2);
  const auto request = RandomCall(Find("gla"), options);
  EXPECT_EQ(request.status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(RandomCallTest, NamesThatTheOperatorDoesNotHaveAreTold) {
  const OpSpec& gla = Find("gla").spec;
  RandomOptions right;
  right.dims.Set("T", 3);
  right.dims.Set("M", 2);
  right.with = {"cu_seqlens"};
  right.without = {"g_v"};
  EXPECT_TRUE(CheckRandomOptions(gla, right).ok());
  for (const char* symbol : {"ZZ", "N", "HO", "scale"}) {
    RandomOptions options;
    options.dims.Set(symbol, 3);
    const absl::Status status = CheckRandomOptions(gla, options);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << symbol;
    EXPECT_NE(status.message().find("expected one of B, T, H, K"), absl::string_view::npos)
        << status;
  }
  RandomOptions options;
  options.with = {"o"};
  EXPECT_EQ(CheckRandomOptions(gla, options).code(), absl::StatusCode::kInvalidArgument);
}

TEST(RandomCallTest, LogDecaysAreNotPositive) {
  RandomOptions options;
  options.seed = BaseSeed();
  for (double g : ToDoubles(*Random("gla", options).inputs.Find("g"))) EXPECT_LE(g, 0);
}

}  // namespace
}  // namespace attnd::testing
