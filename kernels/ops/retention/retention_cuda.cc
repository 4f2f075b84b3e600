#include "kernels/cores/recurrent_operator_cuda.h"
#include "kernels/cores/recurrent_sm90.h"
#include "kernels/cores/rope.h"
#include "kernels/cores/slopes.h"
#include "kernels/primitives/composer.h"

namespace attnd {
namespace {

// Where the tokens of a call stand, packed or dense alike.
struct Places {
  Array steps;    // float64 [B,T]: 1 for a sequence's first token, and so on.
  Array states;   // int64 [B T]: the index of its sequence's state.
  Array lengths;  // float64 [M]
};

Places PlacesOf(Composer& c, const BoundCall& call) {
  const int64_t B = call.dim("B"), T = call.dim("T");
  std::vector<double> steps(static_cast<size_t>(B * T)), lengths(call.sequences().size());
  std::vector<int64_t> states(steps.size());
  for (const Sequence& sequence : call.sequences()) {
    for (int64_t t = 0; t < sequence.length; ++t) {
      const auto at = static_cast<size_t>(sequence.row * T + sequence.begin + t);
      steps[at] = static_cast<double>(t + 1);
      states[at] = sequence.state;
    }
    lengths[static_cast<size_t>(sequence.state)] = static_cast<double>(sequence.length);
  }
  const auto doubles = [&c](const Dims& shape, const std::vector<double>& values) {
    // FromHost would round to the compute type.
    Array out = c.Empty(DType::kFloat64, shape);
    if (out.defined()) {
      if (absl::Status s = c.backend().Upload(HostTensor<double>(shape, values), out.tensor());
          !s.ok())
        c.Fail(s);
    }
    return out;
  };
  return {doubles({B, T}, steps), c.FromHost(HostTensor<int64_t>({B * T}, states)),
          doubles({static_cast<int64_t>(lengths.size())}, lengths)};
}

Array Doubles(Composer& c, const Array& x) { return c.Cast(x, DType::kFloat64); }

// n after `steps` [..,1] steps of n <- lam n + 1 from `initial` [..,HO] (undefined: 0); g float64
// [HO].
Array DecaySum(Composer& c, const Array& g, const Array& steps, const Array& initial) {
  // No step decays nothing, also where g = -inf.
  const Array none = Equal(steps, Doubles(c, c.Scalar(0)));
  const Array decay = Where(none, Doubles(c, c.Scalar(1)), Exp(g * steps));
  // Without decay the sum is the number of steps.
  const Array still = Equal(g, Doubles(c, c.Scalar(0)));
  const Array sum = Where(still, steps + 0.0 * g, (1.0 - decay) / (1.0 - Exp(g)));
  return initial.defined() ? sum + decay * initial : sum;
}

template <absl::Status (*kRecurrent)(Backend&, const cuda::RecurrentCall&)>
absl::Status Run(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  const int64_t B = call.dim("B"), T = call.dim("T"), HO = call.dim("HO"), K = call.dim("K"),
                M = call.dim("M");
  const bool turns = call.choice("rotary") != "none",
             normalises = call.choice("normalize") != "none";
  const bool rows = call.choice("normalize") == "row";
  Composer c(backend, call, outputs);
  const Array g =
      c.has("g") ? c.In("g") : c.FromHost(HostTensor<double>({HO}, RetentionDecays(HO)));
  const Places places = turns || normalises ? PlacesOf(c, call) : Places();
  if (!c.status().ok()) return c.status();
  cuda::RecurrentCall core = cuda::RecurrentCallOf(call, outputs);
  core.decay = Decay::kHead;
  core.g = g.tensor();

  Array q, k;
  if (turns) {
    // The Hopper kernel multiplies in the call's own type, and takes nothing else.
    const DType turned_type = kRecurrent == cuda::RecurrentSm90 ? call.dtype() : c.compute_type();
    const RopePairs pairs =
        call.choice("rotary") == "half" ? RopePairs::kHalf : RopePairs::kInterleaved;
    Array positions = places.steps - 1.0;
    Array after = places.lengths;
    if (c.has("initial_state_pos")) {
      const Array seen = Doubles(c, c.In("initial_state_pos"));
      positions = positions + Gather(seen, places.states, 0).Reshape({B, T});
      after = after + seen;
    }
    const Array angles =
        RopeAngles(positions, RopeFrequencies(pairs, K, call.real("rotary_base"))).Unsqueeze(2);
    q = c.Contiguous(c.Cast(Rotate(c.In("q"), pairs, angles), turned_type));
    k = c.Contiguous(c.Cast(Rotate(c.In("k"), pairs, angles), turned_type));
    if (!c.status().ok()) return c.status();
    core.q = q.tensor();
    core.k = k.tensor();
    c.Out("final_state_pos", after);
  }
  Array y, dots;
  if (normalises) {
    y = c.Empty({B, T, HO, call.dim("V")});
    if (!c.status().ok()) return c.status();
    core.o = y.tensor();
  }
  if (rows) {
    dots = c.Empty({B, T, HO});
    if (!c.status().ok()) return c.status();
    core.initial_z = call.input("initial_state_z");
    core.final_z = *outputs.Find("final_state_z");
    core.dots = dots.tensor();
  }
  if (absl::Status s = kRecurrent(backend, core); !s.ok()) return s;
  if (!normalises) return c.status();

  const Array wide_g = Doubles(c, g);
  const Array initial = c.has("initial_state_n") ? Doubles(c, c.In("initial_state_n")) : Array();
  const Array seen =
      initial.defined() ? Gather(initial, places.states, 0).Reshape({B, T, HO}) : Array();
  const Array n = DecaySum(c, wide_g, places.steps.Unsqueeze(-1), seen);
  const Array root = c.Cast(Sqrt(n), c.compute_type());
  Array o = y / root.Unsqueeze(-1);
  if (rows) o = o / Maximum(Apply(UnaryOp::kAbs, dots / root), 1.0).Unsqueeze(-1);
  c.Out("o", o);
  c.Out("final_state_n", DecaySum(c, wide_g, places.lengths.Reshape({M, 1}), initial));
  return c.status();
}

}  // namespace

void RegisterRetentionCuda(Registry& registry);

void RegisterRetentionCuda(Registry& registry) {
  cuda::AddRecurrentSm90(
      registry, "retention",
      [](const BoundCall& call) { return call.choice("normalize") == "none"; },
      Run<cuda::RecurrentSm90>);
  registry.AddKernel("retention", {"chunk_cuda", Device::kCuda,
                                   [](const BoundCall& call) {
                                     return cuda::FitsRecurrent({call.dim("K"), Decay::kHead});
                                   },
                                   Run<cuda::Recurrent>});
}

}  // namespace attnd
