#include "kernels/cores/recurrence_composed.h"

namespace attnd {
namespace {

// Token t of [B,T,HO,n] as [B,HO,n,1].
Array Column(const Array& x, int64_t t) { return x.Select(1, t).Unsqueeze(-1); }
// As [B,HO,1,n].
Array Row(const Array& x, int64_t t) { return x.Select(1, t).Unsqueeze(-2); }

// A copy that may be written, zeros where there is nothing to copy.
Array Start(Composer& c, const Array& initial, const Dims& shape) {
  Array state = c.Zeros(shape);
  if (initial.defined()) state.Assign(initial);
  return state;
}

}  // namespace

RecurrenceResult RunRecurrence(Composer& c, const Recurrence& r) {
  RecurrenceResult result;
  if (!c.status().ok()) return result;
  const int64_t B = r.q.dim(0), T = r.q.dim(1), HO = r.q.dim(2), K = r.q.dim(3), V = r.v.dim(3);
  result.o = c.Empty({B, T, HO, V});
  result.state = Start(c, r.state, {B, HO, K, V});
  if (r.keeps_z) {
    result.z = Start(c, r.z, {B, HO, K});
    result.dots = c.Empty({B, T, HO, 1});
  }
  const Array decays = r.decay.defined() ? Exp(r.decay) : Array();
  const Array value_decays = r.value_decay.defined() ? Exp(r.value_decay) : Array();
  const Array& S = result.state;
  for (int64_t t = 0; t < T && c.status().ok(); ++t) {
    if (decays.defined()) S.Assign(S * Column(decays, t));
    if (value_decays.defined()) S.Assign(S * Row(value_decays, t));
    Array write = Row(r.v, t);
    if (r.beta.defined()) {
      const Array beta = r.beta.Select(1, t).Unsqueeze(-1).Unsqueeze(-1);
      write = beta * (write - MatMul(Row(r.k, t), S));
    }
    S.Assign(S + Column(r.k, t) * write);
    result.o.Slice(1, t, 1).Assign((MatMul(Row(r.q, t), S) * r.scale).Permute({0, 2, 1, 3}));
    if (!r.keeps_z) continue;
    const Array& z = result.z;
    if (decays.defined()) z.Assign(z * decays.Select(1, t));
    z.Assign(z + r.k.Select(1, t));
    result.dots.Select(1, t).Assign(Sum(r.q.Select(1, t) * z, -1) * r.scale);
  }
  return result;
}

Array InHeads(Composer& c, absl::string_view name) { return c.In(name).RepeatTo(2, c.dim("HO")); }

}  // namespace attnd
