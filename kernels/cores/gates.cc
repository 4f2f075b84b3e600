#include "kernels/cores/gates.h"

#include <utility>

namespace attnd {
namespace {

// Per-head parameters [HO] or [HO,K] as they broadcast to gates [B,T,HO(,K)].
Array PerHead(const Array& parameter, const Array& gates) {
  return parameter.rank() == gates.rank() - 2 ? parameter : parameter.Unsqueeze(-1);
}

}  // namespace

Array QueryOrKey(Composer& c, absl::string_view name) {
  const Array x = c.In(name);
  return c.flag("qk_l2norm") ? L2Normalize(x, c.real("qk_l2norm_eps")) : x;
}

Array LogDecay(Composer& c) {
  if (!c.has("g")) return {};
  if (!c.call().has_attribute("gate") || c.choice("gate") == "log") return c.In("g");
  const bool per_head = c.has("A_log") || c.has("dt_bias");
  Array x = per_head ? InHeads(c, "g") : c.In("g");
  if (!c.status().ok()) return {};
  if (c.has("dt_bias")) x = x + PerHead(c.In("dt_bias"), x);
  const Array rate = c.has("A_log") ? PerHead(Exp(c.In("A_log")), x) : Array();
  if (c.choice("gate") == "softplus") return -(rate * Softplus(x));
  const double bound = c.call().has_attribute("lower_bound") ? c.real("lower_bound") : -5.0;
  return Sigmoid(rate.defined() ? rate * x : x) * bound;
}

Array WriteStrength(Composer& c) {
  Array beta = c.In("beta");
  if (!beta.defined() || !c.flag("beta_sigmoid")) return beta;
  const Array strength = Sigmoid(beta);
  return c.flag("allow_neg_eigval") ? strength * 2.0 : strength;
}

absl::Status DeltaDefinition(Composer& c) {
  const int64_t HO = c.dim("HO");
  Recurrence r;
  r.q = QueryOrKey(c, "q").RepeatTo(2, HO);
  r.k = QueryOrKey(c, "k").RepeatTo(2, HO);
  r.v = InHeads(c, "v");
  if (!c.status().ok()) return c.status();
  const Array gates = LogDecay(c);
  if (gates.defined()) {
    const Array decay = gates.RepeatTo(2, HO);
    r.decay = decay.rank() == 3 ? decay.Unsqueeze(-1) : decay;
  }
  const Array beta = WriteStrength(c);
  r.beta = beta.defined() ? beta.RepeatTo(2, HO) : c.Full({r.q.dim(0), r.q.dim(1), HO}, 1);
  r.scale = c.real("scale");
  r.state = c.In("initial_state");
  const RecurrenceResult result = RunRecurrence(c, r);
  c.Out("o", result.o);
  c.Out("final_state", result.state);
  return c.status();
}

std::vector<std::string> DeltaAttributes(std::vector<std::string> own) {
  own.insert(own.begin(),
             {"scale: float = 1/sqrt(K)  # multiplies q, after its normalisation",
              "qk_l2norm: bool = false  # q and k are divided by their lengths over K first",
              "qk_l2norm_eps: float = 1e-6 > 0  # inside the square root",
              "beta_sigmoid: bool = false  # beta holds logits",
              "allow_neg_eigval: bool = false  # beta is 2 sigmoid(beta)"});
  return own;
}

std::vector<std::string> DeltaRules(std::vector<std::string> own) {
  own.insert(own.begin(), {"HO % H == 0  # head counts that divide the largest",
                           "HO % HK == 0  # head counts that divide the largest",
                           "HO % HV == 0  # head counts that divide the largest",
                           "has(beta) -> HO % HB == 0  # head counts that divide the largest",
                           "allow_neg_eigval -> beta_sigmoid  # beta as logits"});
  return own;
}

}  // namespace attnd
