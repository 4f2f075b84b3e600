#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/feature_maps.h"
#include "kernels/cores/recurrence_composed.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "linear_attention",
      .paper =
          "Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention (2020)",
      .summary = "Softmax's exp(q·k) replaced by phi(q)·phi(k), causal or not",
      .core = "linear_recurrent",
      .definition =
          R"(Kernel attention with feature map phi, the base of the family (Katharopoulos et al. 2020).
  M = sum phi(k) v^T,  z = sum phi(k),  o = scale M^T phi(q), optionally / (scale phi(q)·z + eps))",
      .inputs =
          {"q: float[B,T,H,K]", "k: float[B,S,HK,K]", "v: float[B,S,HV,V]",
           "k_mask: bool[B,S]? if !causal  # true: the key counts",
           "initial_state: float32[M,HO,K,V]? if causal ~small  # zeros when absent",
           "initial_state_z: float32[M,HO,K]? if causal && normalize ~positive  # sum of phi(k)",
           "cu_seqlens: int32[M+1]? if causal  # packed sequences, B = 1"},
      .attributes = {"feature_map: {identity, elu1, relu, relu2, silu, exp, softmax} = identity  # "
                     "on q and k",
                     "causal: bool = true",
                     "normalize: bool = false  # divide by phi(q)·sum phi(k)",
                     "scale: float = 1/sqrt(K)  # multiplies phi(q)",
                     "eps: float = 1e-10 >= 0  # added to the denominator"},
      .outputs = {"o: float[B,T,HO,V]", "final_state: float32[M,HO,K,V] if causal",
                  "final_state_z: float32[M,HO,K] if causal && normalize"},
      .derived = {"HO = max(H,HK,HV)"},
      .rules = {"HO % H == 0  # head counts that divide the largest",
                "HO % HK == 0  # head counts that divide the largest",
                "HO % HV == 0  # head counts that divide the largest",
                "causal -> S == T  # as many keys as queries"},
      .may_be_zero = "S",
  };
  return schema;
}

Array Features(Composer& c, absl::string_view name) {
  return Apply(FeatureMapFromName(c.choice("feature_map")), c.In(name)).RepeatTo(2, c.dim("HO"));
}

absl::Status Causal(Composer& c) {
  Recurrence r;
  r.q = Features(c, "q");
  r.k = Features(c, "k");
  r.v = InHeads(c, "v");
  r.scale = c.real("scale");
  r.state = c.In("initial_state");
  r.z = c.In("initial_state_z");
  r.keeps_z = c.flag("normalize");
  const RecurrenceResult result = RunRecurrence(c, r);
  c.Out("o", c.flag("normalize") ? result.o / (result.dots + c.real("eps")) : result.o);
  c.Out("final_state", result.state);
  c.Out("final_state_z", result.z);
  return c.status();
}

absl::Status Whole(Composer& c) {
  // [B,HO,S,K] and so on.
  const Array q = Features(c, "q").Permute({0, 2, 1, 3});
  Array k = Features(c, "k").Permute({0, 2, 1, 3});
  const Array v = InHeads(c, "v").Permute({0, 2, 1, 3});
  const Array mask = c.In("k_mask");
  if (!c.status().ok()) return c.status();
  if (mask.defined()) k = Where(mask.Unsqueeze(1).Unsqueeze(-1), k, 0.0);
  // A masked value must not reach the sum even as 0 times infinity.
  const Array kept = mask.defined() ? Where(mask.Unsqueeze(1).Unsqueeze(-1), v, 0.0) : v;
  Array o = MatMul(q, MatMul(k.T(), kept)) * c.real("scale");
  if (c.flag("normalize")) {
    const Array dots = MatMul(q, Sum(k, 2).T()) * c.real("scale");
    const Array keys = mask.defined()
                           ? Sum(Where(mask, c.Scalar(1), 0.0), 1).Reshape({q.dim(0), 1, 1, 1})
                           : c.Scalar(static_cast<double>(c.dim("S")));
    o = Where(Equal(keys, c.Scalar(0)), c.Scalar(0), o / (dots + c.real("eps")));
  }
  c.Out("o", o.Permute({0, 2, 1, 3}));
  return c.status();
}

absl::Status Compose(Composer& c) { return c.flag("causal") ? Causal(c) : Whole(c); }

// Normalisation divides by phi(q)·z: random inputs keep that away from zero with a positive map.
void Randomise(RandomSource& source) {
  // Often not causal: only a few of a test's calls draw attributes.
  if (source.options().random_attributes) source.Attribute("causal", source.Uniform(0, 3) == 0);
  const AttrValue* normalize = source.request().attributes.Find("normalize");
  if (normalize == nullptr || *normalize != AttrValue(true)) return;
  constexpr const char* kPositive[] = {"elu1", "exp", "softmax"};
  source.Attribute("feature_map", std::string(kPositive[source.Uniform(0, 2)]));
}

}  // namespace

void RegisterLinearAttention(Registry& registry);

void RegisterLinearAttention(Registry& registry) {
  Operator& op = registry.Add(Schema(), Compose);
  op.random = Randomise;
  op.causal = [](const BoundCall& call) { return call.flag("causal"); };
}

}  // namespace attnd
