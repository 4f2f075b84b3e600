#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/entry_check.h"
#include "kernels/cores/recurrence_composed.h"
#include "kernels/cores/slopes.h"
#include "kernels/ops/lightning_attention/lightning_decay.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "lightning_attention",
      .paper = "Lightning Attention-2: A Free Lunch for Handling Unlimited Sequence Lengths (2024)",
      .summary = "Causal linear attention with one constant decay per head",
      .core = "linear_recurrent",
      .definition =
          R"(Causal linear attention with one constant decay per head (Qin et al. 2024). S_t = e^g_h S_{t-1} + k_t v_t^T,  o_t = scale S_t^T q_t)",
      .inputs = {"q: float[B,T,H,K]", "k: float[B,T,HK,K]", "v: float[B,T,HV,V]",
                 "g: float32[HO]? ~slopes  # log decay per head, <= 0; overrides decay",
                 "initial_state: float32[M,HO,K,V]? ~small  # zeros when absent",
                 "cu_seqlens: int32[M+1]?  # packed sequences, B = 1"},
      .attributes = {"scale: float = 1.0  # multiplies q",
                     "decay: {alibi, linear, none} = alibi  # ALiBi's slopes, -8h/HO, or none; "
                     "both fade with depth",
                     "layer_idx: int = 0 >= 0", "num_layers: int = 1 >= 1"},
      .outputs = {"o: float[B,T,HO,V]", "final_state: float32[M,HO,K,V]"},
      .derived = {"HO = max(H,HK,HV)"},
      .rules = {"HO % H == 0  # head counts that divide the largest",
                "HO % HK == 0  # head counts that divide the largest",
                "HO % HV == 0  # head counts that divide the largest",
                "layer_idx < num_layers  # a layer of the model"},
  };
  return schema;
}

absl::Status Check(const BoundCall& call) {
  return CheckEntries(
      call, "g", [](double g) { return g <= 0; }, "log decays <= 0");
}

absl::Status Compose(Composer& c) {
  Recurrence r;
  r.q = InHeads(c, "q");
  r.k = InHeads(c, "k");
  r.v = InHeads(c, "v");
  if (!c.status().ok()) return c.status();
  const Array g = c.has("g") ? c.In("g") : c.FromHost(LightningDecays(c.call()));
  r.decay = g.Reshape({1, 1, c.dim("HO"), 1}).Expand({r.q.dim(0), r.q.dim(1), c.dim("HO"), 1});
  r.scale = c.real("scale");
  r.state = c.In("initial_state");
  const RecurrenceResult result = RunRecurrence(c, r);
  c.Out("o", result.o);
  c.Out("final_state", result.state);
  return c.status();
}

// A layer_idx within num_layers.
void Randomise(RandomSource& source) {
  if (!source.options().random_attributes) return;
  source.Attribute("num_layers", int64_t{4});
  source.Attribute("layer_idx", source.Uniform(0, 3));
}

}  // namespace

Tensor LightningDecays(const BoundCall& call) {
  const int64_t heads = call.dim("HO");
  return HostTensor<double>({heads},
                            LayerDecays(call.choice("decay"), heads, call.integer("layer_idx"),
                                        call.integer("num_layers")));
}

void RegisterLightningAttention(Registry& registry);

void RegisterLightningAttention(Registry& registry) {
  Operator& op = registry.Add(Schema(), Compose);
  op.check = Check;
  op.random = Randomise;
  op.causal = [](const BoundCall&) { return true; };
}

}  // namespace attnd
