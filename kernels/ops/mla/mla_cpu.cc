#include <utility>

#include "kernels/core/registry.h"
#include "kernels/cores/softmax.h"
#include "kernels/ops/mla/mla_parts.h"
#include "kernels/primitives/cpu/vector_math.h"

namespace attnd {
namespace {

cpu::WindowRule::Options RuleOf(const BoundCall& call) {
  return {/*causal=*/true, MlaWindowLeft(call), /*right=*/-1, Tensor(), {}};
}

// Products for a head: expanded S R E + T S (D + Dv), absorbed T R E + T S (2 R + Dr). Without a
// cache S = T, and sizes alone decide.
bool AbsorbingPays(const BoundCall& call) {
  const auto size = [&call](absl::string_view symbol) {
    return static_cast<double>(call.dim(symbol));
  };
  const double more = 2 * size("R") + size("Dr") - size("D") - size("Dv");
  if (call.dim("S0") == 0) return more < 0;
  return size("S0") * size("R") * size("E") > size("T") * size("S") * more;
}

// o [B,T,heads,Dv] of the heads [first, first + heads), through their keys and values.
absl::Status SoftmaxExpanded(Composer& c, const MlaParts& parts, int64_t first, int64_t heads,
                             const Tensor& o) {
  const MlaKeys expanded = ExpandMla(c, parts, first, heads);
  const Array q = c.Contiguous(parts.q.Slice(2, first, heads));
  if (!c.status().ok()) return c.status();
  const cpu::WindowRule rule(RuleOf(c.call()));
  const std::vector<Sequence> keys = MlaKeySequences(c.call());
  cpu::SoftmaxCall core;
  core.q = q.tensor();
  core.k = expanded.k.tensor();
  core.v = expanded.v.tensor();
  core.o = o;
  core.queries = c.call().sequences();
  core.keys = keys;
  core.scale = c.real("scale");
  core.rule = &rule;
  return cpu::Softmax(c.backend(), core);
}

absl::Status RunExpanded(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  Composer c(backend, call, outputs);
  const MlaParts parts = MlaPartsOf(c);
  c.Out("final_state_c", parts.latent);
  c.Out("final_state_r", parts.rope);
  if (!c.status().ok()) return c.status();
  return SoftmaxExpanded(c, parts, 0, call.dim("H"), *outputs.Find("o"));
}

// All heads read the same keys: the heads of a token are so many queries in a row of one head.
class HeadsAsQueries final : public cpu::SoftmaxRule {
 public:
  HeadsAsQueries(cpu::WindowRule::Options tokens, int64_t heads)
      : tokens_(std::move(tokens)), heads_(heads) {}

  // Short tiles, so that one token's heads are work for several threads.
  int64_t TileLength(const cpu::SoftmaxPlace&, int64_t) const override { return 16; }

  void ForEachRun(const cpu::SoftmaxPlace& place, int64_t begin, int64_t count,
                  absl::FunctionRef<void(const cpu::KeyRun&)> visit) const override {
    const int64_t first = begin / heads_, last = (begin + count - 1) / heads_;
    tokens_.ForEachRun(OfTokens(place), first, last - first + 1, visit);
  }
  void Mask(const cpu::SoftmaxPlace& place, int64_t query, int64_t key, int64_t count,
            float* scores) const override {
    tokens_.Mask(OfTokens(place), query / heads_, key, count, scores);
  }

 private:
  cpu::SoftmaxPlace OfTokens(cpu::SoftmaxPlace place) const {
    place.queries /= heads_;
    return place;
  }

  cpu::WindowRule tokens_;
  int64_t heads_;
};

// Infinities meet in another order here than in the definition: o [B,T,H,Dv] where it, or its lse
// [B,T,H], is not finite is made again, through keys and values. A head at a time: all of a long
// cache's are what absorbing avoids.
void MakeNonFiniteAgain(Composer& c, const MlaParts& parts, const Array& o, const Array& lse) {
  const Array odd = Sum(0.0 * o, 3) + 0.0 * lse.Unsqueeze(-1);  // 0 or NaN.
  for (int64_t h = 0; h < c.dim("H") && c.status().ok(); ++h) {
    const Array odd_rows = odd.Slice(2, h, 1), rows = o.Slice(2, h, 1);
    if (c.AllFinite(odd_rows)) continue;
    const Array again = c.Empty({c.dim("B"), c.dim("T"), 1, c.dim("Dv")});
    if (!c.status().ok()) return;
    if (absl::Status s = SoftmaxExpanded(c, parts, h, 1, again.tensor()); !s.ok()) {
      return c.Fail(std::move(s));
    }
    rows.Assign(Where(Equal(odd_rows, c.Scalar(0)), rows, again));
  }
}

absl::Status RunAbsorbed(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  const int64_t B = call.dim("B"), T = call.dim("T"), S = call.dim("S"), H = call.dim("H"),
                R = call.dim("R"), Dn = call.dim("Dn"), Dr = call.dim("Dr"), Dv = call.dim("Dv");
  Composer c(backend, call, outputs);
  const MlaParts parts = MlaPartsOf(c);
  c.Out("final_state_c", parts.latent);
  c.Out("final_state_r", parts.rope);
  const Array weights = c.In("w_kv_b");
  const Array q = c.Empty({B, T, H, R + Dr});  // [W_k^T q^n, q^r]
  const Array u = c.Empty({B, T, H, R});       // sum of p c~
  const Array lse = c.Empty({B, T, H});
  if (!c.status().ok()) return c.status();
  backend.MatMul(parts.q.Slice(-1, 0, Dn).Transpose(1, 2).tensor(),
                 weights.Slice(1, 0, Dn).tensor(), q.Slice(-1, 0, R).Transpose(1, 2).tensor(), 1,
                 0);
  if (Dr > 0) q.Slice(-1, R, Dr).Assign(parts.q.Slice(-1, Dn, Dr));
  const Array k = parts.rope.defined() ? Concat(parts.latent, parts.rope, -1) : parts.latent;
  if (!c.status().ok()) return c.status();

  const HeadsAsQueries rule(RuleOf(call), H);
  const std::vector<Sequence> keys = MlaKeySequences(call);
  std::vector<Sequence> queries = call.sequences();
  for (Sequence& sequence : queries) {
    sequence.begin *= H;
    sequence.length *= H;
  }
  cpu::SoftmaxCall core;
  core.q = q.tensor().Reshape({B, T * H, 1, R + Dr});
  core.k = k.tensor().Reshape({B, S, 1, R + Dr});
  core.v = parts.latent.tensor().Reshape({B, S, 1, R});
  core.o = u.tensor().Reshape({B, T * H, 1, R});
  core.lse = lse.tensor().Reshape({B, T * H, 1});
  core.queries = queries;
  core.keys = keys;
  core.scale = call.real("scale");
  core.rule = &rule;
  if (absl::Status s = cpu::Softmax(backend, core); !s.ok()) return s;
  const Array o = MatMul(u.Transpose(1, 2), weights.Slice(1, Dn, Dv).T()).Transpose(1, 2);
  if (!c.status().ok()) return c.status();
  if (!cpu::AllFiniteRow(o.tensor().data<float>(), B * T * H * Dv) ||
      !cpu::AllFiniteRow(lse.tensor().data<float>(), B * T * H)) {
    MakeNonFiniteAgain(c, parts, o, lse);
  }
  c.Out("o", o);
  return c.status();
}

}  // namespace

void RegisterMlaCpu(Registry& registry);

void RegisterMlaCpu(Registry& registry) {
  registry.AddKernel("mla", {"absorbed_cpu", Device::kCpu, AbsorbingPays, RunAbsorbed});
  registry.AddKernel(
      "mla", {"expanded_cpu", Device::kCpu, [](const BoundCall&) { return true; }, RunExpanded});
}

}  // namespace attnd
