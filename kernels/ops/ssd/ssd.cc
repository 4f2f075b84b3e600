#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/entry_check.h"
#include "kernels/cores/recurrence_composed.h"
#include "kernels/ops/ssd/ssd_steps.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "ssd",
      .paper =
          "Transformers are SSMs: Generalized Models and Efficient Algorithms Through "
          "Structured State Space Duality (2024)",
      .summary = "Mamba-2's selective state-space model: one scalar transition per head",
      .core = "linear_recurrent",
      .definition =
          R"(The selective state-space model whose transition is one scalar per head (Dao and Gu, Mamba-2, 2024).
  dt' = clamp(softplus?(dt + dt_bias), dt_min, dt_max)
  S_t = e^(dt'_t a) S_{t-1} + b_t (dt'_t x_t)^T,  o_t = (S_t^T c_t + d x_t) silu(z_t))",
      .inputs = {"x: float[B,T,H,P]  # values",
                 "dt: float32[B,T,H] ~positive  # steps, or what softplus makes steps of",
                 "a: float32[H]? ~slopes  # negative; or a_log instead",
                 "a_log: float32[H] if !has(a)  # a = -exp(a_log)",
                 "b: float[B,T,G,N]  # keys; consecutive heads share a group",
                 "c: float[B,T,G,N]  # queries",
                 "dt_bias: float32[H]?  # added to dt, before softplus",
                 "d: float32[H]|[H,P]?  # o has d x added",
                 "z: float[B,T,H,P]?  # o is multiplied by silu(z)",
                 "initial_state: float32[M,H,N,P]? ~small  # zeros when absent",
                 "cu_seqlens: int32[M+1]?  # packed sequences, B = 1"},
      .attributes = {"dt_softplus: bool = false  # dt becomes softplus(dt + dt_bias)",
                     "dt_min: float = 0  # least step",
                     "dt_max: float? <= inf  # largest step; no limit when absent"},
      .outputs = {"o: float[B,T,H,P]", "final_state: float32[M,H,N,P]"},
      .rules = {"H % G == 0  # groups that divide the heads",
                "has(dt_max) -> dt_min <= dt_max  # an upper limit not below the lower"},
  };
  return schema;
}

absl::Status Check(const BoundCall& call) {
  return CheckEntries(
      call, "a", [](double a) { return a <= 0; }, "rates <= 0");
}

absl::Status Compose(Composer& c) {
  const SsdSteps steps = SsdStepsOf(c);
  const Array x = c.In("x");
  if (!c.status().ok()) return c.status();
  Recurrence r;
  r.q = c.In("c").RepeatTo(2, c.dim("H"));
  r.k = c.In("b").RepeatTo(2, c.dim("H"));
  r.v = x * steps.dt.Unsqueeze(-1);
  r.decay = steps.log_decay.Unsqueeze(-1);
  r.state = c.In("initial_state");
  const RecurrenceResult result = RunRecurrence(c, r);
  c.Out("o", SsdReadout(c, result.o, x));
  c.Out("final_state", result.state);
  return c.status();
}

// Groups that divide the heads, and now and then an upper limit.
void Draw(RandomSource& source) {
  const int64_t groups = source.Dim("G", source.Uniform(1, 3));
  source.Dim("H", groups * source.Uniform(1, 3));
  source.Dim("N", source.Uniform(0, 2) == 0 ? 8 * source.Uniform(1, 6) : source.Uniform(1, 40));
  source.Dim("P", source.Uniform(1, 40));
  if (source.options().random_attributes && source.Uniform(0, 1) == 1) {
    source.Attribute("dt_min", 0.2);
    source.Attribute("dt_max", 0.7);
  }
}

}  // namespace

SsdSteps SsdStepsOf(Composer& c) {
  Array dt = c.In("dt");
  if (c.has("dt_bias")) dt = dt + c.In("dt_bias");
  if (c.flag("dt_softplus")) dt = Softplus(dt);
  dt = Maximum(dt, c.real("dt_min"));
  if (c.call().has_attribute("dt_max")) dt = Minimum(dt, c.real("dt_max"));
  const Array a = c.has("a") ? c.In("a") : -Exp(c.In("a_log"));
  return {dt, dt * a};
}

Array SsdReadout(Composer& c, const Array& y, const Array& x) {
  Array o = y;
  const Array d = c.In("d");
  if (d.defined()) o = o + x * (d.rank() == 1 ? d.Unsqueeze(-1) : d);
  return c.has("z") ? o * Silu(c.In("z")) : o;
}

void RegisterSsd(Registry& registry);

void RegisterSsd(Registry& registry) {
  Operator& op = registry.Add(Schema(), Compose);
  op.check = Check;
  op.random = Draw;
  op.causal = [](const BoundCall&) { return true; };
}

}  // namespace attnd
