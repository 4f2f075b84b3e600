#include <cstring>
#include <functional>
#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/core/call.h"

namespace attnd {
namespace {

using ::testing::HasSubstr;

const OpSpec& Toy() {
  static const OpSpec spec = [] {
    SchemaText text;
    text.id = "toy";
    text.inputs = {"q: float[B,T,H,K]",
                   "k: float[B,S,HK,K]",
                   "g: float32[B,T,H,K]|[B,T,H]?",
                   "weight: float[K,W]?",
                   "initial_state: float32[M,K,W-1]?",
                   "blocks: int[MB]?",
                   "extra: float32[H] if mode == 'extra'",
                   "cu_seqlens: int32[M+1]?"};
    text.attributes = {"scale: float = 1/sqrt(K)", "block: int = 4 >= 1",
                       "mode: {plain, extra} = plain", "list: int[] = [1]", "height: int?"};
    text.outputs = {"o: float[B,T,H,K]", "final_state: float32[M,K,W-1] if has(weight)"};
    text.derived = {"MB = ceil_div(T, block)"};
    text.rules = {"H % HK == 0  # heads that divide"};
    text.may_be_zero = "S";
    return OpSpec::Parse(text).value();
  }();
  return spec;
}

Tensor Zeros(DType dtype, Dims shape) {
  Tensor tensor = AllocateHost(dtype, std::move(shape)).value();
  std::memset(tensor.raw(), 0, static_cast<size_t>(tensor.byte_size()));
  return tensor;
}

CallRequest Good() {
  CallRequest request;
  request.op = "toy";
  request.inputs.Set("q", Zeros(DType::kFloat32, {2, 6, 4, 16}));
  request.inputs.Set("k", Zeros(DType::kFloat32, {2, 5, 2, 16}));
  return request;
}

TEST(BindTest, BindsSizesDefaultsAndOutputs) {
  CallRequest request = Good();
  request.inputs.Set("weight", Zeros(DType::kFloat32, {16, 3}));
  request.inputs.Set("initial_state", Zeros(DType::kFloat16, {2, 16, 2}));
  const auto call = Bind(Toy(), request);
  ASSERT_TRUE(call.ok()) << call.status();
  EXPECT_EQ(call->dim("T"), 6);
  EXPECT_EQ(call->dim("MB"), 2);
  EXPECT_EQ(call->dim("M"), 2);
  EXPECT_EQ(call->real("scale"), 0.25);
  EXPECT_FALSE(call->has_attribute("height"));
  EXPECT_EQ(call->input("initial_state").dtype(), DType::kFloat32) << "half gates are widened";
  ASSERT_NE(call->FindOutput("final_state"), nullptr);
  EXPECT_EQ(call->FindOutput("final_state")->shape, (Dims{2, 16, 2}));
  EXPECT_EQ(call->sequences().size(), 2u);
  EXPECT_EQ(call->input("q").raw(), request.inputs.Find("q")->raw())
      << "nothing to convert, nothing copied";
}

TEST(BindTest, ChoosesShapeAlternatives) {
  CallRequest request = Good();
  request.inputs.Set("g", Zeros(DType::kFloat32, {2, 6, 4}));
  EXPECT_EQ(Bind(Toy(), request)->alternative("g"), 1);
}

TEST(BindTest, OutputsOfSeveralShapesFollowTheFirstInputWithAsMany) {
  SchemaText text;
  text.id = "rows";
  text.inputs = {"weight: float[D]?", "y: float[D]|[N,D]|[L,N,D]?", "x: float[D]|[N,D]|[L,N,D]"};
  text.outputs = {"y: float[D]|[N,D]|[L,N,D]"};
  const OpSpec spec = OpSpec::Parse(text).value();
  for (const Dims& shape : {Dims{5}, Dims{3, 5}, Dims{2, 3, 5}}) {
    CallRequest request;
    request.op = "rows";
    request.inputs.Set("x", Zeros(DType::kFloat32, shape));
    EXPECT_EQ(Bind(spec, request)->FindOutput("y")->shape, shape);
  }
}

TEST(BindTest, SizesMayFollowTheLongestSequence) {
  SchemaText text;
  text.id = "blocks";
  text.inputs = {"x: float[B,T]", "cu_seqlens: int32[M+1]?"};
  text.outputs = {"y: float[M,MB]"};
  text.derived = {"MB = ceil_div(LT, 4)"};
  const OpSpec spec = OpSpec::Parse(text).value();
  CallRequest request;
  request.op = "blocks";
  request.inputs.Set("x", Zeros(DType::kFloat32, {1, 20}));
  EXPECT_EQ(Bind(spec, request)->FindOutput("y")->shape, (Dims{1, 5}));
  for (const auto& [cut, blocks] : std::vector<std::pair<int32_t, int64_t>>{{11, 3}, {3, 5}}) {
    request.inputs.Set("cu_seqlens", HostTensor<int32_t>({3}, {0, cut, 20}));
    const BoundCall call = Bind(spec, request).value();
    EXPECT_EQ(call.FindOutput("y")->shape, (Dims{2, blocks}));
    EXPECT_EQ(call.SequenceCall(call.sequences()[0]).dim("LT"), cut);
  }
  request.inputs.Set("cu_seqlens", HostTensor<int32_t>({3}, {0, -2000000000, 2000000000}));
  EXPECT_FALSE(Bind(spec, request).ok());
}

TEST(BindTest, OffsetsOfOperatorsThatDoNotPackCutNothing) {
  SchemaText text;
  text.id = "documents";
  text.inputs = {"x: float[B,T]", "cu_seqlens: int32[M+1]"};
  text.outputs = {"y: float[B,T]"};
  text.packs_sequences = false;
  const OpSpec spec = OpSpec::Parse(text).value();
  CallRequest request;
  request.op = "documents";
  request.inputs.Set("x", Zeros(DType::kFloat32, {2, 6}));
  request.inputs.Set("cu_seqlens", HostTensor<int32_t>({4}, {0, 1, 1, 6}));
  const BoundCall call = Bind(spec, request).value();
  EXPECT_FALSE(call.packed());
  EXPECT_EQ(call.sequences().size(), 2u);
  EXPECT_EQ(call.dim("M"), 3);
}

TEST(BindTest, OutputsTakeTheFirstShapeWhoseSizesTheCallHas) {
  SchemaText text;
  text.id = "toy";
  text.inputs = {"q: float[B,T,H]?", "x: float[B,T,C,D]? if !has(q)"};
  text.outputs = {"o: float[B,T,H]|[B,T,C,D]|[C]"};
  const OpSpec spec = OpSpec::Parse(text).value();
  const auto shape_for = [&spec](absl::string_view input, Dims shape) {
    CallRequest request;
    request.op = "toy";
    request.inputs.Set(input, Zeros(DType::kFloat32, std::move(shape)));
    return Bind(spec, request).value().FindOutput("o")->shape;
  };
  EXPECT_EQ(shape_for("q", {2, 3, 4}), (Dims{2, 3, 4}));
  EXPECT_EQ(shape_for("x", {2, 3, 4, 5}), (Dims{2, 3, 4, 5}));
  CallRequest nothing;
  nothing.op = "toy";
  EXPECT_FALSE(Bind(spec, nothing).ok());
}

TEST(BindTest, Float64CallsKeepFloat64States) {
  CallRequest request = Good();
  request.inputs.Set("q", Zeros(DType::kFloat64, {2, 6, 4, 16}));
  request.inputs.Set("k", Zeros(DType::kFloat64, {2, 5, 2, 16}));
  request.inputs.Set("g", Zeros(DType::kFloat32, {2, 6, 4}));
  EXPECT_EQ(Bind(Toy(), request)->input("g").dtype(), DType::kFloat64);
}

TEST(BindTest, PackedSequences) {
  CallRequest request;
  request.inputs.Set("q", Zeros(DType::kFloat32, {1, 6, 4, 16}));
  request.inputs.Set("k", Zeros(DType::kFloat32, {1, 6, 2, 16}));
  request.inputs.Set("cu_seqlens", HostTensor<int32_t>({4}, {0, 2, 2, 6}));
  const auto call = Bind(Toy(), request);
  ASSERT_TRUE(call.ok()) << call.status();
  EXPECT_EQ(call->dim("M"), 3);
  EXPECT_EQ(call->sequences()[2].begin, 2);
  EXPECT_EQ(call->sequences()[1].length, 0);
  const BoundCall last = call->SequenceCall(call->sequences()[2]);
  EXPECT_EQ(last.input("q").shape(), (Dims{1, 4, 4, 16}));
  EXPECT_EQ(last.dim("MB"), 1);
}

// What is changed in a good request, and what the error must name.
struct Bad {
  const char* name;
  std::function<void(CallRequest&)> change;
  std::vector<std::string> mentions;
};

TEST(BindTest, ErrorsNameTheTensorTheGivenAndTheExpected) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const std::vector<Bad> cases = {
      {"unknown input",
       [](auto& r) { r.inputs.Set("kk", Zeros(DType::kFloat32, {1})); },
       {"kk", "nearest: k"}},
      {"unknown attribute", [](auto& r) { r.attributes.Set("scal", 1.0); }, {"scal", "scale"}},
      {"missing input",
       [](auto& r) { r.inputs.Erase("k"); },
       {"k: missing: given nothing", "expected float[B,S,HK,K]"}},
      {"wrong rank",
       [](auto& r) {
         r.inputs.Set("q", Zeros(DType::kFloat32, {2, 6, 64}));
       },
       {"q", "[2,6,64]"}},
      {"wrong size",
       [](auto& r) {
         r.inputs.Set("k", Zeros(DType::kFloat32, {2, 5, 2, 15}));
       },
       {"k", "15", "K=16"}},
      {"wrong type",
       [](auto& r) {
         r.inputs.Set("q", Zeros(DType::kInt64, {2, 6, 4, 16}));
       },
       {"q", "int64", "float32"}},
      {"mixed types",
       [](auto& r) {
         r.inputs.Set("k", Zeros(DType::kFloat16, {2, 5, 2, 16}));
       },
       {"k", "float16", "float32"}},
      {"float64 gate",
       [](auto& r) {
         r.inputs.Set("g", Zeros(DType::kFloat64, {2, 6, 4}));
       },
       {"g", "float64", "float32"}},
      {"zero size",
       [](auto& r) {
         r.inputs.Set("q", Zeros(DType::kFloat32, {2, 6, 4, 0}));
         r.inputs.Set("k", Zeros(DType::kFloat32, {2, 5, 2, 0}));
       },
       {"K", "at least 1"}},
      {"rule",
       [](auto& r) {
         r.inputs.Set("k", Zeros(DType::kFloat32, {2, 5, 3, 16}));
       },
       {"H=4", "HK=3", "heads that divide"}},
      {"nan", [nan](auto& r) { r.attributes.Set("scale", nan); }, {"scale", "finite"}},
      {"bound",
       [](auto& r) { r.attributes.Set("block", int64_t{0}); },
       {"block", "given 0", ">= 1"}},
      {"choice",
       [](auto& r) { r.attributes.Set("mode", std::string("odd")); },
       {"mode", "odd", "plain"}},
      {"attribute type", [](auto& r) { r.attributes.Set("block", 1.5); }, {"block", "1.5", "int"}},
      {"condition required",
       [](auto& r) { r.attributes.Set("mode", std::string("extra")); },
       {"extra: missing"}},
      {"condition refused",
       [](auto& r) { r.inputs.Set("extra", Zeros(DType::kFloat32, {4})); },
       {"extra", "mode"}},
      {"computed size",
       [](auto& r) { r.inputs.Set("blocks", Zeros(DType::kInt64, {3})); },
       {"blocks", "[3]", "MB=2 (ceil_div(T, block))", "T=6 (q)", "block=4"}},
      {"packed batch",
       [](auto& r) {
         r.inputs.Set("cu_seqlens", HostTensor<int32_t>({2}, {0, 6}));
       },
       {"cu_seqlens", "B=2"}},
  };
  for (const Bad& bad : cases) {
    CallRequest request = Good();
    bad.change(request);
    const auto call = Bind(Toy(), request);
    ASSERT_EQ(call.status().code(), absl::StatusCode::kInvalidArgument) << bad.name;
    EXPECT_THAT(std::string(call.status().message()), HasSubstr("toy: ")) << bad.name;
    for (const std::string& mention : bad.mentions) {
      EXPECT_THAT(std::string(call.status().message()), HasSubstr(mention)) << bad.name;
    }
  }
}

TEST(BindTest, OffsetsOfPackedSequencesAreChecked) {
  for (const auto& offsets :
       std::vector<std::vector<int32_t>>{{1, 6}, {0, 5}, {0, 4, 3, 6}, {0, 7}, {-1, 6}, {0}}) {
    CallRequest request;
    request.inputs.Set("q", Zeros(DType::kFloat32, {1, 6, 4, 16}));
    request.inputs.Set("k", Zeros(DType::kFloat32, {1, 6, 2, 16}));
    request.inputs.Set("cu_seqlens",
                       HostTensor<int32_t>({static_cast<int64_t>(offsets.size())}, offsets));
    const auto call = Bind(Toy(), request);
    EXPECT_EQ(call.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(call.status().message()), HasSubstr("cu_seqlens"));
  }
}

}  // namespace
}  // namespace attnd
