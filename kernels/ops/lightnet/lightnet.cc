#include <limits>
#include <string>

#include "kernels/core/part_call.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/grid.h"
#include "kernels/cores/lrpe.h"
#include "kernels/cores/scan_state.h"
#include "kernels/cores/tokens_seen.h"

namespace attnd {
namespace {

constexpr double kNothing = -std::numeric_limits<double>::infinity();

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "lightnet",
      .paper =
          "You Only Scan Once: Efficient Multi-dimension Sequential Modeling with LightNet (2024)",
      .summary = "Each key channel keeps the softmax-weighted running mean of the values",
      .core = "linear_recurrent",
      .definition =
          R"(Each key channel keeps the softmax-weighted running mean of the values (Qin et al., "You Only Scan Once", 2024).
  causal: z_t = ln(e^z_{t-1} + e^k_t), a_t = e^(z_{t-1} - z_t), p_t = e^(k_t - z_t)
          S_t = diag(a_t) S_{t-1} + p_t v_t^T,  o_t = scale S_t^T silu(q_t)
  full:   p = softmax of k over all tokens,  o_t = scale (sum_s p_s v_s^T)^T silu(q_t)
With lrpe, p and silu(q) are encoded by position before the products.)",
      .inputs = {"q: float[B,T,H,K]  # before silu", "k: float[B,T,H,K]  # logits",
                 "v: float[B,T,H,V]",
                 "theta: float32[HT,E]? if lrpe != 'none'  # angles per position, of each head or "
                 "of all; base^(-2 i / K) when absent",
                 "initial_state: float32[M,H,KS,V]? if causal ~small  # zeros when absent",
                 "initial_state_z: float32[M,H,K]? if causal  # ln of the sum of e^k so far; -inf",
                 "initial_state_pos: int64[M]? if lrpe != 'none' && !has(width)  # tokens seen; 0",
                 "cu_seqlens: int32[M+1]? if causal  # packed sequences, B = 1"},
      .attributes = GridAttributes(
          {"causal: bool = true", "q_silu: bool = true", "scale: float = 1/sqrt(K)",
           "lrpe: {none, rotate, cosine} = none  # of silu(q) and of the normalised key",
           "base: float = 10000 > 0  # of the default theta"}),
      .outputs = {"o: float[B,T,H,V]", "final_state: float32[M,H,KS,V] if causal",
                  "final_state_z: float32[M,H,K] if causal",
                  "final_state_pos: int64[M] if causal && lrpe != 'none'"},
      .derived = {"KS = select(lrpe == 'cosine', 2 * K, K)",
                  "n = select(lrpe == 'rotate', ceil_div(K, 2), K)",
                  "axes = select(has(depth), 3, select(has(height), 2, 1))",
                  "least = ceil_div(n, axes)"},
      .rules =
          GridRules({"has(width) -> !causal  # a grid without causality",
                     "lrpe == 'rotate' -> K % 2 == 0  # an even K with rotate",
                     "has(width) && lrpe != 'none' -> has(theta)  # theta with a grid",
                     "has(theta) -> HT == 1 || HT == H  # theta of every head, or of all",
                     "has(theta) && !has(width) -> E <= n  # no more angles than a row has",
                     "has(theta) && has(width) -> E >= least  # angles for a row from all axes"},
                    "T"),
  };
  return schema;
}

// What lrpe does to queries and keys; the identity without it.
class Encoding {
 public:
  explicit Encoding(Composer& c)
      : form_{c.choice("lrpe") == "cosine" ? LrpeKind::kCosine : LrpeKind::kRotate, c.dim("K"),
              c.dim("axes")} {
    if (c.choice("lrpe") == "none") return;
    const int64_t T = c.dim("T");
    const Array theta = c.has("theta") ? c.In("theta") : SharedLrpeTheta(c, form_, c.real("base"));
    angles_ = c.call().has_attribute("width")
                  ? LrpeGridAngles(c, form_, theta, GridOf(c.call(), T), 0)
                  : LrpeAngles(c, form_, theta, c.In("initial_state_pos"), c.dim("B"), T);
  }
  Array operator()(const Array& x) const {
    return angles_.defined() ? EncodeLrpe(form_, x, angles_) : x;
  }

 private:
  LrpeForm form_;
  Array angles_;
};

void Causal(Composer& c, const Encoding& encode, const Array& q) {
  const int64_t B = c.dim("B"), T = c.dim("T"), H = c.dim("H"), K = c.dim("K");
  // Logits of a thousand leave float32 few digits for differences.
  const Array k = c.Cast(c.In("k"), DType::kFloat64);
  Array before = c.Cast(c.In("initial_state_z"), DType::kFloat64);
  const Array z = LogSumExpScan(k, before);
  if (!before.defined()) before = c.Cast(c.Full({B, H, K}, kNothing), DType::kFloat64);
  if (!c.status().ok()) return;
  const Array previous = T == 0 ? z : Concat(before.Unsqueeze(1), z.Slice(1, 0, T - 1), 1);
  const Array p = encode(c.Cast(Exp(k - z), c.compute_type()));
  Array g = c.Cast(previous - z, c.compute_type());
  if (c.choice("lrpe") == "cosine") g = Concat(g, g, -1);
  PartCall gla(c, "gla");
  gla.In("q", q).In("k", p).Pass("v").In("g", g).Pass("initial_state").PassAttribute("scale");
  c.Out("o", gla.Out("o"));
  c.Out("final_state", gla.Out("final_state"));
  c.Out("final_state_z", LastOr(c, z, before));
  const Array seen = c.has("initial_state_pos") ? c.Cast(c.In("initial_state_pos"), DType::kFloat64)
                                                : c.Zeros({B});
  c.Out("final_state_pos", seen + static_cast<double>(T));
}

void Full(Composer& c, const Encoding& encode, const Array& q) {
  const Array p = Softmax(c.In("k").Permute({0, 2, 3, 1})).Permute({0, 3, 1, 2});
  PartCall attention(c, "linear_attention");
  attention.In("q", q).In("k", encode(p)).Pass("v").Set("causal", false).PassAttribute("scale");
  c.Out("o", attention.Out("o"));
}

absl::Status Compose(Composer& c) {
  const Encoding encode(c);
  const Array q = encode(c.flag("q_silu") ? Silu(c.In("q")) : c.In("q"));
  if (c.flag("causal")) {
    Causal(c, encode, q);
  } else {
    Full(c, encode, q);
  }
  return c.status();
}

void Draw(RandomSource& source) {
  const int64_t K = source.Dim("K", 2 * source.Uniform(1, 12));
  const int64_t heads = source.Dim("H", source.Uniform(1, 4));
  source.Dim("HT", source.Uniform(0, 1) == 0 ? 1 : heads);
  source.Dim("E", source.Uniform(1, K / 2));
  if (!source.options().random_attributes) return;
  // Often not causal: only a few of a test's calls draw attributes.
  source.Attribute("causal", source.Uniform(0, 3) == 0);
  const AttrValue* causal = source.request().attributes.Find("causal");
  if (causal == nullptr || *causal != AttrValue(false) || source.options().packed) return;
  if (source.Uniform(0, 1) == 0 || source.options().dims.contains("T")) return;
  DrawGrid(source, "T", source.Uniform(1, 3));
  source.Dim("E", K);
  const AttrValue* lrpe = source.request().attributes.Find("lrpe");
  if (lrpe == nullptr || *lrpe == AttrValue(std::string("none")) || source.Wants("theta")) return;
  source.Attribute("lrpe", std::string("none"));
}

}  // namespace

void RegisterLightnet(Registry& registry);

void RegisterLightnet(Registry& registry) {
  Operator& op = registry.AddOfParts(Schema(), Compose);
  op.check = [](const BoundCall& call) { return CheckTokensSeen(call, "initial_state_pos"); };
  op.random = Draw;
  op.causal = [](const BoundCall& call) { return call.flag("causal"); };
}

}  // namespace attnd
