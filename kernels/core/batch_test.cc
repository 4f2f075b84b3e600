#include "kernels/core/batch.h"

#include "kernels/testing/operator_testing.h"

namespace attnd::testing {
namespace {

BoundCall Call(absl::string_view op, int64_t tokens, uint64_t seed) {
  RandomOptions options;
  options.seed = seed;
  options.optional_inputs = 0;
  for (const char* symbol : {"H", "HK", "HV", "HG"}) options.dims.Set(symbol, 2);
  options.dims.Set("K", 4);
  options.dims.Set("V", 3);
  options.dims.Set("T", tokens);
  return BindAndCheck(Find(op), Random(op, options)).value();
}

TEST(BatchTest, TokensOfPackedCallsLieEndToEnd) {
  const BoundCall a = Call("gla", 5, 1), b = Call("gla", 9, 2);
  ASSERT_FALSE(BatchKey(a, "").empty());
  EXPECT_EQ(BatchKey(a, ""), BatchKey(b, ""));
  EXPECT_NE(BatchKey(a, ""), BatchKey(a, "composed"));
  const BoundCall* calls[] = {&a, &b};
  const BoundCall packed = Pack(calls).value();
  const int64_t rows_a = a.dim("B"), rows_b = b.dim("B");
  EXPECT_EQ(packed.input("q").dim(0), 1);
  EXPECT_EQ(packed.dim("T"), rows_a * 5 + rows_b * 9);
  EXPECT_EQ(packed.dim("M"), rows_a + rows_b);
  EXPECT_EQ(packed.sequences().back().length, 9);
}

TEST(BatchTest, AnswersComeBackToTheirCalls) {
  const BoundCall a = Call("gla", 5, 1), b = Call("gla", 9, 2);
  const BoundCall* calls[] = {&a, &b};
  const Evaluation together = EvaluateBound(Find("gla"), Cpu(), Pack(calls).value(), "").value();
  const auto parts = Unpack(calls, together.outputs);
  ASSERT_TRUE(parts.ok()) << parts.status();
  for (int i = 0; i < 2; ++i) {
    const Evaluation alone = EvaluateBound(Find("gla"), Cpu(), *calls[i], "").value();
    for (const auto& [name, tensor] : alone.outputs) {
      EXPECT_TRUE(BitEqual(*(*parts)[static_cast<size_t>(i)].Find(name), tensor)) << name;
    }
  }
}

TEST(BatchTest, DifferentSizesAndAttributesAreDifferentKeys) {
  RandomOptions options;
  options.optional_inputs = 0;
  options.dims.Set("K", 8);
  const BoundCall narrow = BindAndCheck(Find("gla"), Random("gla", options)).value();
  options.dims.Set("K", 16);
  const BoundCall wide = BindAndCheck(Find("gla"), Random("gla", options)).value();
  EXPECT_NE(BatchKey(narrow, ""), BatchKey(wide, ""));
}

TEST(BatchTest, CallsWhoseRowsLieApartAreNotStacked) {
  // [P,B,T,H,V]: rows of the batch are not outermost in memory.
  const BoundCall call =
      BindAndCheck(Find("merge_attention"), Random("merge_attention", {})).value();
  EXPECT_TRUE(BatchKey(call, "").empty());
}

TEST(BatchTest, BlockListsOfEachRowAreStacked) {
  RandomOptions options;
  options.without = {"block_indices"};
  for (const char* symbol : {"H", "HK", "HV", "HB"}) options.dims.Set(symbol, 2);
  for (const char* symbol : {"K", "V"}) options.dims.Set(symbol, 4);
  for (const char* symbol : {"T", "S"}) options.dims.Set(symbol, 150);
  const auto call = [&](uint64_t seed, int64_t rows, int64_t lists) {
    options.seed = seed;
    options.dims.Set("B", rows);
    options.dims.Set("BM", lists);
    return BindAndCheck(Find("block_sparse_attention"), Random("block_sparse_attention", options))
        .value();
  };
  const BoundCall a = call(1, 1, 1), b = call(2, 3, 3), shared = call(3, 3, 1);
  ASSERT_FALSE(BatchKey(a, "").empty());
  EXPECT_EQ(BatchKey(a, ""), BatchKey(b, ""));
  // One list for several rows cannot be stacked with others' lists.
  EXPECT_NE(BatchKey(a, ""), BatchKey(shared, ""));
  const BoundCall* calls[] = {&a, &b};
  const BoundCall packed = Pack(calls).value();
  EXPECT_EQ(packed.dim("B"), 4);
  EXPECT_EQ(packed.input("block_mask").dim(0), 4);
  EXPECT_TRUE(BitEqual(packed.input("block_mask").Slice(0, 1, 3), b.input("block_mask")));
}

}  // namespace
}  // namespace attnd::testing
