#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/ring.h"
#include "kernels/cores/softmax_composed.h"
#include "kernels/cores/tokens_seen.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "softmax_attention",
      .paper = "Attention Is All You Need (2017)",
      .summary = "Exact softmax attention: causal, windowed or masked, with a dense or ring cache",
      .core = "softmax",
      .definition =
          R"(Scaled dot-product attention (Vaswani et al., 2017) with grouped heads, windows, soft-capped scores, sinks, and the two forms of a key/value cache.
  s_ij = scale q_i.k_j,  Z_i = sum_{j in A(i)} exp(s_ij) (+ exp(sink)),  o_i = sum_j exp(s_ij) v_j / Z_i
Keys are seen as one row: what the cache holds in the order of positions, then k. Query i stands at the position of the last key minus the queries after it, so that one rule of distance serves all forms.)",
      .inputs =
          {"q: float[B,T,H,K]", "k: float[B,S,HK,K]", "v: float[B,S,HV,V]",
           "mask: bool[B,T,P+S]|[T,P+S]? if cache != 'ring'  # true = may attend",
           "sinks: float32[H]?  # one more logit per head in the denominator, without a value",
           "cu_seqlens: int32[M+1]? if cache != 'dense' && !has(mask)  # packed sequences, B = 1",
           "initial_state_k: float[M,P,HK,K]? if cache != 'none'  # earlier keys, or the ring",
           "initial_state_v: float[M,P,HV,V] if has(initial_state_k)  # earlier values, or the "
           "ring",
           "initial_state_pos: int64[M]? if cache == 'ring' && has(initial_state_k)  # tokens seen "
           "so "
           "far; 0 when absent"},
      .attributes =
          {"causal: bool = false", "scale: float = 1/sqrt(K)  # multiplies q.k",
           "window_left: int = -1 >= -1  # keys at most this many positions before; -1 = no limit",
           "window_right: int = -1 >= -1  # likewise after; no effect under causal",
           "softcap: float = 0 >= 0  # > 0: s becomes softcap tanh(s / softcap)",
           "return_lse: bool = false",
           "cache: {none, dense, ring} = none  # dense: all keys; ring: the last window_left + 1"},
      .outputs = {"o: float[B,T,H,V]", "lse: float32[B,T,H] if return_lse  # ln of the sum",
                  "final_state_k: float[M,C,HK,K] if cache != 'none'",
                  "final_state_v: float[M,C,HV,V] if cache != 'none'",
                  "final_state_pos: int64[M] if cache == 'ring'"},
      .derived = {"C = select(cache == 'ring', window_left + 1, P + T)"},
      .rules = {kQueryHeadsRule, "cache != 'none' -> causal  # a cache with causal",
                "cache != 'none' -> S == T  # as many keys as queries with a cache",
                "cache == 'ring' -> window_left >= 0  # a ring with window_left",
                "has(cu_seqlens) -> S == T  # as many keys as queries in packed calls",
                "cache == 'ring' && has(initial_state_k) -> P == window_left + 1  # a ring of "
                "window_left + 1 slots"},
      .may_be_zero = "S P",
  };
  return schema;
}

SoftmaxResult Attend(Composer& c, const Array& q, const Array& k, const Array& v,
                     const Array& also_allowed) {
  SoftmaxParts parts{q, k, v, {}, c.real("scale"), UsableSoftcap(c.real("softcap")), c.In("sinks")};
  parts.allowed = WindowPairs(c, q.dim(1), k.dim(1), c.flag("causal"), c.integer("window_left"),
                              c.integer("window_right"));
  if (also_allowed.defined()) parts.allowed = parts.allowed && also_allowed;
  return ComposeSoftmax(c, parts);
}

// A state, or the zeros that it is before the first call.
Array State(Composer& c, absl::string_view name, int64_t places, const Array& like) {
  if (c.has(name)) return c.In(name);
  return c.Zeros({like.dim(0), places, like.dim(2), like.dim(3)});
}

void ComposeRing(Composer& c, const Array& q, const Array& k, const Array& v) {
  const int64_t slots = c.dim("C");
  const Array ring_k = State(c, "initial_state_k", slots, k);
  const Array ring_v = State(c, "initial_state_v", slots, v);
  Array seen = c.Cast(c.In("initial_state_pos"), DType::kFloat64);
  if (!seen.defined()) seen = Positions(c, q.dim(0)) * 0.0;
  const Array o = c.Empty({q.dim(0), q.dim(1), q.dim(2), v.dim(3)});
  const Array lse = c.Empty({q.dim(0), q.dim(1), q.dim(2)});
  for (int64_t b = 0; b < q.dim(0) && c.status().ok(); ++b) {
    const auto row = [b](const Array& x) { return x.Slice(0, b, 1); };
    const Array tokens = row(seen);
    const SoftmaxResult result =
        Attend(c, row(q), Concat(RingInOrder(c, row(ring_k), tokens), row(k), 1),
               Concat(RingInOrder(c, row(ring_v), tokens), row(v), 1),
               RingExists(c, slots, q.dim(1), tokens));
    row(o).Assign(result.o);
    row(lse).Assign(result.lse);
  }
  c.Out("o", o);
  c.Out("lse", lse);
  c.Out("final_state_k", RingWritten(c, ring_k, k, seen));
  c.Out("final_state_v", RingWritten(c, ring_v, v, seen));
  c.Out("final_state_pos", seen + static_cast<double>(q.dim(1)));
}

absl::Status Compose(Composer& c) {
  const Array q = c.In("q");
  Array k = c.In("k"), v = c.In("v");
  if (c.choice("cache") == "ring") {
    ComposeRing(c, q, k, v);
    return c.status();
  }
  if (c.has("initial_state_k")) {
    k = Concat(c.In("initial_state_k"), k, 1);
    v = Concat(c.In("initial_state_v"), v, 1);
  }
  Array mask = c.In("mask");
  if (mask.defined() && mask.rank() == 3) mask = mask.Unsqueeze(1);
  const SoftmaxResult result = Attend(c, q, k, v, mask);
  c.Out("o", result.o);
  c.Out("lse", result.lse);
  c.Out("final_state_k", k);
  c.Out("final_state_v", v);
  return c.status();
}

// Caches with the attributes that they need, and rings that have come round some times.
void Draw(RandomSource& source) {
  // Caches more often: their optional inputs go together, and many of their draws are thrown away.
  constexpr const char* kCaches[] = {"none", "dense", "ring", "dense", "ring"};
  if (source.options().random_attributes) {
    source.Attribute("cache", std::string(kCaches[source.Uniform(0, 4)]));
    source.Attribute("window_left", source.Uniform(-1, 40));
    source.Attribute("window_right", source.Uniform(-1, 40));
    source.Attribute("softcap", source.Uniform(0, 1) == 0 ? 0.0 : 0.5 + 10 * source.Uniform01());
  }
  const AttrValue* chosen = source.request().attributes.Find("cache");
  const std::string cache = chosen != nullptr ? std::get<std::string>(*chosen) : "none";
  const bool keeps = cache != "none";
  if (keeps) source.Attribute("causal", true);
  if (keeps || source.options().packed) {
    source.Dim("S", source.Dim("T", source.Uniform(1, 70)));
  }
  if (cache == "ring") source.Attribute("window_left", source.Uniform(0, 40));
  int64_t places = keeps ? source.Uniform(0, 30) : 0;
  if (cache == "ring") {
    places = std::get<int64_t>(*source.request().attributes.Find("window_left")) + 1;
  }
  places = source.Dim("P", places);
  if (cache == "ring" && !source.options().packed && source.Wants("initial_state_pos")) {
    std::vector<int64_t> seen(static_cast<size_t>(source.Dim("B", source.Uniform(1, 3))));
    for (int64_t& tokens : seen) tokens = source.Uniform(0, 3 * places);
    source.request().inputs.Set("initial_state_pos",
                                HostTensor<int64_t>({static_cast<int64_t>(seen.size())}, seen));
  }
}

}  // namespace

void RegisterSoftmaxAttention(Registry& registry);

void RegisterSoftmaxAttention(Registry& registry) {
  Operator& op = registry.Add(Schema(), Compose);
  op.check = [](const BoundCall& call) { return CheckTokensSeen(call, "initial_state_pos"); };
  op.random = Draw;
  // With fewer keys than queries the first queries stand before every key.
  op.causal = [](const BoundCall& call) {
    return call.flag("causal") && call.dim("S") >= call.dim("T");
  };
}

}  // namespace attnd
