#include "kernels/core/part_call.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/recurrence_composed.h"
#include "kernels/cores/scan_state.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "dsf",
      .paper =
          "Understanding the differences in Foundation Models: Attention, State Space Models, and "
          "Recurrent Neural Networks (2024)",
      .summary = "The recurrence that linear attention, state spaces and gated RNNs are cases of",
      .core = "linear_recurrent",
      .definition =
          R"(The linear time-varying recurrence of which linear attention, selective state spaces and gated RNNs are cases (Sieber et al., 2024). With dt and a: G_t = dt_t a, w_t = dt_t v_t; else G_t = g, w_t = v_t.
  S_t[i,j] = exp(G_t[i,j]) S_{t-1}[i,j] + k_t[i] w_t[j]
  o_t[j] = scale sum_i q_t[i] S_t[i,j] / eta_t + d[j] v_t[j]
A decay that is one row's or one number has operators of its own; one that differs in every entry is a scan, key channel by key channel, so that memory does not grow with K.)",
      .inputs = {"q: float[B,T,H,K]  # C_t", "k: float[B,T,HK,K]  # B_t",
                 "v: float[B,T,HV,V]  # u_t",
                 "g: float32[B,T,HG]|[B,T,HG,K]|[B,T,HG,K,V]? if !has(dt) && !has(a) ~logdecay  # "
                 "log decay of a head, of its key channels, or of every entry; 0 when absent",
                 "dt: float32[B,T,HT]|[B,T,HT,V]? ~positive  # step, with a, in the place of g",
                 "a: float32[HA,K,V]? ~slopes  # rate of every entry; the decay is exp(dt a)",
                 "eta: float32[B,T,HE]? ~positive  # divides the output",
                 "d: float32[HD]|[HD,V]?  # o has d v added",
                 "initial_state: float32[M,HO,K,V]? ~small  # zeros when absent",
                 "cu_seqlens: int32[M+1]?  # packed sequences, B = 1"},
      .attributes = {"scale: float = 1.0  # multiplies q"},
      .outputs = {"o: float[B,T,HO,V]", "final_state: float32[M,HO,K,V]"},
      .derived = {"HO = max(H,HK,HV)"},
      .rules = {"has(dt) == has(a)  # dt and a together",
                "HO % H == 0  # head counts that divide the largest",
                "HO % HK == 0  # head counts that divide the largest",
                "HO % HV == 0  # head counts that divide the largest",
                "has(g) -> HO % HG == 0  # head counts that divide the largest",
                "has(dt) -> HO % HT == 0  # head counts that divide the largest",
                "has(a) -> HO % HA == 0  # head counts that divide the largest",
                "has(eta) -> HO % HE == 0  # head counts that divide the largest",
                "has(d) -> HO % HD == 0  # head counts that divide the largest"},
  };
  return schema;
}

struct Result {
  Array y;  // [B,T,HO,V], scaled.
  Array state;
};

Result ByAnother(Composer& c) {
  PartCall part(c, c.has("g") ? "gla" : "linear_attention");
  part.Pass("q").Pass("k").Pass("v").Pass("g").Pass("initial_state").PassAttribute("scale");
  return {part.Out("o"), part.Out("final_state")};
}

Result EntryByEntry(Composer& c) {
  const int64_t HO = c.dim("HO"), K = c.dim("K");
  const Array q = InHeads(c, "q"), k = InHeads(c, "k"), initial = c.In("initial_state");
  Array w = InHeads(c, "v"), dt, a;
  if (c.has("dt")) {
    dt = InHeads(c, "dt");
    if (dt.rank() == 3) dt = dt.Unsqueeze(-1);
    a = c.In("a").RepeatTo(0, HO);
    w = dt * w;
  }
  const Array g = c.In("g");
  Array y;
  const Array state = c.Empty({c.dim("B"), HO, K, c.dim("V")});
  for (int64_t i = 0; i < K && c.status().ok(); ++i) {
    const Array decay = g.defined() ? g.Select(3, i).RepeatTo(2, HO) : dt * a.Select(1, i);
    const Array before = initial.defined() ? initial.Select(2, i) : Array();
    const Array row = LinearScan(Exp(decay), k.Slice(3, i, 1) * w, before);
    state.Select(2, i).Assign(LastOr(c, row, before));
    const Array read = q.Slice(3, i, 1) * row;
    y = y.defined() ? y + read : read;
  }
  return {y * c.real("scale"), state};
}

absl::Status Compose(Composer& c) {
  const bool entries = c.has("dt") || (c.has("g") && c.In("g").rank() == 5);
  const Result result = entries ? EntryByEntry(c) : ByAnother(c);
  Array o = result.y;
  if (c.has("eta")) o = o / InHeads(c, "eta").Unsqueeze(-1);
  if (c.has("d")) {
    const Array d = c.In("d").RepeatTo(0, c.dim("HO"));
    o = o + InHeads(c, "v") * (d.rank() == 1 ? d.Unsqueeze(-1) : d);
  }
  c.Out("o", o);
  c.Out("final_state", result.state);
  return c.status();
}

void Draw(RandomSource& source) {
  source.OneOf({{"g"}, {"dt", "a"}, {}});
  source.Dim("K", source.Uniform(1, 12));
  source.Dim("V", source.Uniform(1, 12));
}

}  // namespace

void RegisterDsf(Registry& registry);

void RegisterDsf(Registry& registry) {
  Operator& op = registry.AddOfParts(Schema(), Compose);
  op.random = Draw;
  op.causal = [](const BoundCall&) { return true; };
}

}  // namespace attnd
