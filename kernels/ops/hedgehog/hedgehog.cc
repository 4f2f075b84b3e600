#include "kernels/core/part_call.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/hedgehog_map.h"
#include "kernels/cores/softmax_composed.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "hedgehog",
      .paper =
          "The Hedgehog & the Porcupine: Expressive Linear Attentions with Softmax Mimicry (2024)",
      .summary = "Normalised linear attention with a trained map that imitates softmax",
      .core = "linear_recurrent",
      .definition =
          R"(Normalised linear attention whose feature map, one linear layer per head between two exponentials, imitates softmax ("The Hedgehog & the Porcupine", 2024).
  o_t = phi(q_t)^T sum phi(k_s) v_s^T / (phi(q_t)·sum phi(k_s) + eps))",
      .inputs = {"q: float[B,T,H,K]", "k: float[B,S,HK,K]", "v: float[B,S,HV,V]",
                 "w_q: float[H,K,F] ~small  # a map for each query head",
                 "w_k: float[H,K,F]? ~small  # that of the keys; w_q when absent",
                 "b_q: float[H,F]?  # added to q w_q; to k w_q too when w_k is absent",
                 "b_k: float[H,F]? if has(w_k)  # added to k w_k",
                 "initial_state: float32[M,H,E,V]? if causal ~small  # zeros when absent",
                 "initial_state_z: float32[M,H,E]? if causal && has(initial_state) ~positive  # "
                 "sum of phi(k)",
                 "cu_seqlens: int32[M+1]? if causal  # packed sequences, B = 1"},
      .attributes = HedgehogAttributes(
          {"causal: bool = true", "eps: float = 1e-12 >= 0  # added to the denominator"}),
      .outputs = {"o: float[B,T,H,V]", "final_state: float32[M,H,E,V] if causal",
                  "final_state_z: float32[M,H,E] if causal"},
      .derived = {kHedgehogFeatures},
      .rules = {kQueryHeadsRule, "causal -> S == T  # as many keys as queries"},
      .may_be_zero = "S",
      .float32_tolerance = 1e-4,  // Maps amplify the rounding of q and k.
  };
  return schema;
}

absl::Status Compose(Composer& c) {
  PartCall attention(c, "linear_attention");
  attention.In("q", HedgehogQueries(c, c.In("q"))).In("k", HedgehogKeys(c, c.In("k"))).Pass("v");
  attention.Pass("initial_state").Pass("initial_state_z");
  attention.PassAttribute("causal").PassAttribute("eps").Set("normalize", true).Set("scale", 1.0);
  c.Out("o", attention.Out("o"));
  c.Out("final_state", attention.Out("final_state"));
  c.Out("final_state_z", attention.Out("final_state_z"));
  return c.status();
}

void Draw(RandomSource& source) {
  source.Together({"initial_state", "initial_state_z"});
  source.Dim("F", source.Uniform(2, 20));
  // Often not causal: only a few of a test's calls draw attributes.
  if (source.options().random_attributes) source.Attribute("causal", source.Uniform(0, 3) == 0);
}

}  // namespace

void RegisterHedgehog(Registry& registry);

void RegisterHedgehog(Registry& registry) {
  Operator& op = registry.AddOfParts(Schema(), Compose);
  op.random = Draw;
  op.causal = [](const BoundCall& call) { return call.flag("causal"); };
}

}  // namespace attnd
