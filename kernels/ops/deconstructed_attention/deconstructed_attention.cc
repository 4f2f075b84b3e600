#include <limits>
#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/core/part_call.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/scan_state.h"
#include "kernels/cores/softmax_composed.h"

namespace attnd {
namespace {

constexpr char kFixed[] = "(variant == 'rnd_emb_qk' || variant == 'fixed_seq_qk')";
constexpr char kCached[] = "(variant == 'standard' || variant == 'static_emb_qk')";

const SchemaText& Schema() {
  static const std::string fixed = kFixed, cached = kCached;
  static const SchemaText schema = {
      .id = "deconstructed_attention",
      .paper =
          "Deconstructing Attention: Investigating Design Principles for Effective Language "
          "Modeling (2025)",
      .summary = "Attention with one of its design principles relaxed",
      .core = "softmax",
      .definition =
          R"(Variants of attention that each relax one of its principles ("Deconstructing Attention: Investigating Design Principles for Effective Language Modeling", 2025).
  standard, static_emb_qk   causal softmax attention
  rnd_emb_qk, fixed_seq_qk  the same, q and k those of one sequence at the same positions approximate               exp replaced by 1 + s + s^2/2: based
  non_approximate           e_j = scale silu(q_j)·k_j,  o_i = sum_{j<=i} e^e_j v_j / sum e^e_j mlp                       y = W_down (silu(W_gate x) * W_up x))",
      .inputs =
          {"v: float[B,T,HV,V] if variant != 'mlp'  # from the hidden state",
           "q: float[B,T,H,K]|[1,Q,H,K] if variant != 'mlp'  # fixed variants: of one sequence, "
           "from position 0",
           "k: float[B,T,HK,K]|[1,QK,HK,K] if variant != 'mlp'",
           "x: float[B,T,D] if variant == 'mlp'", "w_gate: float[F,D] if variant == 'mlp' ~small",
           "w_up: float[F,D] if variant == 'mlp' ~small",
           "w_down: float[D,F] if variant == 'mlp' ~small",
           "initial_state_k: float[M,P,HK,K]? if " + cached +
               " && !has(cu_seqlens)  # earlier keys",
           "initial_state_v: float[M,P,HV,V]? if (" + cached + " || " + fixed +
               ") && !has(cu_seqlens)  # earlier values",
           "initial_state: float32[M,H,N,V]? if variant == 'approximate' ~small",
           "initial_state_z: float32[M,H,N]? if variant == 'approximate' && has(initial_state)  # "
           "sum of phi(k)",
           "initial_state_m: float32[M,H]? if variant == 'non_approximate'  # largest e so far; "
           "-inf",
           "initial_state_den: float32[M,H]? if variant == 'non_approximate' ~positive  # sum of "
           "e^(e - m)",
           "initial_state_num: float32[M,H,V]? if variant == 'non_approximate'  # that of the "
           "values",
           "cu_seqlens: int32[M+1]? if variant != 'mlp' && !" + fixed +
               "  # packed sequences, B = 1"},
      .attributes = {"variant: {standard, mlp, approximate, non_approximate, rnd_emb_qk, "
                     "fixed_seq_qk, static_emb_qk} = standard",
                     "scale: float = select(variant == 'mlp', 1, 1/sqrt(K))  # multiplies q·k"},
      .outputs = {"o: float[B,T,H,V] if variant != 'mlp'", "y: float[B,T,D] if variant == 'mlp'",
                  "final_state_k: float[M,P+T,HK,K] if " + cached + " && !has(cu_seqlens)",
                  "final_state_v: float[rows,P+T,HV,V] if (" + cached + " || " + fixed +
                      ") && !has(cu_seqlens)",
                  "final_state: float32[M,H,N,V] if variant == 'approximate'",
                  "final_state_z: float32[M,H,N] if variant == 'approximate'",
                  "final_state_m: float32[M,H] if variant == 'non_approximate'",
                  "final_state_den: float32[M,H] if variant == 'non_approximate'",
                  "final_state_num: float32[M,H,V] if variant == 'non_approximate'"},
      // An axis that no batch is laid along: q and k may be of one sequence for all rows.
      .derived = {"N = 1 + K + K * K", "rows = M"},
      .rules =
          {"variant == 'mlp' || H % HK == 0 && H % HV == 0  # HK and HV that divide H",
           "!" + cached +
               " || has(initial_state_k) == has(initial_state_v)  # keys and values "
               "of the cache together",
           "variant != 'approximate' || scale > 0  # a scale > 0",
           "has(initial_state_m) == has(initial_state_den)  # all of the state, or none of it",
           "has(initial_state_m) == has(initial_state_num)  # all of the state, or none of it"},
      .may_be_zero = "P Q QK",
  };
  return schema;
}

bool IsFixed(const std::string& variant) {
  return variant == "rnd_emb_qk" || variant == "fixed_seq_qk";
}

// Whose sequence q and k are.
absl::Status Check(const BoundCall& call) {
  const std::string& variant = call.choice("variant");
  if (variant == "mlp") return absl::OkStatus();
  for (const char* name : {"q", "k"}) {
    const Tensor& x = call.input(name);
    const int64_t positions = call.dim("P") + call.dim("T");
    const bool fits = IsFixed(variant) ? x.dim(0) == 1 && x.dim(1) >= positions
                                       : x.dim(0) == call.dim("B") && x.dim(1) == call.dim("T");
    if (fits) continue;
    const std::string expected =
        IsFixed(variant)
            ? absl::StrCat("one sequence [1,..] of at least ", positions,
                           " positions (those of initial_state_v and of v) for variant ", variant)
            : absl::StrCat("[", call.dim("B"), ",", call.dim("T"), ",..] as v has for variant ",
                           variant);
    return absl::InvalidArgumentError(absl::StrCat("deconstructed_attention: ", name, ": given ",
                                                   ToString(x.shape()), ", expected ", expected));
  }
  return absl::OkStatus();
}

void Standard(Composer& c) {
  PartCall softmax(c, "softmax_attention");
  softmax.Pass("q").Pass("k").Pass("v").Pass("initial_state_k").Pass("initial_state_v");
  softmax.Set("causal", true).Set("cache", std::string("dense")).PassAttribute("scale");
  for (const char* name : {"o", "final_state_k", "final_state_v"}) c.Out(name, softmax.Out(name));
}

// Batch rows share their weights: they are columns of one row's values.
void Fixed(Composer& c) {
  const int64_t B = c.dim("B"), T = c.dim("T"), V = c.dim("V"), HV = c.dim("HV");
  const int64_t before = c.has("initial_state_v") ? c.dim("P") : 0, keys = before + T;
  const Array v =
      c.has("initial_state_v") ? Concat(c.In("initial_state_v"), c.In("v"), 1) : c.In("v");
  c.Out("final_state_v", v);
  if (!c.status().ok() || T == 0) return;
  PartCall softmax(c, "softmax_attention");
  softmax.In("q", c.In("q").Slice(1, before, T)).In("k", c.In("k").Slice(1, 0, keys));
  softmax.In("v", v.Permute({1, 2, 0, 3}).Reshape({1, keys, HV, B * V}));
  softmax.Set("causal", true).PassAttribute("scale");
  const Array o = softmax.Out("o").Reshape({T, c.dim("H"), B, V});
  c.Out("o", o.Permute({2, 0, 1, 3}));
}

void Approximate(Composer& c) {
  PartCall based(c, "based");
  based.Pass("q").Pass("k").Pass("v").Pass("initial_state").Pass("initial_state_z");
  based.PassAttribute("scale");
  for (const char* name : {"o", "final_state", "final_state_z"}) c.Out(name, based.Out(name));
}

// A running mean of the values under weights e^e: z = ln sum e^e, o = e^(z_before - z) o + e^(e -
// z) v.
void NonApproximate(Composer& c) {
  const int64_t B = c.dim("B"), T = c.dim("T"), H = c.dim("H"), V = c.dim("V");
  const bool goes_on = c.has("initial_state_m");
  const double nothing = -std::numeric_limits<double>::infinity();
  const Array m = goes_on ? c.In("initial_state_m") : c.Full({B, H}, nothing);
  const Array den = goes_on ? c.In("initial_state_den") : c.Zeros({B, H});
  const Array num = goes_on ? c.In("initial_state_num") : c.Zeros({B, H, V});
  if (T == 0) {
    c.Out("final_state_m", m);
    c.Out("final_state_den", den);
    c.Out("final_state_num", num);
    return;
  }
  const Array k = c.In("k").RepeatTo(2, H), v = c.In("v").RepeatTo(2, H);
  const Array score = Sum(Silu(c.In("q")) * k, -1).Reshape({B, T, H}) * c.real("scale");
  // Scores of a thousand leave float32 few digits for differences.
  const Array e = c.Cast(score, DType::kFloat64);
  const Array before = c.Cast(m, DType::kFloat64) + Log(c.Cast(den, DType::kFloat64));
  const Array z = LogSumExpScan(e, before);
  if (!c.status().ok()) return;
  const Array previous = Concat(before.Unsqueeze(1), z.Slice(1, 0, T - 1), 1);
  const Array keep = c.Cast(Exp(previous - z), c.compute_type()).Unsqueeze(-1);
  const Array write = c.Cast(Exp(e - z), c.compute_type()).Unsqueeze(-1);
  const Array empty = Equal(den, c.Scalar(0)).Unsqueeze(-1);
  const Array mean = Where(empty, c.Scalar(0), num / den.Unsqueeze(-1));
  const Array o = LinearScan(keep, write * v, mean);
  c.Out("o", o);
  const Array most = Maximum(Max(score, 1).Reshape({B, H}), m);
  const Array mass =
      c.Cast(Exp(z.Select(1, T - 1) - c.Cast(most, DType::kFloat64)), c.compute_type());
  c.Out("final_state_m", most);
  c.Out("final_state_den", mass);
  c.Out("final_state_num", o.Select(1, T - 1) * mass.Unsqueeze(-1));
}

void Mlp(Composer& c) {
  const Array x = c.In("x");
  const auto project = [&](const Array& rows, absl::string_view weight) {
    return MatMul(rows, c.In(weight).T());
  };
  c.Out("y", project(Silu(project(x, "w_gate")) * project(x, "w_up"), "w_down"));
}

absl::Status Compose(Composer& c) {
  const std::string& variant = c.choice("variant");
  if (variant == "mlp") {
    Mlp(c);
  } else if (variant == "approximate") {
    Approximate(c);
  } else if (variant == "non_approximate") {
    NonApproximate(c);
  } else if (IsFixed(variant)) {
    Fixed(c);
  } else {
    Standard(c);
  }
  return c.status();
}

// The variants whose tokens may be cut like any other's; mlp alone has other inputs.
void Draw(RandomSource& source) {
  constexpr const char* kVariants[] = {"standard", "static_emb_qk", "approximate",
                                       "non_approximate"};
  // Packed calls of the others have no cache to compare with that of a sequence alone.
  const int64_t first = source.options().packed ? 2 : 0;
  source.Attribute("variant", std::string(kVariants[source.Uniform(first, 3)]));
  const AttrValue* chosen = source.request().attributes.Find("variant");
  const std::string variant = chosen != nullptr && std::holds_alternative<std::string>(*chosen)
                                  ? std::get<std::string>(*chosen)
                                  : "standard";
  source.Dim("K", source.Uniform(1, variant == "approximate" ? 6 : 20));
  source.Dim("P", source.Uniform(0, 20));
  source.Together({"initial_state_k", "initial_state_v"});
  source.Together({"initial_state_m", "initial_state_den", "initial_state_num"});
  const int64_t heads = source.Dim("HK", source.Uniform(1, 2));
  source.Dim("HV", heads);
  const int64_t H = source.Dim("H", heads * source.Uniform(1, 2));
  if (variant != "approximate" || !source.Together({"initial_state", "initial_state_z"})) return;
  // A normaliser that is no sum of features may come near zero; that of keys of zeros is 1, 0, ..
  const int64_t B = source.Dim("B", source.Uniform(1, 3));
  const int64_t M = source.Dim("M", source.options().packed ? source.Uniform(1, 4) : B);
  const int64_t K = *source.dims().Find("K"), features = 1 + K + K * K;
  const bool exact = source.options().dtype == DType::kFloat64;
  const Tensor z =
      AllocateHost(exact ? DType::kFloat64 : DType::kFloat32, {M, H, features}).value();
  for (int64_t i = 0; i < z.num_elements(); ++i) {
    const double value = i % features == 0 ? 3 : 0;
    if (exact) {
      z.data<double>()[i] = value;
    } else {
      z.data<float>()[i] = static_cast<float>(value);
    }
  }
  source.request().inputs.Set("initial_state_z", z);
}

}  // namespace

void RegisterDeconstructedAttention(Registry& registry);

void RegisterDeconstructedAttention(Registry& registry) {
  Operator& op = registry.AddOfParts(Schema(), Compose);
  op.check = Check;
  op.random = Draw;
  op.causal = [](const BoundCall&) { return true; };
}

}  // namespace attnd
