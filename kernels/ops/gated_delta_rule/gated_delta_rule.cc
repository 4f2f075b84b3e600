#include "kernels/cores/gates.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "gated_delta_rule",
      .paper = "Gated Delta Networks: Improving Mamba2 with Delta Rule (2024)",
      .summary = "Delta-rule memory with a data-dependent forget gate per head",
      .core = "delta",
      .definition =
          R"(The delta rule with a scalar forget gate per head (Yang, Kautz, Hatamizadeh 2024).
  S~ = e^g_t S_{t-1},  u_t = beta_t (v_t - S~^T k_t),  S_t = S~ + k_t u_t^T,  o_t = scale S_t^T q_t)",
      .inputs =
          {"q: float[B,T,H,K]", "k: float[B,T,HK,K] ~unit", "v: float[B,T,HV,V]",
           "g: float32[B,T,HG] ~logdecay  # log decay, or the raw projection with gate softplus",
           "beta: float32[B,T,HB]? ~probability  # write strength; ones when absent",
           "A_log: float32[HO] if gate == 'softplus'",
           "dt_bias: float32[HO]? if gate == 'softplus'",
           "initial_state: float32[M,HO,K,V]? ~small  # zeros when absent",
           "cu_seqlens: int32[M+1]?  # packed sequences, B = 1"},
      .attributes = DeltaAttributes(
          {"gate: {log, softplus} = log  # softplus: -exp(A_log) softplus(g + dt_bias)"}),
      .outputs = {"o: float[B,T,HO,V]", "final_state: float32[M,HO,K,V]"},
      .derived = {"HO = max(H,HK,HV)"},
      .rules = DeltaRules({"HO % HG == 0  # head counts that divide the largest"}),
  };
  return schema;
}

}  // namespace

void RegisterGatedDeltaRule(Registry& registry);

void RegisterGatedDeltaRule(Registry& registry) {
  registry.Add(Schema(), DeltaDefinition).causal = [](const BoundCall&) { return true; };
}

}  // namespace attnd
