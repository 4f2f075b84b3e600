#include <cmath>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/part_call.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/feature_maps.h"
#include "kernels/cores/normalised_sums.h"
#include "kernels/cores/recurrence_composed.h"
#include "kernels/cores/softmax_composed.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "lasp2",
      .paper = "LASP-2: Rethinking Sequence Parallelism for Linear Attention and Its Hybrid (2025)",
      .summary = "One sequence split over workers, with what each of them would send",
      .core = "linear_recurrent",
      .definition =
          R"(One long sequence split over workers, as if each ran its part ("LASP-2: Rethinking Sequence Parallelism for Linear Attention and Its Hybrid", 2025). Worker p owns L_p tokens; lam = e^g.
  memory_p = sum_{s of p} lam^(last - s) phi(k_s) v_s^T
  prefix_{p+1} = lam^L_p prefix_p + memory_p (causal), or sum_j memory_j
and each output is that of its worker's tokens from its prefix. Normalisers are one more value column, of ones. kind softmax gathers keys and values instead.)",
      .inputs = {"q: float[B,T,H,K]", "k: float[B,T,HK,K]", "v: float[B,T,HV,V]",
                 "g: float32[HO]? if kind == 'linear' && causal ~slopes  # constant log decay of a "
                 "head",
                 "initial_state: float32[B,HO,K,V]? if kind == 'linear' && causal ~small  # of the "
                 "first worker",
                 "initial_state_z: float32[B,HO,K]? if kind == 'linear' && causal && normalize "
                 "~positive"},
      .attributes = {"splits: int[] >= 0  # tokens of each worker, in order",
                     "kind: {linear, softmax} = linear", "causal: bool = true",
                     "feature_map: {identity, elu1, relu} = identity  # of q and k, kind linear",
                     "normalize: bool = false  # divide by phi(q)·sum phi(k), kind linear",
                     "eps: float = 1e-10 >= 0  # added to the denominator",
                     "scale: float = 1/sqrt(K)  # multiplies phi(q), or q·k"},
      .outputs = {"o: float[B,T,HO,V]", "memory: float32[P,B,HO,K,V] if kind == 'linear'",
                  "prefix: float32[P,B,HO,K,V] if kind == 'linear'",
                  "memory_z: float32[P,B,HO,K] if kind == 'linear' && normalize",
                  "prefix_z: float32[P,B,HO,K] if kind == 'linear' && normalize",
                  "final_state: float32[B,HO,K,V] if kind == 'linear' && causal",
                  "final_state_z: float32[B,HO,K] if kind == 'linear' && causal && normalize"},
      .derived = {"HO = max(H,HK,HV)", "P = length(splits)"},
      .rules = {"HO % H == 0  # head counts that divide the largest",
                "HO % HK == 0  # head counts that divide the largest",
                "HO % HV == 0  # head counts that divide the largest",
                "P >= 1  # at least one worker",
                "kind == 'linear' || feature_map == 'identity'  # no feature map with softmax",
                "kind == 'linear' || !normalize  # no normaliser with softmax",
                "kind == 'linear' || H % HK == 0 && H % HV == 0  # HK and HV that divide H"},
  };
  return schema;
}

absl::Status Check(const BoundCall& call) {
  const std::vector<int64_t>& splits = call.integers("splits");
  // Entries are not negative; a sum that overflows is above T before it does.
  int64_t sum = 0;
  for (size_t i = 0; i < splits.size() && sum <= call.dim("T"); ++i) {
    sum = splits[i] > call.dim("T") ? splits[i] : sum + splits[i];
  }
  if (sum == call.dim("T")) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("lasp2: splits: given ",
                                                 ToString(AttrValue(splits)),
                                                 ", expected a sum of T=", call.dim("T")));
}

// A worker's tokens.
struct Part {
  int64_t begin, length;
  Array Of(const Array& x) const { return x.Slice(1, begin, length); }
};

std::vector<Part> PartsOf(const BoundCall& call) {
  std::vector<Part> parts;
  int64_t begin = 0;
  for (const int64_t length : call.integers("splits")) {
    parts.push_back({begin, length});
    begin += length;
  }
  return parts;
}

// e^(steps g) as [HO,1,1,..] for steps [n] -> [HO,n]; no step keeps everything, whatever g is.
Array Decays(Composer& c, const Array& steps) {
  const Array exponent = c.In("g").Unsqueeze(-1) * steps;
  return Where(Equal(steps, c.Scalar(0)), c.Scalar(1), Exp(exponent));
}

// sum over the worker's tokens of lam^(last - s) phi(k_s) [v_s, 1]: [B,HO,K,V(+1)].
Array Memory(Composer& c, const Part& part, const Array& k, const Array& v) {
  Array keys = part.Of(k).Permute({0, 2, 1, 3});
  const auto last = static_cast<double>(part.length - 1);
  if (c.has("g")) keys = keys * Decays(c, c.Iota(part.length, last, -1)).Unsqueeze(-1);
  return MatMul(keys.T(), part.Of(v).Permute({0, 2, 1, 3}));
}

// The worker's outputs from its prefix, before the division.
Array Outputs(Composer& c, const Part& part, const Array& q, const Array& k, const Array& v,
              const Array& prefix) {
  const Array queries = part.Of(q);
  if (!c.flag("causal")) {
    const Array o = MatMul(queries.Permute({0, 2, 1, 3}), prefix) * c.real("scale");
    return o.Permute({0, 2, 1, 3});
  }
  PartCall linear(c, c.has("g") ? "gla" : "linear_attention");
  linear.In("q", queries).In("k", part.Of(k)).In("v", part.Of(v)).In("initial_state", prefix);
  linear.PassAttribute("scale");
  if (c.has("g")) linear.In("g", c.In("g").Expand({c.dim("B"), part.length, c.dim("HO")}));
  return linear.Out("o");
}

absl::Status Linear(Composer& c) {
  const int64_t B = c.dim("B"), HO = c.dim("HO"), K = c.dim("K"), V = c.dim("V"), P = c.dim("P");
  const bool normalize = c.flag("normalize"), causal = c.flag("causal");
  const FeatureMap map = FeatureMapFromName(c.choice("feature_map"));
  const Array q = Apply(map, InHeads(c, "q")), k = Apply(map, InHeads(c, "k"));
  const Array v = normalize ? WithOnes(c, InHeads(c, "v")) : InHeads(c, "v");
  if (!c.status().ok()) return c.status();
  const int64_t columns = v.dim(3);
  const Array memory = c.Empty({P, B, HO, K, columns}), prefix = c.Zeros({P, B, HO, K, columns});
  const std::vector<Part> parts = PartsOf(c.call());
  // What comes before the first worker.
  Array state = JoinedState(c, c.In("initial_state"), c.In("initial_state_z"), V);
  if (!state.defined()) state = c.Zeros({B, HO, K, columns});
  if (!normalize) state = state.Slice(3, 0, V);
  if (!c.status().ok()) return c.status();
  for (int64_t p = 0; p < P; ++p) {
    const Array own = Memory(c, parts[p], k, v);
    memory.Select(0, p).Assign(own);
    prefix.Select(0, p).Assign(state);
    if (c.has("g")) {
      const Array steps = c.Scalar(static_cast<double>(parts[p].length));
      state = state * Decays(c, steps).Unsqueeze(-1);
    }
    state = state + own;
  }
  // Without causality every worker reads the sum of all.
  if (!causal) prefix.Assign(state.Unsqueeze(0).Expand(prefix.tensor().shape()));
  const Array sums = c.Empty({B, c.dim("T"), HO, columns});
  for (int64_t p = 0; p < P && c.status().ok(); ++p) {
    parts[p].Of(sums).Assign(Outputs(c, parts[p], q, k, v, prefix.Select(0, p)));
  }
  c.Out("o", normalize ? sums.Slice(3, 0, V) / (sums.Slice(3, V, 1) + c.real("eps")) : sums);
  c.Out("memory", memory.Slice(4, 0, V));
  c.Out("prefix", prefix.Slice(4, 0, V));
  c.Out("final_state", state.Slice(3, 0, V));
  if (!normalize) return c.status();
  c.Out("memory_z", memory.Select(4, V));
  c.Out("prefix_z", prefix.Select(4, V));
  c.Out("final_state_z", state.Select(3, V));
  return c.status();
}

absl::Status Gathered(Composer& c) {
  const Array q = c.In("q"), k = c.In("k"), v = c.In("v");
  const Array o = c.Empty({c.dim("B"), c.dim("T"), c.dim("HO"), c.dim("V")});
  const bool causal = c.flag("causal");
  for (const Part& part : PartsOf(c.call())) {
    if (!c.status().ok()) break;
    const int64_t keys = causal ? part.begin + part.length : c.dim("T");
    PartCall softmax(c, "softmax_attention");
    softmax.In("q", part.Of(q)).In("k", k.Slice(1, 0, keys)).In("v", v.Slice(1, 0, keys));
    softmax.PassAttribute("causal").PassAttribute("scale");
    part.Of(o).Assign(softmax.Out("o"));
  }
  c.Out("o", o);
  return c.status();
}

absl::Status Compose(Composer& c) { return c.choice("kind") == "linear" ? Linear(c) : Gathered(c); }

void Draw(RandomSource& source) {
  const int64_t tokens = source.Dim("T", source.Uniform(1, 70));
  std::vector<int64_t> splits;
  int64_t left = tokens;
  for (int64_t workers = source.Uniform(1, 4); workers > 1; --workers) {
    splits.push_back(source.Uniform(0, left));
    left -= splits.back();
  }
  splits.push_back(left);
  source.Attribute("splits", splits);
  const auto is = [&](const char* name, const AttrValue& value) {
    const AttrValue* given = source.request().attributes.Find(name);
    return given != nullptr && *given == value;
  };
  // A normaliser of the identity map may come near zero.
  if (is("normalize", true)) source.Attribute("feature_map", std::string("elu1"));
  if (is("kind", std::string("softmax"))) {
    source.Attribute("normalize", false);
    source.Attribute("feature_map", std::string("identity"));
    const int64_t heads = source.Dim("HK", source.Uniform(1, 2));
    source.Dim("HV", heads);
    source.Dim("H", heads * source.Uniform(1, 3));
  }
}

}  // namespace

void RegisterLasp2(Registry& registry);

void RegisterLasp2(Registry& registry) {
  Operator& op = registry.AddOfParts(Schema(), Compose);
  op.check = Check;
  op.random = Draw;
  op.causal = [](const BoundCall& call) { return call.flag("causal"); };
}

}  // namespace attnd
