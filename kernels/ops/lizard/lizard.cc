#include "kernels/core/part_call.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/hedgehog_map.h"
#include "kernels/cores/normalised_sums.h"
#include "kernels/cores/softmax_composed.h"
#include "kernels/cores/tokens_seen.h"
#include "kernels/cores/window_branch.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "lizard",
      .paper = "Lizard: An Efficient Linearization Framework for Large Language Models (2025)",
      .summary = "Gated linear attention of trained features, plus softmax in a window with sinks",
      .core = "linear_recurrent",
      .definition =
          R"(Normalised linear attention with a scalar gate and the map of hedgehog, plus softmax in a window whose sinks take mass alone ("Lizard: An Efficient Linearization Framework for Large Language Models", 2025).
  S_t = sigmoid(gate_t) S_{t-1} + phi(k_t) v_t^T, z likewise;  Y_gate = phi(q)^T S / (phi(q)·z + eps)
  Y_anchor = sum_window e^s v / (mu + sum_window e^s);  o = Y_gate + alpha Y_anchor)",
      .inputs = WindowInputs(
          {"q: float[B,T,H,K]", "k: float[B,T,HK,K]", "v: float[B,T,HV,V]",
           "gate: float32[B,T,HG]  # logit of what a step keeps, one per token or per head",
           "w_q: float[H,K,F] ~small  # a map for each query head",
           "w_k: float[H,K,F]? ~small  # that of the keys; w_q when absent",
           "meta: float32[P]|[H,P]?  # sinks of the window: they take mass and have no values",
           "alpha: float32[HA]  # weight of the window, of all heads or of each",
           "initial_state: float32[M,H,E,V]? ~small  # zeros when absent",
           "initial_state_z: float32[M,H,E]? ~positive  # sum of phi(k)",
           "cu_seqlens: int32[M+1]?  # packed sequences, B = 1"}),
      .attributes = HedgehogAttributes(
          {"window: int = 128 >= 1  # tokens that the window holds, the query's own among them",
           "scale: float = 1/sqrt(K)  # of the window",
           "meta_space: {logit, linear} = logit  # sinks' mass: sum e^meta, or sum meta",
           "eps: float = 1e-12 >= 0  # added to the denominator of the linear branch"}),
      .outputs = WindowOutputs(
          {"o: float[B,T,H,V]", "final_state: float32[M,H,E,V]", "final_state_z: float32[M,H,E]"}),
      .derived = {kHedgehogFeatures, "C = window"},
      .rules = WindowRules({kQueryHeadsRule,
                            "HG == 1 || HG == H  # a gate for each token or for each head",
                            "HA == 1 || HA == H  # a weight for all heads or for each",
                            "has(initial_state) == has(initial_state_z)  # all of the state, or "
                            "none of it",
                            "has(initial_state) == has(initial_state_k)  # all of the state, or "
                            "none of it"}),
      .may_be_zero = "P",
  };
  return schema;
}

// The window's output, after its sinks.
Array Anchor(Composer& c, PartCall& window) {
  const bool sinks = c.has("meta") && c.dim("P") > 0;
  if (!sinks) return window.Out("o");
  const int64_t H = c.dim("H");
  const Array meta = c.In("meta");
  if (!c.status().ok()) return {};
  const Array by_head = meta.rank() == 2 ? meta : meta.Expand({H, c.dim("P")});
  if (c.choice("meta_space") == "logit") {
    Array mass;
    Softmax(by_head, {}, &mass);
    window.In("sinks", mass.Reshape({H}));
    return window.Out("o");
  }
  window.Set("return_lse", true);
  // o e^lse / (e^lse + mu)
  const Array ratio = Sum(by_head, -1).Reshape({H}) * Exp(-window.Out("lse"));
  return window.Out("o") / (ratio + 1.0).Unsqueeze(-1);
}

absl::Status Compose(Composer& c) {
  NormalisedCall linear;
  linear.q = HedgehogQueries(c, c.In("q"));
  linear.k = HedgehogKeys(c, c.In("k"));
  linear.v = c.In("v");
  linear.g = -Softplus(-c.In("gate"));
  linear.state = c.In("initial_state");
  linear.z = c.In("initial_state_z");
  const NormalisedSums gated = SumWithNormaliser(c, linear);
  PartCall window = WindowBranch(c, c.integer("window") - 1);
  const Array anchor = Anchor(c, window);
  c.Out("o", gated.sums / (gated.total + c.real("eps")) + c.In("alpha").Unsqueeze(-1) * anchor);
  c.Out("final_state", gated.state);
  c.Out("final_state_z", gated.z);
  WindowStates(c, window);
  return c.status();
}

void Draw(RandomSource& source) {
  source.Attribute("window", source.Uniform(1, 40));
  source.Together({"initial_state", "initial_state_z", "initial_state_k", "initial_state_v",
                   "initial_state_pos"});
  DrawWindow(source, std::get<int64_t>(*source.request().attributes.Find("window")));
  const int64_t heads = *source.dims().Find("H");
  source.Dim("HG", source.Uniform(0, 1) == 0 ? 1 : heads);
  source.Dim("HA", source.Uniform(0, 1) == 0 ? 1 : heads);
  source.Dim("F", source.Uniform(2, 12));
  // Sums of normal draws may cancel the window's own mass.
  if (source.Wants("meta")) source.Attribute("meta_space", std::string("logit"));
}

}  // namespace

void RegisterLizard(Registry& registry);

void RegisterLizard(Registry& registry) {
  Operator& op = registry.AddOfParts(Schema(), Compose);
  op.check = [](const BoundCall& call) { return CheckTokensSeen(call, "initial_state_pos"); };
  op.random = Draw;
  op.causal = [](const BoundCall&) { return true; };
}

}  // namespace attnd
