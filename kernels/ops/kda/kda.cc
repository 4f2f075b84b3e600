#include "kernels/cores/gates.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "kda",
      .paper = "Kimi Linear: An Expressive, Efficient Attention Architecture (2025)",
      .summary = "Kimi Delta Attention: delta rule with a forget gate per key channel",
      .core = "delta",
      .definition =
          R"(The delta rule with one forget gate per key channel (Kimi Team 2025).
  S~ = diag(e^a_t) S_{t-1},  u_t = beta_t (v_t - S~^T k_t),  S_t = S~ + k_t u_t^T,  o_t = scale S_t^T q_t)",
      .inputs =
          {"q: float[B,T,H,K]", "k: float[B,T,HK,K] ~unit", "v: float[B,T,HV,V]",
           "g: float32[B,T,HG,K] ~logdecay  # log decay, or the raw projection with another gate",
           "beta: float32[B,T,HB]? ~probability  # write strength; ones when absent",
           "A_log: float32[HO]? if gate != 'log'",
           "dt_bias: float32[HO,K]? if gate != 'log'  # added to g",
           "initial_state: float32[M,HO,K,V]? ~small  # zeros when absent",
           "cu_seqlens: int32[M+1]?  # packed sequences, B = 1"},
      .attributes = DeltaAttributes(
          {"gate: {log, softplus, lower_bound} = log  # softplus: -exp(A_log) softplus(g + "
           "dt_bias); lower_bound: "
           "lower_bound sigmoid(exp(A_log) (g + dt_bias))",
           "lower_bound: float? < 0  # of the log decay, with gate lower_bound; -5 when absent"}),
      .outputs = {"o: float[B,T,HO,V]", "final_state: float32[M,HO,K,V]"},
      .derived = {"HO = max(H,HK,HV)"},
      .rules = DeltaRules(
          {"HO % HG == 0  # head counts that divide the largest",
           "gate == 'softplus' -> has(A_log)  # A_log with gate softplus",
           "has(lower_bound) -> gate == 'lower_bound'  # lower_bound only with its gate"}),
  };
  return schema;
}

}  // namespace

void RegisterKda(Registry& registry);

void RegisterKda(Registry& registry) {
  registry.Add(Schema(), DeltaDefinition).causal = [](const BoundCall&) { return true; };
}

}  // namespace attnd
