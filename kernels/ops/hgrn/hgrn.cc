#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/entry_check.h"
#include "kernels/cores/forget_gate.h"
#include "kernels/cores/scan_state.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "hgrn",
      .paper = "Hierarchically Gated Recurrent Neural Network for Sequence Modeling (2023)",
      .summary = "Gated linear recurrence per channel, its forget gate bounded from below",
      .core = "scan",
      .definition =
          R"(A gated linear recurrence per channel with a lower bound on its forget gate (Qin et al., 2023).
  a_t = lb + (1 - lb) sigmoid(f_t),  u_t = silu(i_t) (1 - a_t);  or a_t = exp(g_t), u_t = x_t
  h_t = a_t h_{t-1} + u_t,  o_t = h_t)",
      .inputs = {"x: float[B,T,D]?  # gated input, with g",
                 "g: float32[B,T,D]? ~logdecay  # log forget gate, <= 0",
                 "i: float[B,T,D]?  # input projection, with f, in the place of x and g",
                 "f: float[B,T,D]?  # logits of the forget gate",
                 "lower_bound: float32[D]? if has(f) ~probability  # of the forget gate, in [0,1); "
                 "0 when absent",
                 "initial_state: float32[M,D]? ~small  # zeros when absent",
                 "cu_seqlens: int32[M+1]?  # packed sequences, B = 1"},
      .outputs = {"o: float[B,T,D]", "final_state: float32[M,D]"},
      .rules = {"has(x) == has(g)  # x and g together", "has(i) == has(f)  # i and f together",
                "has(x) != has(i)  # either x and g, or i and f"},
  };
  return schema;
}

absl::Status Check(const BoundCall& call) {
  return CheckEntries(
      call, "lower_bound", [](double bound) { return bound >= 0 && bound < 1; }, "bounds in [0,1)");
}

absl::Status Compose(Composer& c) {
  Array decay, u;
  if (c.has("x")) {
    decay = Exp(c.In("g"));
    u = c.In("x");
  } else {
    const ForgetGate gate = ForgetGateOf(c.In("f"), c.In("lower_bound"));
    decay = Exp(gate.log_decay);
    u = Silu(c.In("i")) * gate.key;
  }
  const Array h = LinearScan(decay, u, c.In("initial_state"));
  c.Out("o", h);
  c.Out("final_state", LastOr(c, h, c.In("initial_state")));
  return c.status();
}

}  // namespace

void RegisterHgrn(Registry& registry);

void RegisterHgrn(Registry& registry) {
  Operator& op = registry.Add(Schema(), Compose);
  op.check = Check;
  op.random = [](RandomSource& source) { source.OneOf({{"x", "g"}, {"i", "f"}}); };
  op.causal = [](const BoundCall&) { return true; };
}

}  // namespace attnd
