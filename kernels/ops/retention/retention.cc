#include "kernels/core/registry.h"
#include "kernels/cores/recurrence_composed.h"
#include "kernels/cores/rope.h"
#include "kernels/cores/slopes.h"
#include "kernels/cores/tokens_seen.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "retention",
      .paper = "Retentive Network: A Successor to Transformer for Large Language Models (2023)",
      .summary = "Linear attention with a fixed decay per head and rotary positions",
      .core = "linear_recurrent",
      .definition =
          R"(Linear attention with a fixed decay per head and rotary positions (Sun et al. 2023). lam = e^g_h:
  S_t = lam S_{t-1} + k_t v_t^T,  n_t = lam n_{t-1} + 1,  z_t = lam z_{t-1} + k_t
  y_t = scale S_t^T q_t
  o = y | y / sqrt(n) | y / sqrt(n) / max(|scale q·z / sqrt(n)|, 1))",
      .inputs = {"q: float[B,T,H,K]", "k: float[B,T,HK,K]", "v: float[B,T,HV,V]",
                 "g: float32[HO]? ~slopes  # log decay per head; log(1 - 2^(-5-h)) when absent",
                 "initial_state: float32[M,HO,K,V]? ~small  # zeros when absent",
                 "initial_state_n: float32[M,HO]? if normalize != 'none' ~positive",
                 "initial_state_z: float32[M,HO,K]? if normalize == 'row' ~small",
                 "initial_state_pos: int64[M]? if rotary != 'none'  # tokens seen so far",
                 "cu_seqlens: int32[M+1]?  # packed sequences, B = 1"},
      .attributes =
          {"scale: float = 1/sqrt(K)  # multiplies q",
           "rotary: {none, half, interleaved} = none  # which channels of q and k form pairs",
           "rotary_base: float = 10000 > 0",
           "normalize: {none, decay, row} = none  # by the decay's sum, or by the row as well"},
      .outputs = {"o: float[B,T,HO,V]", "final_state: float32[M,HO,K,V]",
                  "final_state_n: float32[M,HO] if normalize != 'none'",
                  "final_state_z: float32[M,HO,K] if normalize == 'row'",
                  "final_state_pos: int64[M] if rotary != 'none'"},
      .derived = {"HO = max(H,HK,HV)"},
      .rules = {"HO % H == 0  # head counts that divide the largest",
                "HO % HK == 0  # head counts that divide the largest",
                "HO % HV == 0  # head counts that divide the largest",
                "rotary != 'none' -> K % 2 == 0  # channels in pairs"},
  };
  return schema;
}

// q or k, turned by the tokens' positions.
Array Turned(Composer& c, absl::string_view name) {
  const Array x = c.In(name);
  if (c.choice("rotary") == "none" || !c.status().ok()) return x.RepeatTo(2, c.dim("HO"));
  const RopePairs pairs = c.choice("rotary") == "half" ? RopePairs::kHalf : RopePairs::kInterleaved;
  Array positions = c.Cast(c.Iota(x.dim(1)), DType::kFloat64).Unsqueeze(0);
  if (c.has("initial_state_pos")) {
    positions = positions + c.Cast(c.In("initial_state_pos"), DType::kFloat64).Unsqueeze(-1);
  }
  // [B or 1,T,1,K/2]
  const Array angles =
      RopeAngles(positions, RopeFrequencies(pairs, x.dim(3), c.real("rotary_base"))).Unsqueeze(2);
  return Rotate(x, pairs, angles).RepeatTo(2, c.dim("HO"));
}

absl::Status Compose(Composer& c) {
  const int64_t HO = c.dim("HO");
  Recurrence r;
  r.q = Turned(c, "q");
  r.k = Turned(c, "k");
  r.v = InHeads(c, "v");
  if (!c.status().ok()) return c.status();
  const int64_t B = r.q.dim(0), T = r.q.dim(1);
  const Array g =
      c.has("g") ? c.In("g") : c.FromHost(HostTensor<double>({HO}, RetentionDecays(HO)));
  r.decay = g.Reshape({1, 1, HO, 1}).Expand({B, T, HO, 1});
  r.scale = c.real("scale");
  r.state = c.In("initial_state");
  r.z = c.In("initial_state_z");
  r.keeps_z = c.choice("normalize") == "row";
  const RecurrenceResult result = RunRecurrence(c, r);

  Array o = result.o;
  if (c.choice("normalize") != "none") {
    // n_t for every token, and after the last.
    const Array lam = Exp(g).Reshape({1, HO});
    Array n = c.Zeros({B, HO});
    if (c.has("initial_state_n")) n.Assign(c.In("initial_state_n"));
    const Array sums = c.Empty({B, T, HO, 1});
    for (int64_t t = 0; t < T && c.status().ok(); ++t) {
      n = lam * n + 1.0;
      sums.Slice(1, t, 1).Assign(n.Unsqueeze(1).Unsqueeze(-1));
    }
    o = o / Sqrt(sums);
    if (r.keeps_z) o = o / Maximum(Apply(UnaryOp::kAbs, result.dots / Sqrt(sums)), 1.0);
    c.Out("final_state_n", n);
  }
  c.Out("o", o);
  c.Out("final_state", result.state);
  c.Out("final_state_z", result.z);
  if (c.choice("rotary") != "none") {
    const Array seen = c.has("initial_state_pos")
                           ? c.Cast(c.In("initial_state_pos"), DType::kFloat64)
                           : c.Cast(c.Zeros({B}), DType::kFloat64);
    c.Out("final_state_pos", seen + c.Cast(c.Scalar(static_cast<double>(T)), DType::kFloat64));
  }
  return c.status();
}

}  // namespace

void RegisterRetention(Registry& registry);

void RegisterRetention(Registry& registry) {
  Operator& op = registry.Add(Schema(), Compose);
  op.check = [](const BoundCall& call) { return CheckTokensSeen(call, "initial_state_pos"); };
  op.causal = [](const BoundCall&) { return true; };
}

}  // namespace attnd
