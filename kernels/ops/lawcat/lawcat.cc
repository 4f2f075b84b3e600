#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/core/part_call.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/hedgehog_map.h"
#include "kernels/cores/normalised_sums.h"
#include "kernels/cores/softmax_composed.h"

namespace attnd {
namespace {

constexpr char kAllOfTheState[] = "  # all of the state, or none of it";

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "lawcat",
      .paper =
          "LAWCAT: Efficient Distillation from Quadratic to Linear Attention with Convolution "
          "across Tokens for Long Context Modeling (2025)",
      .summary = "Convolved queries and keys, trained features, gated normalised recurrence",
      .core = "linear_recurrent",
      .definition =
          R"(A short causal convolution of queries and keys, then normalised linear attention of hedgehog's features with a gate per key channel ("LAWCAT: Efficient Distillation from Quadratic to Linear Attention with Convolution across Tokens for Long Context Modeling", 2025).
  q~ = conv(q), k~ = conv(k), g = ln sigmoid(gate) / gate_normalizer
  S_t = diag(e^g_t) S_{t-1} + phi(k~_t) v_t^T, z likewise;  o = scale phi(q~)^T S / (scale phi(q~)·z + eps))",
      .inputs = {"q: float[B,T,H,K]  # not rotated", "k: float[B,T,HK,K]", "v: float[B,T,HV,V]",
                 "gate: float32[B,T,HG,G]  # logits of the decay, per feature or per head",
                 "conv_q: float[H,K,C]  # tap C-1 meets the current token",
                 "conv_k: float[H,K,C]  # of the keys, repeated to the query heads",
                 "w_q: float[H,K,F] ~small  # a map for each query head",
                 "w_k: float[H,K,F]? ~small  # that of the keys; w_q when absent",
                 "initial_state: float32[M,H,E,V]? ~small  # zeros when absent",
                 "initial_state_z: float32[M,H,E]? ~positive  # sum of phi(k)",
                 "initial_state_conv_q: float32[M,H,K,C-1]?  # the last C-1 inputs, oldest first",
                 "initial_state_conv_k: float32[M,H,K,C-1]?",
                 "cu_seqlens: int32[M+1]?  # packed sequences, B = 1"},
      .attributes =
          HedgehogAttributes({"gate_normalizer: float = 16.0 > 0  # divides the gate's logarithm",
                              "eps: float = 1e-10 >= 0  # added to the denominator",
                              "scale: float = 1/sqrt(E)  # multiplies phi(q)"}),
      .outputs = {"o: float[B,T,H,V]", "final_state: float32[M,H,E,V]",
                  "final_state_z: float32[M,H,E]", "final_state_conv_q: float32[M,H,K,C-1]",
                  "final_state_conv_k: float32[M,H,K,C-1]"},
      .derived = {kHedgehogFeatures},
      .rules = {kQueryHeadsRule, "H % HG == 0  # gate heads that divide the query heads",
                "G == 1 || G == E  # a gate for each feature, or one for all",
                std::string("has(initial_state) == has(initial_state_z)") + kAllOfTheState,
                std::string("has(initial_state) == has(initial_state_conv_q)") + kAllOfTheState,
                std::string("has(initial_state) == has(initial_state_conv_k)") + kAllOfTheState},
  };
  return schema;
}

// x [B,T,HX,K], repeated to the query heads and convolved; writes its state.
Array Convolved(Composer& c, const Array& x, absl::string_view which) {
  const int64_t B = c.dim("B"), T = c.dim("T"), H = c.dim("H"), K = c.dim("K"), C = c.dim("C");
  const std::string state = absl::StrCat("initial_state_conv_", which);
  PartCall conv(c, "short_conv");
  conv.In("x", x.RepeatTo(2, H).Reshape({B, T, H * K})).Set("activation", std::string("none"));
  conv.In("weight", c.In(absl::StrCat("conv_", which)).Reshape({H * K, C}));
  if (c.has(state)) conv.In("initial_state", c.In(state).Reshape({B, H * K, C - 1}));
  c.Out(absl::StrCat("final_state_conv_", which),
        conv.Out("final_state").Reshape({B, H, K, C - 1}));
  return conv.Out("o").Reshape({B, T, H, K});
}

absl::Status Compose(Composer& c) {
  NormalisedCall linear;
  linear.q = HedgehogQueries(c, Convolved(c, c.In("q"), "q"));
  linear.k = HedgehogKeys(c, Convolved(c, c.In("k"), "k"));
  linear.v = c.In("v");
  const Array g = Softplus(-c.In("gate")) / -c.real("gate_normalizer");
  linear.g = c.dim("G") == 1 ? g.Reshape({c.dim("B"), c.dim("T"), c.dim("HG")}) : g;
  linear.state = c.In("initial_state");
  linear.z = c.In("initial_state_z");
  linear.scale = c.real("scale");
  const NormalisedSums sums = SumWithNormaliser(c, linear);
  c.Out("o", sums.sums / (sums.total + c.real("eps")));
  c.Out("final_state", sums.state);
  c.Out("final_state_z", sums.z);
  return c.status();
}

void Draw(RandomSource& source) {
  source.Together(
      {"initial_state", "initial_state_z", "initial_state_conv_q", "initial_state_conv_k"});
  const int64_t heads = source.Dim("HK", source.Uniform(1, 2));
  source.Dim("HV", heads);
  source.Dim("HG", heads);
  source.Dim("H", heads * source.Uniform(1, 2));
  const int64_t features = source.Dim("F", source.Uniform(2, 12));
  const AttrValue* full = source.request().attributes.Find("fullspace");
  const int64_t size = full != nullptr && *full == AttrValue(false) ? features : 2 * features;
  source.Dim("G", source.Uniform(0, 1) == 0 ? 1 : size);
}

}  // namespace

void RegisterLawcat(Registry& registry);

void RegisterLawcat(Registry& registry) {
  Operator& op = registry.AddOfParts(Schema(), Compose);
  op.random = Draw;
  op.causal = [](const BoundCall&) { return true; };
}

}  // namespace attnd
