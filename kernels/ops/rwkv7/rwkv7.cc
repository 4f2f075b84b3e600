#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/primitives/composer.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "rwkv7",
      .paper = "RWKV-7 Goose with Expressive Dynamic State Evolution (2025)",
      .summary = "Delta rule with free vectors: a diagonal plus rank-one transition",
      .core = "delta",
      .definition =
          R"(The generalised delta rule, a transition that is diagonal plus rank one with free vectors (Peng et al., "RWKV-7 Goose with Expressive Dynamic State Evolution", 2025).
  S_t = diag(e^w_t) S_{t-1} + b_t (a_t^T S_{t-1}) + k_t v_t^T,  o_t = scale S_t^T r_t
a reads the state before the decay. Layers give a = -kk, b = kk rate.)",
      .inputs = {"r: float[B,T,H,K]  # query", "w: float32[B,T,H,K] ~logdecay  # log decay",
                 "k: float[B,T,H,K]  # write key", "v: float[B,T,H,V]",
                 "a: float[B,T,H,K]? ~small  # reads the state before the decay",
                 "b: float[B,T,H,K]? ~small  # where that is written",
                 "kk: float[B,T,H,K]? ~unit  # a = -kk, in the place of a and b",
                 "rate: float[B,T,H,K]? ~probability  # b = kk rate",
                 "initial_state: float32[M,H,K,V]? ~small  # zeros when absent",
                 "cu_seqlens: int32[M+1]?  # packed sequences, B = 1"},
      .attributes = {"scale: float = 1.0  # multiplies r"},
      .outputs = {"o: float[B,T,H,V]", "final_state: float32[M,H,K,V]"},
      .rules = {"has(a) == has(b)  # a and b together",
                "has(kk) == has(rate)  # kk and rate "
                "together",
                "has(a) != has(kk)  # either a and b, or kk and rate"},
      .float32_tolerance = 1e-4,
  };
  return schema;
}

absl::Status Compose(Composer& c) {
  const int64_t B = c.dim("B"), T = c.dim("T"), H = c.dim("H"), K = c.dim("K"), V = c.dim("V");
  const Array r = c.In("r") * c.real("scale"), decay = Exp(c.In("w")), k = c.In("k"), v = c.In("v");
  const Array a = c.has("a") ? c.In("a") : -c.In("kk");
  const Array b = c.has("b") ? c.In("b") : c.In("kk") * c.In("rate");
  const Array o = c.Empty({B, T, H, V});
  const Array S = c.Zeros({B, H, K, V});
  if (c.has("initial_state")) S.Assign(c.In("initial_state"));
  const auto column = [](const Array& x, int64_t t) { return x.Select(1, t).Unsqueeze(-1); };
  const auto row = [](const Array& x, int64_t t) { return x.Select(1, t).Unsqueeze(-2); };
  for (int64_t t = 0; t < T && c.status().ok(); ++t) {
    const Array read = MatMul(row(a, t), S);
    S.Assign(S * column(decay, t) + column(b, t) * read + column(k, t) * row(v, t));
    o.Slice(1, t, 1).Assign(MatMul(row(r, t), S).Permute({0, 2, 1, 3}));
  }
  c.Out("o", o);
  c.Out("final_state", S);
  return c.status();
}

}  // namespace

void RegisterRwkv7(Registry& registry);

void RegisterRwkv7(Registry& registry) {
  Operator& op = registry.Add(Schema(), Compose);
  op.random = [](RandomSource& source) { source.OneOf({{"a", "b"}, {"kk", "rate"}}); };
  op.causal = [](const BoundCall&) { return true; };
}

}  // namespace attnd
