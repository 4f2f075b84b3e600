// What the delta-rule operators do to their inputs before the recurrence: l2-normalised queries and
// keys, gates from raw projections, write strengths from logits. One form, in arrays, for
// definitions and kernels of every backend.
#ifndef ATTND_KERNELS_CORES_GATES_H_
#define ATTND_KERNELS_CORES_GATES_H_

#include "kernels/core/registry.h"
#include "kernels/cores/recurrence_composed.h"
#include "kernels/primitives/composer.h"

namespace attnd {

// q or k, divided by its length over K if `qk_l2norm` is set: x / sqrt(sum x^2 + qk_l2norm_eps).
Array QueryOrKey(Composer& c, absl::string_view name);

// Log decay [B,T,HG or HO(,K)] from input `g`, undefined without one. By attribute `gate`, with x =
// g + dt_bias:
//   "log": g.  "softplus": -exp(A_log) softplus(x).  "lower_bound": lower_bound sigmoid(exp(A_log)
//   x), A_log optional. Gates that read A_log or dt_bias have HO heads.
Array LogDecay(Composer& c);

// beta [B,T,HB] from input `beta`, undefined without one: sigmoid(beta) with `beta_sigmoid`, twice
// that with `allow_neg_eigval`.
Array WriteStrength(Composer& c);

// The composed definition that the delta-rule operators share.
absl::Status DeltaDefinition(Composer& c);

// Attributes and rules of the same meaning in every delta-rule schema.
std::vector<std::string> DeltaAttributes(std::vector<std::string> own);
std::vector<std::string> DeltaRules(std::vector<std::string> own);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_GATES_H_
