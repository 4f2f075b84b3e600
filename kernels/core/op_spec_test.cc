#include "kernels/core/op_spec.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace attnd {
namespace {

using ::testing::HasSubstr;

SchemaText Toy() {
  SchemaText text;
  text.id = "toy";
  text.inputs = {"q: float[B,T,H,K]",
                 "g: float32[B,T,H,K]|[B,T,H]? if gate != 'none' ~logdecay  # a gate",
                 "initial_state: float32[M,H,K]?", "cu_seqlens: int32[M+1]?"};
  text.attributes = {"scale: float = 1/sqrt(K)", "gate: {none, log} = none",
                     "window: int[] = [-1,-1] >= -1", "height: int? >= 1", "causal: bool = true"};
  text.outputs = {"o: float[B,T,H,K]", "final_state: float32[M,H,K]"};
  text.derived = {"HO = max(H,2)"};
  text.rules = {"causal -> T == T  # a sentence"};
  return text;
}

TEST(OpSpecTest, ReadsEveryPart) {
  const auto spec = OpSpec::Parse(Toy());
  ASSERT_TRUE(spec.ok()) << spec.status();
  const Port& gate = *spec->FindInput("g");
  EXPECT_EQ(gate.type, PortType::kFloat32);
  EXPECT_EQ(gate.shapes.size(), 2u);
  EXPECT_TRUE(gate.optional);
  EXPECT_EQ(gate.condition->text(), "gate != 'none'");
  EXPECT_EQ(gate.distribution, "logdecay");
  EXPECT_EQ(gate.doc, "a gate");
  EXPECT_EQ(gate.AxisOf("T", 1), 1);
  EXPECT_EQ(gate.AxisOf("K", 1), -1);
  EXPECT_EQ(spec->FindAttribute("gate")->choices, (std::vector<std::string>{"none", "log"}));
  EXPECT_EQ(*spec->FindAttribute("window")->default_list, AttrValue(std::vector<int64_t>{-1, -1}));
  EXPECT_TRUE(spec->FindAttribute("height")->optional);
  EXPECT_EQ(spec->rules()[0].sentence, "a sentence");
  EXPECT_TRUE(spec->packs());
  EXPECT_TRUE(spec->has_state());
}

TEST(OpSpecTest, NamesTheLineThatIsWrong) {
  const auto broken = [](auto change) {
    SchemaText text = Toy();
    change(text);
    const auto spec = OpSpec::Parse(text);
    EXPECT_EQ(spec.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(spec.status().message());
  };
  EXPECT_THAT(broken([](SchemaText& t) { t.inputs[0] = "q float[B]"; }), HasSubstr("q float[B]"));
  EXPECT_THAT(broken([](SchemaText& t) { t.inputs[0] = "q: complex[B]"; }), HasSubstr("complex"));
  EXPECT_THAT(broken([](SchemaText& t) { t.inputs[0] = "q: float[B"; }), HasSubstr("q: float[B"));
  EXPECT_THAT(broken([](SchemaText& t) { t.inputs[1] = "q: float[B]"; }), HasSubstr("taken"));
  EXPECT_THAT(broken([](SchemaText& t) { t.inputs[0] = "q: float[B] ~odd"; }), HasSubstr("odd"));
  EXPECT_THAT(broken([](SchemaText& t) { t.attributes[1] = "gate: {a, b} = c"; }),
              HasSubstr("choices"));
  EXPECT_THAT(broken([](SchemaText& t) { t.attributes[0] = "scale: real = 1"; }),
              HasSubstr("type"));
  EXPECT_THAT(broken([](SchemaText& t) { t.derived[0] = "HO max(H)"; }), HasSubstr("HO max(H)"));
  EXPECT_THAT(broken([](SchemaText& t) { t.rules[0] = "causal ->"; }), HasSubstr("causal ->"));
  EXPECT_THAT(broken([](SchemaText& t) { t.inputs[0] = std::string(5000, 'q'); }),
              HasSubstr("4096"));
}

TEST(OpSpecTest, FinalStateNames) {
  EXPECT_EQ(FinalStateName("initial_state"), "final_state");
  EXPECT_EQ(FinalStateName("initial_state_pos"), "final_state_pos");
  EXPECT_EQ(FinalStateName("initial_stateful"), "");
  EXPECT_EQ(FinalStateName("q"), "");
}

}  // namespace
}  // namespace attnd
