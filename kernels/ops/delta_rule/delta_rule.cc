#include "kernels/cores/gates.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "delta_rule",
      .paper = "Parallelizing Linear Transformers with the Delta Rule over Sequence Length (2024)",
      .summary = "Linear attention whose memory overwrites what it held under a key",
      .core = "delta",
      .definition =
          R"(A memory that replaces what it held under a key (Yang et al. 2024).
  u_t = beta_t (v_t - S_{t-1}^T k_t),  S_t = S_{t-1} + k_t u_t^T,  o_t = scale S_t^T q_t)",
      .inputs = {"q: float[B,T,H,K]",
                 "k: float[B,T,HK,K] ~unit  # normalised by the caller, or with qk_l2norm",
                 "v: float[B,T,HV,V]",
                 "beta: float32[B,T,HB]? ~probability  # write strength; ones when absent",
                 "initial_state: float32[M,HO,K,V]? ~small  # zeros when absent",
                 "cu_seqlens: int32[M+1]?  # packed sequences, B = 1"},
      .attributes = DeltaAttributes({}),
      .outputs = {"o: float[B,T,HO,V]", "final_state: float32[M,HO,K,V]"},
      .derived = {"HO = max(H,HK,HV)"},
      .rules = DeltaRules({}),
  };
  return schema;
}

}  // namespace

void RegisterDeltaRule(Registry& registry);

void RegisterDeltaRule(Registry& registry) {
  registry.Add(Schema(), DeltaDefinition).causal = [](const BoundCall&) { return true; };
}

}  // namespace attnd
