#include "kernels/core/part_call.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/feature_maps.h"
#include "kernels/cores/output_norm.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "norm_attention",
      .paper = "The Devil in Linear Transformer (2022)",
      .summary = "Linear attention with a norm of its output in the place of a denominator",
      .core = "linear_recurrent",
      .definition =
          R"(Linear attention whose output is normalised in the place of being divided (Qin et al., 2022).
  y_t = scale (sum_s phi(k_s) v_s^T)^T phi(q_t),  o_t = norm(y_t) u_t)",
      .inputs = OutputNormInputs(
          {"q: float[B,T,H,K]", "k: float[B,S,HK,K]", "v: float[B,S,HV,V]",
           "u: float[B,T,HO,V]?  # multiplies the normalised output",
           "initial_state: float32[M,HO,K,V]? if causal ~small  # zeros when absent",
           "cu_seqlens: int32[M+1]? if causal  # packed sequences, B = 1"}),
      .attributes = OutputNormAttributes(
          {"feature_map: {elu1, elu, relu, silu, sigmoid, gelu, identity} = elu1  # on q and k; "
           "gelu exact",
           "causal: bool = true", "scale: float = 1.0  # the norm removes it, up to eps"},
          "rms"),
      .outputs = {"o: float[B,T,HO,V]", "final_state: float32[M,HO,K,V] if causal"},
      .derived = {"HO = max(H,HK,HV)"},
      .rules = {"HO % H == 0  # head counts that divide the largest",
                "HO % HK == 0  # head counts that divide the largest",
                "HO % HV == 0  # head counts that divide the largest",
                "causal -> S == T  # as many keys as queries"},
      .may_be_zero = "S",
  };
  return schema;
}

// Maps that linear_attention lacks, taken before it.
Array Features(const std::string& map, const Array& x) {
  if (map == "elu") return Apply(FeatureMap::kElu1, x) - 1.0;
  return map == "gelu" ? Gelu(x) : Sigmoid(x);
}

absl::Status Compose(Composer& c) {
  PartCall attention(c, "linear_attention");
  const std::string& map = c.choice("feature_map");
  if (map == "elu" || map == "gelu" || map == "sigmoid") {
    attention.In("q", Features(map, c.In("q"))).In("k", Features(map, c.In("k")));
  } else {
    attention.Pass("q").Pass("k").PassAttribute("feature_map");
  }
  attention.Pass("v").Pass("initial_state").PassAttribute("causal").PassAttribute("scale");
  const Array o = OutputNorm(c, attention.Out("o"));
  c.Out("o", c.has("u") ? o * c.In("u") : o);
  c.Out("final_state", attention.Out("final_state"));
  return c.status();
}

// Rows of few channels may come near zero, where a norm makes noise of rounding.
void Draw(RandomSource& source) {
  source.Dim("V", source.Uniform(4, 40));
  // Often not causal: only a few of a test's calls draw attributes.
  if (source.options().random_attributes) source.Attribute("causal", source.Uniform(0, 3) == 0);
}

}  // namespace

void RegisterNormAttention(Registry& registry);

void RegisterNormAttention(Registry& registry) {
  Operator& op = registry.AddOfParts(Schema(), Compose);
  op.random = Draw;
  op.causal = [](const BoundCall& call) { return call.flag("causal"); };
}

}  // namespace attnd
