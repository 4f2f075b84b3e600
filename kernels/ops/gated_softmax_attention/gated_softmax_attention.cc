#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/core/part_call.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/rope.h"
#include "kernels/cores/softmax_composed.h"
#include "kernels/cores/tokens_seen.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "gated_softmax_attention",
      .paper =
          "Gated Attention for Large Language Models: Non-linearity, Sparsity, and "
          "Attention-Sink-Free (2025)",
      .summary = "Softmax attention with a gate on its output, values, keys, queries or projection",
      .core = "softmax_gated",
      .definition =
          R"(Softmax attention with a query-dependent gate at one of five places of the layer ("Gated Attention for Large Language Models: Non-linearity, Sparsity, and Attention-Sink-Free", 2025). M(x, z) = x a(z), or x + a(z):
  g4: q = M(q, gate), g3: k = M(k, gate), g2: v = M(v, gate), then the rotation of q and k
  o = softmax_attention(q, k, v), g1: o = M(o, gate)
  y = W_o concat_h(o), g5: y = M(y, gate))",
      .inputs =
          {"q: float[B,T,H,K]", "k: float[B,S,HK,K]", "v: float[B,S,HV,V]",
           "gate: float[B,T,GH,GC]|[B,S,GH,GC]|[B,T,GC]  # before its activation; g1 [B,T,H,V], g2 "
           "[B,S,HV,V], g3 [B,S,HK,K], g4 [B,T,H,K], each also with 1 for the heads, the channels "
           "or both; g5 [B,T,D] or [B,T,1]",
           "cos: float[B,T,K]|[T,K]?  # rotary factors of q and k, halves of a head",
           "sin: float[B,T,K]|[T,K]?  # with cos", "w_o: float[D,H*V]?  # output projection",
           "mask: bool[B,T,P+S]|[T,P+S]? if cache != 'ring'  # true = may attend",
           "sinks: float32[H]?  # one more logit per head in the denominator, without a value",
           "cu_seqlens: int32[M+1]? if cache != 'dense' && !has(mask)  # packed sequences, B = 1",
           "initial_state_k: float[M,P,HK,K]? if cache != 'none'  # earlier keys, gated and "
           "turned, "
           "or the ring",
           "initial_state_v: float[M,P,HV,V] if has(initial_state_k)  # earlier values, gated, or "
           "the ring",
           "initial_state_pos: int64[M]? if cache == 'ring' && has(initial_state_k)  # tokens seen "
           "so far; 0 when absent"},
      .attributes =
          {"position: {g1, g2, g3, g4, g5} = g1  # gated: output, values, keys, queries, "
           "projection",
           "activation: {sigmoid, silu, ns_sigmoid, identity} = sigmoid  # ns_sigmoid: 0.5 + 0.5 "
           "sigmoid",
           "mode: {multiplicative, additive} = multiplicative", "causal: bool = false",
           "scale: float = 1/sqrt(K)  # multiplies q.k",
           "window_left: int = -1 >= -1  # keys at most this many positions before; -1 = no limit",
           "window_right: int = -1 >= -1  # likewise after; no effect under causal",
           "softcap: float = 0 >= 0  # > 0: s becomes softcap tanh(s / softcap)",
           "return_lse: bool = false",
           "cache: {none, dense, ring} = none  # dense: all keys; ring: the last window_left + 1"},
      .outputs = {"o: float[B,T,H,V] if !has(w_o)", "y: float[B,T,D] if has(w_o)",
                  "lse: float32[B,T,H] if return_lse  # ln of the sum, before any gate of outputs",
                  "final_state_k: float[M,C,HK,K] if cache != 'none'",
                  "final_state_v: float[M,C,HV,V] if cache != 'none'",
                  "final_state_pos: int64[M] if cache == 'ring'"},
      .derived = {"C = select(cache == 'ring', window_left + 1, P + T)"},
      .rules = {kQueryHeadsRule, "position == 'g5' -> has(w_o)  # g5 with w_o",
                "has(cos) == has(sin)  # cos and sin together",
                "has(cos) -> K % 2 == 0  # an even K with a rotation",
                "has(cos) -> S == T  # as many keys as queries with a rotation",
                "cache != 'none' -> causal  # a cache with causal",
                "cache != 'none' -> S == T  # as many keys as queries with a cache",
                "cache == 'ring' -> window_left >= 0  # a ring with window_left",
                "has(cu_seqlens) -> S == T  # as many keys as queries in packed calls",
                "cache == 'ring' && has(initial_state_k) -> P == window_left + 1  # a ring of "
                "window_left + 1 slots"},
      .may_be_zero = "S P",
  };
  return schema;
}

// The symbols of the gated tensor's shape.
std::vector<const char*> GatedShape(absl::string_view position) {
  if (position == "g1") return {"B", "T", "H", "V"};
  if (position == "g2") return {"B", "S", "HV", "V"};
  if (position == "g3") return {"B", "S", "HK", "K"};
  if (position == "g4") return {"B", "T", "H", "K"};
  return {"B", "T", "D"};
}

absl::Status CheckGate(const BoundCall& call) {
  const Dims& given = call.input("gate").shape();
  const std::string& position = call.choice("position");
  const std::vector<const char*> symbols = GatedShape(position);
  bool fits = given.size() == symbols.size();
  std::string expected, sizes;
  for (size_t axis = 0; axis < symbols.size(); ++axis) {
    const int64_t size = call.dim(symbols[axis]);
    fits = fits && (given[axis] == size || (axis >= 2 && given[axis] == 1));
    absl::StrAppend(&expected, axis > 0 ? "," : "", symbols[axis], axis >= 2 ? " or 1" : "");
    absl::StrAppend(&sizes, axis > 0 ? ", " : "", symbols[axis], "=", size);
  }
  if (fits) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(call.spec().id(), ": gate: given ",
                                                 ToString(given), ", expected [", expected,
                                                 "] with position=", position, ", ", sizes));
}

absl::Status Check(const BoundCall& call) {
  if (absl::Status s = CheckGate(call); !s.ok()) return s;
  return CheckTokensSeen(call, "initial_state_pos");
}

// M(x, gate), if x is what the call gates.
Array GatedAt(absl::string_view position, const Array& x, Composer& c) {
  if (c.choice("position") != position) return x;
  const std::string& activation = c.choice("activation");
  Array a = c.In("gate");
  if (activation == "sigmoid") a = Sigmoid(a);
  if (activation == "silu") a = Silu(a);
  if (activation == "ns_sigmoid") a = Sigmoid(a) * 0.5 + 0.5;
  return c.choice("mode") == "additive" ? x + a : x * a;
}

// Factors of [B or 1,T,1,K], of which the two halves need not be equal.
Array Turned(const Array& x, Composer& c) {
  if (!c.has("cos")) return x;
  const auto factors = [&c](absl::string_view name) {
    const Array given = c.In(name);
    return (given.rank() == 2 ? given.Unsqueeze(0) : given).Unsqueeze(2);
  };
  return x * factors("cos") + RotatedHalves(x) * factors("sin");
}

absl::Status Compose(Composer& c) {
  PartCall attention(c, "softmax_attention");
  attention.In("q", Turned(GatedAt("g4", c.In("q"), c), c));
  attention.In("k", Turned(GatedAt("g3", c.In("k"), c), c));
  attention.In("v", GatedAt("g2", c.In("v"), c));
  for (const char* input :
       {"mask", "sinks", "initial_state_k", "initial_state_v", "initial_state_pos"}) {
    attention.Pass(input);
  }
  for (const char* attribute :
       {"causal", "scale", "window_left", "window_right", "softcap", "return_lse", "cache"}) {
    attention.PassAttribute(attribute);
  }
  const Array o = GatedAt("g1", attention.Out("o"), c);
  c.Out("o", o);
  if (c.has("w_o") && o.defined()) {
    const Array rows = o.Reshape({o.dim(0), o.dim(1), o.dim(2) * o.dim(3)});
    c.Out("y", GatedAt("g5", MatMul(rows, c.In("w_o").T()), c));
  }
  for (const char* output : {"lse", "final_state_k", "final_state_v", "final_state_pos"}) {
    c.Out(output, attention.Out(output));
  }
  return c.status();
}

// A gate that fits its place, and caches with the attributes that they need.
void Draw(RandomSource& source) {
  const auto chosen = [&source](absl::string_view name, const char* otherwise) {
    const AttrValue* value = source.request().attributes.Find(name);
    return value != nullptr ? std::get<std::string>(*value) : std::string(otherwise);
  };
  if (source.options().random_attributes) {
    source.Attribute("window_left", source.Uniform(-1, 40));
    source.Attribute("softcap", source.Uniform(0, 1) == 0 ? 0.0 : 0.5 + 10 * source.Uniform01());
  }
  if (chosen("position", "g1") == "g5" && !source.Wants("w_o")) {
    source.Attribute("position", std::string("g1"));
  }
  const std::string cache = chosen("cache", "none"), position = chosen("position", "g1");
  if (cache != "none") source.Attribute("causal", true);
  const bool turns = source.Together({"cos", "sin"});
  if (turns) source.Dim("K", 2 * source.Uniform(1, 10));
  if (cache != "none" || source.options().packed || turns) {
    source.Dim("S", source.Dim("T", source.Uniform(1, 70)));
  }
  if (cache == "ring") source.Attribute("window_left", source.Uniform(0, 40));
  int64_t places = cache != "none" ? source.Uniform(0, 30) : 0;
  if (cache == "ring") {
    places = std::get<int64_t>(*source.request().attributes.Find("window_left")) + 1;
  }
  source.Dim("P", places);
  source.Dim("B", source.options().packed ? 1 : source.Uniform(1, 3));
  const auto size = [&source](const char* symbol, int64_t value) {
    const int64_t* present = source.dims().Find(symbol);
    return source.Dim(symbol, present != nullptr ? *present : value);
  };
  size("T", source.Uniform(1, 70));
  size("S", source.Uniform(1, 70));
  const int64_t key_heads = source.Dim("HK", source.Uniform(1, 2));
  const int64_t value_heads = source.Dim("HV", key_heads * source.Uniform(1, 2));
  source.Dim("H", value_heads * source.Uniform(1, 2));
  size("K", source.Uniform(1, 20));
  size("V", source.Uniform(1, 20));
  size("D", source.Uniform(1, 20));
  const std::vector<const char*> symbols = GatedShape(position);
  Dims shape;
  for (const char* symbol : symbols) {
    const int64_t whole = *source.dims().Find(symbol);
    shape.push_back(shape.size() >= 2 && source.Uniform(0, 2) == 0 ? 1 : whole);
  }
  source.Dim("GC", shape.back());
  if (shape.size() == 4) source.Dim("GH", shape[2]);
}

}  // namespace

void RegisterGatedSoftmaxAttention(Registry& registry);

void RegisterGatedSoftmaxAttention(Registry& registry) {
  Operator& op = registry.AddOfParts(Schema(), Compose);
  op.check = Check;
  op.random = Draw;
  // With fewer keys than queries the first queries stand before every key.
  op.causal = [](const BoundCall& call) {
    return call.flag("causal") && call.dim("S") >= call.dim("T");
  };
}

}  // namespace attnd
