#include "kernels/core/registry.h"
#include "kernels/cores/entry_check.h"
#include "kernels/cores/forget_gate.h"
#include "kernels/cores/recurrence_composed.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "hgrn2",
      .paper = "HGRN2: Gated Linear RNNs with State Expansion (2024)",
      .summary = "Gated linear RNN with a matrix state: the key is one minus the forget gate",
      .core = "linear_recurrent",
      .definition =
          R"(A linear RNN with an outer-product state whose key is one minus the forget gate (Qin et al. 2024).
  a_t = lb + (1 - lb) sigmoid(f_t),  S_t = diag(a_t) S_{t-1} + (1 - a_t) v_t^T,
  o_t = scale S_t^T silu(q_t))",
      .inputs = {"q: float[B,T,H,K]  # before its activation",
                 "f: float[B,T,H,K]  # logits of the forget gate", "v: float[B,T,H,V]",
                 "lower_bound: float32[H,K]? ~probability  # of the forget gate, in [0,1); 0 when "
                 "absent",
                 "initial_state: float32[M,H,K,V]? ~small  # zeros when absent",
                 "cu_seqlens: int32[M+1]?  # packed sequences, B = 1"},
      .attributes = {"scale: float = 1/sqrt(K)  # multiplies q",
                     "q_silu: bool = true  # q becomes silu(q)"},
      .outputs = {"o: float[B,T,H,V]", "final_state: float32[M,H,K,V]"},
  };
  return schema;
}

absl::Status Check(const BoundCall& call) {
  return CheckEntries(
      call, "lower_bound", [](double bound) { return bound >= 0 && bound < 1; }, "bounds in [0,1)");
}

absl::Status Compose(Composer& c) {
  const ForgetGate gate = ForgetGateOf(c.In("f"), c.In("lower_bound"));
  Recurrence r;
  r.q = c.flag("q_silu") ? Silu(c.In("q")) : c.In("q");
  r.k = gate.key;
  r.v = c.In("v");
  r.decay = gate.log_decay;
  r.scale = c.real("scale");
  r.state = c.In("initial_state");
  const RecurrenceResult result = RunRecurrence(c, r);
  c.Out("o", result.o);
  c.Out("final_state", result.state);
  return c.status();
}

}  // namespace

void RegisterHgrn2(Registry& registry);

void RegisterHgrn2(Registry& registry) {
  Operator& op = registry.Add(Schema(), Compose);
  op.check = Check;
  op.causal = [](const BoundCall&) { return true; };
}

}  // namespace attnd
