#include "kernels/core/registry.h"
#include "kernels/cores/recurrence_composed.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "gla",
      .paper = "Gated Linear Attention Transformers with Hardware-Efficient Training (2023)",
      .summary = "Causal linear attention with a data-dependent log decay per key channel",
      .core = "linear_recurrent",
      .definition =
          R"(Causal linear attention whose memory forgets at a data-dependent rate per key channel (Yang et al. 2023).
  S_t = diag(e^g_t) S_{t-1} diag(e^g_v,t) + k_t v_t^T,  o_t = scale S_t^T q_t)",
      .inputs =
          {"q: float[B,T,H,K]", "k: float[B,T,HK,K]", "v: float[B,T,HV,V]",
           "g: float32[B,T,HG,K]|[B,T,HG] ~logdecay  # log decay per key channel, or one per head",
           "g_v: float32[B,T,HGV,V]? ~logdecay  # log decay per value channel",
           "initial_state: float32[M,HO,K,V]? ~small  # zeros when absent",
           "cu_seqlens: int32[M+1]?  # packed sequences, B = 1"},
      .attributes = {"scale: float = 1/sqrt(K)  # multiplies q"},
      .outputs = {"o: float[B,T,HO,V]", "final_state: float32[M,HO,K,V]"},
      .derived = {"HO = max(H,HK,HV)"},
      .rules = {"HO % H == 0  # head counts that divide the largest",
                "HO % HK == 0  # head counts that divide the largest",
                "HO % HV == 0  # head counts that divide the largest",
                "HO % HG == 0  # head counts that divide the largest",
                "has(g_v) -> HO % HGV == 0  # head counts that divide the largest"},
  };
  return schema;
}

absl::Status Compose(Composer& c) {
  Recurrence r;
  r.q = InHeads(c, "q");
  r.k = InHeads(c, "k");
  r.v = InHeads(c, "v");
  const Array g = InHeads(c, "g");
  r.decay = g.rank() == 3 ? g.Unsqueeze(-1) : g;
  if (c.has("g_v")) r.value_decay = InHeads(c, "g_v");
  r.scale = c.real("scale");
  r.state = c.In("initial_state");
  const RecurrenceResult result = RunRecurrence(c, r);
  c.Out("o", result.o);
  c.Out("final_state", result.state);
  return c.status();
}

}  // namespace

void RegisterGla(Registry& registry);

void RegisterGla(Registry& registry) {
  registry.Add(Schema(), Compose).causal = [](const BoundCall&) { return true; };
}

}  // namespace attnd
