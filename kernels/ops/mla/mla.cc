#include <vector>

#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/rms_norm.h"
#include "kernels/cores/rope.h"
#include "kernels/cores/softmax_composed.h"
#include "kernels/ops/mla/mla_parts.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "mla",
      .paper =
          "DeepSeek-V2: A Strong, Economical, and Efficient Mixture-of-Experts Language Model "
          "(2024)",
      .summary =
          "Causal softmax attention whose cache is one latent vector per token for all heads",
      .core = "softmax",
      .definition =
          R"(Multi-head latent attention (DeepSeek-V2): softmax attention whose keys and values are linear in one cached latent vector per token, shared by all heads.
  c~ = RMSNorm(c),  r = rope(k_rope),  k^n = W_k c~,  v = W_v c~
  logit(t,s) = scale (q^n_t·k^n_s + rope(q^r_t)·r_s),  s <= S0 + t,  o_t = sum_s softmax(logit) v_s)",
      .inputs =
          {"q: float[B,T,H,D]  # Dn content channels, then Dr rope channels",
           "c: float[B,T,R]  # latents, before their norm if kv_norm_weight is given",
           "k_rope: float[B,T,Dr]?  # one for all heads; Dr = 0 when absent",
           "w_kv_b: float[H,E,R] ~small  # per head: Dn rows that make keys, then Dv for values",
           "kv_norm_weight: float[R]?  # c is normalised (RMSNorm)",
           "cu_seqlens: int32[M+1]?  # packed sequences, B = 1",
           "initial_state_c: float[B,S0,R]? if !has(cu_seqlens)  # the cache: normalised latents",
           "initial_state_r: float[B,S0,Dr] if has(initial_state_c) && has(k_rope)  # turned "
           "k_rope"},
      .attributes = {"scale: float = 1/sqrt(D)  # multiplies the logits",
                     "rope: {none, half, interleaved} = none  # which rope channels form pairs",
                     "rope_theta: float = 10000 > 0  # angle p theta^(-2i/Dr)",
                     "norm_eps: float = 1e-6 >= 0  # c / sqrt(mean c^2 + eps) * weight",
                     "window: int? >= 1  # the last keys, own token included; absent: all"},
      .outputs = {"o: float[B,T,H,Dv]", "final_state_c: float[B,S,R]",
                  "final_state_r: float[B,S,Dr] if has(k_rope)"},
      .derived = {"S = S0 + T", "Dn = D - Dr", "Dv = E - Dn"},
      .rules = {"D > Dr  # content channels before the rope channels",
                "E > Dn  # value rows behind the key rows of w_kv_b",
                "rope != 'none' -> Dr % 2 == 0  # channels in pairs"},
      .may_be_zero = "S0 Dr",
  };
  return schema;
}

// float64 angles [B,T,Dr/2] of the new tokens: their sequence's place in the row is theirs.
Array Angles(Composer& c) {
  const BoundCall& call = c.call();
  const int64_t B = call.dim("B"), T = call.dim("T");
  std::vector<int64_t> positions(static_cast<size_t>(B * T));
  for (const Sequence& sequence : call.sequences()) {
    for (int64_t t = 0; t < sequence.length; ++t) {
      positions[static_cast<size_t>(sequence.row * T + sequence.begin + t)] = call.dim("S0") + t;
    }
  }
  // Either pairing has the frequencies that rope.h has for halves.
  return RopeAngles(c.FromHost(HostTensor<int64_t>({B, T}, positions)),
                    RopeFrequencies(RopePairs::kHalf, call.dim("Dr"), c.real("rope_theta")));
}

// New entries of the cache behind the old ones, in the cache's type.
Array Cached(Composer& c, absl::string_view state, const Array& fresh) {
  const Array kept = c.Cast(c.Cast(fresh, c.call().dtype()), c.compute_type());
  return c.has(state) ? Concat(c.In(state), kept, 1) : kept;
}

absl::Status Compose(Composer& c) {
  const MlaParts parts = MlaPartsOf(c);
  const MlaKeys keys = ExpandMla(c, parts, 0, c.dim("H"));
  if (!c.status().ok()) return c.status();
  SoftmaxParts attention{.q = parts.q, .k = keys.k, .v = keys.v, .scale = c.real("scale")};
  attention.allowed = WindowPairs(c, c.dim("T"), c.dim("S"), /*causal=*/true,
                                  MlaWindowLeft(c.call()), /*right=*/-1);
  c.Out("o", ComposeSoftmax(c, attention).o);
  c.Out("final_state_c", parts.latent);
  c.Out("final_state_r", parts.rope);
  return c.status();
}

// Sizes that fit together, and caches both shorter and longer than the call.
void Draw(RandomSource& source) {
  const int64_t rope =
      source.Dim("Dr", source.Wants("k_rope") ? 2 * source.Uniform(1, 4) : int64_t{0});
  const int64_t D = source.Dim("D", rope + source.Uniform(1, 24));
  source.Dim("E", D + source.Uniform(1, 24));
  source.Dim("R", source.Uniform(1, 40));
  source.Dim("S0", source.Uniform(0, 1) == 0 ? source.Uniform(1, 20) : source.Uniform(60, 200));
  if (source.options().random_attributes && source.Uniform(0, 2) == 0) {
    source.Attribute("window", source.Uniform(1, 60));
  }
}

}  // namespace

std::vector<Sequence> MlaKeySequences(const BoundCall& call) {
  std::vector<Sequence> keys = call.sequences();
  if (!call.packed()) {
    for (Sequence& sequence : keys) sequence.length = call.dim("S");
  }
  return keys;
}

int64_t MlaWindowLeft(const BoundCall& call) {
  return call.has_attribute("window") ? call.integer("window") - 1 : -1;
}

MlaParts MlaPartsOf(Composer& c) {
  MlaParts parts;
  parts.q = c.In("q");
  Array latent = c.In("c");
  if (c.has("kv_norm_weight")) {
    latent = RmsNorm(latent, c.In("kv_norm_weight"), c.real("norm_eps"));
  }
  parts.latent = Cached(c, "initial_state_c", latent);
  if (!c.has("k_rope")) return parts;
  Array rope = c.In("k_rope");
  if (c.choice("rope") != "none") {
    const RopePairs pairs = c.choice("rope") == "half" ? RopePairs::kHalf : RopePairs::kInterleaved;
    const Array angles = Angles(c);
    rope = Rotate(rope, pairs, angles);
    if (!c.status().ok()) return {};
    const int64_t Dn = c.dim("Dn"), Dr = c.dim("Dr");
    parts.q = Concat(parts.q.Slice(-1, 0, Dn),
                     Rotate(parts.q.Slice(-1, Dn, Dr), pairs, angles.Unsqueeze(2)), -1);
  }
  parts.rope = Cached(c, "initial_state_r", rope);
  return parts;
}

MlaKeys ExpandMla(Composer& c, const MlaParts& parts, int64_t first, int64_t heads) {
  if (!c.status().ok()) return {};
  const int64_t B = c.dim("B"), S = c.dim("S"), Dn = c.dim("Dn"), Dv = c.dim("Dv");
  MlaKeys keys{c.Empty({B, S, heads, c.dim("D")}), c.Empty({B, S, heads, Dv})};
  // [heads,R,E]: the transpose once, and not in every product.
  const Array weights = c.Contiguous(c.In("w_kv_b").Slice(0, first, heads).T());
  if (!c.status().ok()) return {};
  const Tensor latent = parts.latent.Unsqueeze(1).tensor();
  const auto project = [&](int64_t row, int64_t count, const Array& out) {
    c.backend().MatMul(latent, weights.Slice(-1, row, count).tensor(),
                       out.Slice(-1, 0, count).Transpose(1, 2).tensor(), 1, 0);
  };
  project(0, Dn, keys.k);
  project(Dn, Dv, keys.v);
  if (parts.rope.defined()) {
    keys.k.Slice(-1, Dn, c.dim("Dr")).Assign(parts.rope.Unsqueeze(2));
  }
  return keys;
}

void RegisterMla(Registry& registry);

void RegisterMla(Registry& registry) {
  Operator& op = registry.Add(Schema(), Compose);
  op.random = Draw;
  op.causal = [](const BoundCall&) { return true; };
}

}  // namespace attnd
