#include "kernels/cores/normalised_sums.h"

#include <utility>

#include "kernels/core/part_call.h"

namespace attnd {

Array WithOnes(Composer& c, const Array& v) {
  if (!v.defined()) return {};
  Dims column = v.tensor().shape();
  column.back() = 1;
  return Concat(v, c.Full(std::move(column), 1), -1);
}

Array JoinedState(Composer& c, const Array& state, const Array& z, int64_t value_size) {
  if (!state.defined() && !z.defined()) return {};
  Dims shape = state.defined() ? state.tensor().shape() : z.Unsqueeze(-1).tensor().shape();
  shape.back() = value_size + 1;
  Array joined = c.Zeros(shape);
  if (!joined.defined()) return {};
  if (state.defined()) joined.Slice(-1 + joined.rank(), 0, value_size).Assign(state);
  if (z.defined()) joined.Select(-1 + joined.rank(), value_size).Assign(z);
  return joined;
}

NormalisedSums SumWithNormaliser(Composer& c, const NormalisedCall& call) {
  if (!c.status().ok()) return {};
  const int64_t V = call.v.dim(3);
  PartCall part(c, call.g.defined() ? "gla" : "linear_attention");
  part.In("q", call.q).In("k", call.k).In("v", WithOnes(c, call.v)).In("g", call.g);
  part.In("initial_state", JoinedState(c, call.state, call.z, V)).Set("scale", call.scale);
  const Array o = part.Out("o"), state = part.Out("final_state");
  return {o.Slice(3, 0, V), o.Slice(3, V, 1), state.Slice(3, 0, V), state.Select(3, V)};
}

}  // namespace attnd
