#include <vector>

#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/feature_maps.h"
#include "kernels/cores/softmax_composed.h"
#include "kernels/cores/tokens_seen.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "flow_attention",
      .paper = "Flowformer: Linearizing Transformers with Conservation Flows (2022)",
      .summary = "Linear attention whose sources compete and whose sinks are allotted flow",
      .core = "linear_global",
      .definition =
          R"(Linear attention in which sources compete for outgoing flow and sinks are allotted incoming flow (Wu et al., "Flowformer: Linearizing Transformers with Conservation Flows", 2022). With a = phi(q), b = phi(k), and e for eps added to every component of a vector, not causal:
  I_i = 1/((a_i + e).(sum_j b_j + e)),  O_j = 1/((b_j + e).(sum_i a_i + e))
  sink_i = (a_i + e).(sum_j b_j O_j + e),  source_j = clip((b_j + e).(sum_i a_i I_i + e))
  o_i = sigmoid(sink_i T/S) I_i sum_j (a_i.b_j) comp_j v_j,  comp = S softmax(source)
Causal: every sum and the softmax run over tokens up to t, I and O are times n, the number of those tokens, sink and source over n, and o_t = sigmoid(sink_t) (I_t/n) sum_{s<=t} (a_t.b_s) comp_s v_s.)",
      .inputs =
          {"q: float[B,T,H,K]", "k: float[B,S,H,K]", "v: float[B,S,H,V]",
           "cu_seqlens: int32[M+1]? if causal  # packed sequences, B = 1",
           "initial_state: float32[M,H,K,V]? if causal ~small  # sum phi(k) (comp v)^T",
           "initial_state_k: float32[M,H,K] if has(initial_state) ~positive  # sum phi(k)",
           "initial_state_q: float32[M,H,K] if has(initial_state) ~positive  # sum phi(q)",
           "initial_state_ko: float32[M,H,K] if has(initial_state) ~positive  # sum phi(k) O",
           "initial_state_qi: float32[M,H,K] if has(initial_state) ~positive  # sum phi(q) I",
           "initial_state_exp: float32[M,H] if has(initial_state) ~positive  # sum exp(source)",
           "initial_state_count: int[M] if has(initial_state)  # tokens seen"},
      .attributes =
          {"causal: bool = false",
           "feature_map: {sigmoid, relu} = sigmoid  # relu: max(x, 0) + 1e-6", "eps: float = 1e-6",
           "clamp: float = 1.0  # the source is clipped to +-clamp; 0 or less: it is not"},
      .outputs = {"o: float[B,T,H,V]", "final_state: float32[M,H,K,V] if causal",
                  "final_state_k: float32[M,H,K] if causal",
                  "final_state_q: float32[M,H,K] if causal",
                  "final_state_ko: float32[M,H,K] if causal",
                  "final_state_qi: float32[M,H,K] if causal",
                  "final_state_exp: float32[M,H] if causal",
                  "final_state_count: int64[M] if causal"},
      .rules = {"causal -> S == T  # as many keys as queries when causal",
                "T > 0 -> S > 0  # at least one key"},
      .may_be_zero = "S",
      .float32_tolerance = 1e-4,
  };
  return schema;
}

Array Clip(Composer& c, const Array& x) {
  const double clamp = c.real("clamp");
  return clamp > 0 ? Minimum(Maximum(x, -clamp), clamp) : x;
}

// Features in heads, [B,H,T,K].
Array Features(Composer& c, absl::string_view name) {
  const bool relu = c.choice("feature_map") == "relu";
  return Apply(relu ? FeatureMap::kReluEps : FeatureMap::kSigmoid, c.In(name).Transpose(1, 2));
}

// (x + e).(y + e) over channels, [..,1].
Array Dot(const Array& x, const Array& y, double e) { return Sum((x + e) * (y + e), -1); }

Array Inverse(const Array& x) { return Apply(UnaryOp::kReciprocal, x); }

void ComposeNormal(Composer& c) {
  const Array a = Features(c, "q"), b = Features(c, "k"), v = c.In("v").Transpose(1, 2);
  const double e = c.real("eps");
  const auto queries = static_cast<double>(c.dim("T")), keys = static_cast<double>(c.dim("S"));
  const Array in = Inverse(Dot(a, Sum(b, 2), e));
  const Array out = Inverse(Dot(b, Sum(a, 2), e));
  const Array sink = Dot(a, Sum(b * out, 2), e);
  const Array source = Clip(c, Dot(b, Sum(a * in, 2), e));
  const Array allocation = Sigmoid(sink * (queries / keys));
  const Array competition = Softmax(source.T()).T() * keys;
  c.Out("o", (allocation * in * MatMul(MatMul(a, b.T()), competition * v)).Transpose(1, 2));
}

void ComposeCausal(Composer& c) {
  const Array a = Features(c, "q"), b = Features(c, "k"), v = c.In("v").Transpose(1, 2);
  const double e = c.real("eps");
  const int64_t tokens = c.dim("T"), sequences = a.dim(0), heads = a.dim(1);
  // A state as what comes before the first token, [M,H,1,..].
  const auto before = [&](absl::string_view name, const Dims& shape) {
    return c.has(name) ? c.In(name).Reshape(shape) : c.Zeros(shape);
  };
  const Dims vector = {sequences, heads, 1, c.dim("K")};
  const Array sum_k = before("initial_state_k", vector);
  const Array sum_q = before("initial_state_q", vector);
  const Array sum_ko = before("initial_state_ko", vector);
  const Array sum_qi = before("initial_state_qi", vector);
  const Array sum_exp = before("initial_state_exp", {sequences, heads, 1, 1});
  const Array state = before("initial_state", {sequences, heads, c.dim("K"), c.dim("V")});
  Array seen = c.Cast(c.In("initial_state_count"), DType::kFloat64);
  if (!seen.defined()) seen = c.Cast(c.Zeros({sequences}), DType::kFloat64);
  const Array n = c.Cast(
      c.Cast(c.Iota(tokens, 1), DType::kFloat64).Unsqueeze(1) + seen.Reshape({sequences, 1, 1, 1}),
      c.compute_type());

  const Array in = n * Inverse(Dot(a, CumSum(b, 2) + sum_k, e));
  const Array out = n * Inverse(Dot(b, CumSum(a, 2) + sum_q, e));
  const Array sink = Dot(a, CumSum(b * out, 2) + sum_ko, e) / n;
  const Array source = Clip(c, Dot(b, CumSum(a * in, 2) + sum_qi, e) / n);
  const Array strength = Exp(source);
  const Array value = n * strength / (CumSum(strength, 2) + sum_exp) * v;
  const Array scores = MatMul(a, b.T());
  const Array earlier = WindowPairs(c, tokens, tokens, /*causal=*/true, -1, -1);
  const Array flow =
      WeighedValues(c, Where(earlier, scores, 0.0), earlier, value) + MatMul(a, state);
  c.Out("o", (Sigmoid(sink) * in / n * flow).Transpose(1, 2));

  const Dims final_vector = {sequences, heads, c.dim("K")};
  c.Out("final_state", state + MatMul(b.T(), value));
  c.Out("final_state_k", (sum_k + Sum(b, 2)).Reshape(final_vector));
  c.Out("final_state_q", (sum_q + Sum(a, 2)).Reshape(final_vector));
  c.Out("final_state_ko", (sum_ko + Sum(b * out, 2)).Reshape(final_vector));
  c.Out("final_state_qi", (sum_qi + Sum(a * in, 2)).Reshape(final_vector));
  c.Out("final_state_exp", (sum_exp + Sum(strength, 2)).Reshape({sequences, heads}));
  c.Out("final_state_count", seen + static_cast<double>(tokens));
}

absl::Status Compose(Composer& c) {
  c.flag("causal") ? ComposeCausal(c) : ComposeNormal(c);
  return c.status();
}

void Draw(RandomSource& source) {
  if (source.options().packed) source.Attribute("causal", true);
  if (source.options().random_attributes) source.Attribute("causal", source.Uniform(0, 2) != 0);
  const AttrValue* causal = source.request().attributes.Find("causal");
  if (causal == nullptr || !std::get<bool>(*causal)) return;
  source.Dim("S", source.Dim("T", source.Uniform(1, 70)));
  if (source.options().packed || !source.Wants("initial_state")) return;
  std::vector<int64_t> seen(static_cast<size_t>(source.Dim("B", source.Uniform(1, 3))));
  for (int64_t& tokens : seen) tokens = source.Uniform(1, 20);
  source.request().inputs.Set("initial_state_count",
                              HostTensor<int64_t>({static_cast<int64_t>(seen.size())}, seen));
}

}  // namespace

void RegisterFlowAttention(Registry& registry);

void RegisterFlowAttention(Registry& registry) {
  Operator& op = registry.Add(Schema(), Compose);
  op.check = [](const BoundCall& call) { return CheckTokensSeen(call, "initial_state_count"); };
  op.random = Draw;
  op.causal = [](const BoundCall& call) { return call.flag("causal"); };
}

}  // namespace attnd
