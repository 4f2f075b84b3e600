#include "kernels/core/part_call.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/feature_maps.h"
#include "kernels/cores/softmax_composed.h"
#include "kernels/cores/tokens_seen.h"
#include "kernels/cores/window_branch.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "liger",
      .paper = "Liger: Linearizing Large Language Models to Gated Recurrent Structures (2025)",
      .summary = "A linear recurrence gated by the key, averaged with softmax in a window",
      .core = "linear_recurrent",
      .definition =
          R"(A gated linear recurrence whose gate is the key itself, averaged with softmax attention in a window ("Liger: Linearizing Large Language Models to Gated Recurrent Structures", 2025).
  gla:    q' = softmax(q), k' = softmax(k), g = ln sigmoid(k) / gate_normalizer
  hgrn2:  q' = softmax(q), k' = 1 - sigmoid(k), g = ln sigmoid(k)
  o_t = window_weight win_t + linear_weight S_t^T q'_t,  S_t = diag(e^g_t) S_{t-1} + k'_t v_t^T)",
      .inputs = WindowInputs({"q: float[B,T,H,K]  # not rotated", "k: float[B,T,HK,K]",
                              "v: float[B,T,HV,V]",
                              "initial_state: float32[M,H,K,V]? ~small  # zeros when absent",
                              "cu_seqlens: int32[M+1]?  # packed sequences, B = 1"}),
      .attributes = {"variant: {gla, hgrn2} = gla",
                     "gate_normalizer: float = 16.0 > 0  # gla: divides the gate's logarithm",
                     "window_left: int = 64 >= 0  # tokens before the query that the window holds",
                     "window_weight: float = 0.5", "linear_weight: float = 0.5",
                     "scale: float = 1/sqrt(K)  # of the window; the recurrence has none"},
      .outputs = WindowOutputs({"o: float[B,T,H,V]", "final_state: float32[M,H,K,V]"}),
      .derived = {"C = window_left + 1"},
      .rules = WindowRules({kQueryHeadsRule}),
  };
  return schema;
}

absl::Status Compose(Composer& c) {
  const Array k = c.In("k");
  PartCall linear(c, "gla");
  linear.In("q", Apply(FeatureMap::kSoftmax, c.In("q"))).Pass("v").Pass("initial_state");
  linear.Set("scale", 1.0);
  if (c.choice("variant") == "gla") {
    linear.In("k", Apply(FeatureMap::kSoftmax, k));
    linear.In("g", Softplus(-k) / -c.real("gate_normalizer"));
  } else {
    linear.In("k", Sigmoid(-k)).In("g", -Softplus(-k));
  }
  PartCall window = WindowBranch(c, c.integer("window_left"));
  c.Out("o", window.Out("o") * c.real("window_weight") + linear.Out("o") * c.real("linear_weight"));
  c.Out("final_state", linear.Out("final_state"));
  WindowStates(c, window);
  return c.status();
}

void Draw(RandomSource& source) {
  source.Attribute("window_left", source.Uniform(0, 40));
  DrawWindow(source, std::get<int64_t>(*source.request().attributes.Find("window_left")) + 1);
}

}  // namespace

void RegisterLiger(Registry& registry);

void RegisterLiger(Registry& registry) {
  Operator& op = registry.AddOfParts(Schema(), Compose);
  op.check = [](const BoundCall& call) { return CheckTokensSeen(call, "initial_state_pos"); };
  op.random = Draw;
  op.causal = [](const BoundCall&) { return true; };
}

}  // namespace attnd
