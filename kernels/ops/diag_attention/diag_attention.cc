#include <string>

#include "kernels/core/part_call.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/feature_maps.h"
#include "kernels/cores/output_norm.h"
#include "kernels/cores/recurrence_composed.h"
#include "kernels/cores/ring.h"
#include "kernels/cores/softmax_composed.h"
#include "kernels/cores/tokens_seen.h"
#include "kernels/cores/windows.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "diag_attention",
      .paper = "The Devil in Linear Transformer (2022)",
      .summary = "Attention inside blocks of neighbouring tokens, softmax or relu",
      .core = "softmax",
      .definition =
          R"(Attention inside blocks of neighbouring tokens alone (Qin et al., "The Devil in Linear Transformer", 2022).
  o_t = norm(sum over the keys j of t's block (up to t, if causal) of w_tj v_j), w softmax(scale q·k), max(scale q·k, 0) or its square
Blocks count from position 0. A sequence that goes on begins inside a block, whose keys are its state: tokens are laid into a frame that starts where that block does, and blocks are then rows of one call.)",
      .inputs = OutputNormInputs(
          {"q: float[B,T,H,K]", "k: float[B,T,HK,K]", "v: float[B,T,HV,V]",
           "initial_state_k: float32[M,C,HO,K]? if causal  # keys of the open block, then anything",
           "initial_state_v: float32[M,C,HO,V]? if causal  # its values",
           "initial_state_pos: int64[M]? if causal  # tokens seen so far",
           "cu_seqlens: int32[M+1]?  # packed sequences, B = 1"}),
      .attributes = OutputNormAttributes(
          {"block_size: int = 64 >= 1", "activation: {softmax, relu, relu2} = softmax",
           "causal: bool = true", "scale: float = 1/sqrt(K)  # multiplies q·k"},
          "none"),
      .outputs = {"o: float[B,T,HO,V]", "final_state_k: float32[M,C,HO,K] if causal",
                  "final_state_v: float32[M,C,HO,V] if causal",
                  "final_state_pos: int64[M] if causal"},
      .derived = {"HO = max(H,HK,HV)", "C = block_size"},
      .rules = {"HO % H == 0  # head counts that divide the largest",
                "HO % HK == 0  # head counts that divide the largest",
                "HO % HV == 0  # head counts that divide the largest",
                "has(initial_state_k) == has(initial_state_v)  # all of the state, or none of it",
                "has(initial_state_k) == has(initial_state_pos)  # all of the state, or none of "
                "it"},
  };
  return schema;
}

// Rows of whole blocks; `valid` (bool [rows,C] or undefined: all) tells the keys that are tokens.
Array Attend(Composer& c, const Array& q, const Array& k, const Array& v, const Array& valid) {
  const bool causal = c.flag("causal");
  const std::string& activation = c.choice("activation");
  const int64_t C = c.dim("C"), rows = q.dim(0);
  const Array mask = valid.defined() ? valid.Unsqueeze(1).Expand({rows, C, C}) : Array();
  if (activation == "softmax") {
    PartCall softmax(c, "softmax_attention");
    softmax.In("q", q).In("k", k).In("v", v).In("mask", mask);
    softmax.Set("causal", causal).PassAttribute("scale");
    return softmax.Out("o");
  }
  Array allowed = WindowPairs(c, C, C, causal, -1, -1);
  if (mask.defined()) allowed = allowed && mask.Unsqueeze(1);
  const Array scores = MatMul(q.Permute({0, 2, 1, 3}), k.Permute({0, 2, 3, 1})) * c.real("scale");
  const FeatureMap map = activation == "relu" ? FeatureMap::kRelu : FeatureMap::kRelu2;
  const Array weights = Where(allowed, Apply(map, scores), 0.0);
  return WeighedValues(c, weights, allowed, v.Permute({0, 2, 1, 3})).Permute({0, 2, 1, 3});
}

// Of sequences that begin with a block.
Array FromTheStart(Composer& c, const Array& q, const Array& k, const Array& v) {
  const int64_t B = q.dim(0), T = q.dim(1), C = c.dim("C"), blocks = (T + C - 1) / C;
  const auto in_blocks = [&](const Array& x) {
    return PaddedTo(c, x, blocks * C).Reshape({B * blocks, C, x.dim(2), x.dim(3)});
  };
  Array valid;
  if (!c.flag("causal") && T % C != 0) {
    const Array place = c.Iota(blocks * C).Reshape({blocks, C});
    valid = (place < c.Scalar(static_cast<double>(T))).Unsqueeze(0).Expand({B, blocks, C});
    valid = valid.Reshape({B * blocks, C});
  }
  const Array o = Attend(c, in_blocks(q), in_blocks(k), in_blocks(v), valid);
  return o.defined() ? o.Reshape({B, blocks * C, o.dim(2), o.dim(3)}).Slice(1, 0, T) : o;
}

// Index arithmetic of one sequence: float64 places in and out, as one dimension.
struct Frame {
  Composer& c;
  Array open;  // float64 [1]: tokens of the open block.
  int64_t slots, tokens;

  // Of [state, new tokens], the entry at frame place p: the open block's, then the new ones.
  Array Entries(const Array& place) const {
    const Array token = place - open + static_cast<double>(slots);
    const Array last = c.Cast(c.Scalar(static_cast<double>(slots + tokens - 1)), DType::kFloat64);
    return c.Cast(Where(place < open, place, Minimum(token, last)), DType::kInt64);
  }
};

// One sequence [1,T,..] from its state, causal; and the state's keys or values after it.
Array FromTheMiddle(const Frame& frame, const Array& q, const Array& k, const Array& v) {
  Composer& c = frame.c;
  const int64_t C = frame.slots, T = frame.tokens, places = (T + 2 * C - 2) / C * C;
  const Array entries = frame.Entries(Positions(c, places));
  const Array no_queries = c.Zeros({1, C, q.dim(2), q.dim(3)});
  const auto framed = [&](const Array& x) { return Gather(x, entries, 1); };
  const Array o = FromTheStart(c, framed(Concat(no_queries, q, 1)), framed(k), framed(v));
  return Gather(o, c.Cast(Positions(c, T) + frame.open, DType::kInt64), 1);
}

// The open block of [state, new tokens] when all are seen; zeros behind it.
Array OpenBlock(const Frame& frame, const Array& all) {
  Composer& c = frame.c;
  const Array size = c.Cast(c.Scalar(static_cast<double>(frame.slots)), DType::kFloat64);
  const Array end = frame.open + static_cast<double>(frame.tokens);
  const Array left = Mod(end, size);
  const Array place = Positions(c, frame.slots);
  // Places behind the open block read whatever is there, and are dropped.
  const Array from = Minimum(place + (end - left), end - 1.0);
  const Array kept = Gather(all, frame.Entries(Maximum(from, 0.0)), 1);
  const Array inside = (place < left).Unsqueeze(-1).Unsqueeze(-1);
  return Where(inside, kept, 0.0);
}

absl::Status Compose(Composer& c) {
  const int64_t B = c.dim("B"), T = c.dim("T"), HO = c.dim("HO"), C = c.dim("C");
  const Array q = InHeads(c, "q"), k = InHeads(c, "k"), v = InHeads(c, "v");
  const bool goes_on = c.has("initial_state_k");
  const bool anew = !goes_on && T > 0;
  Array o = anew ? FromTheStart(c, q, k, v) : c.Empty({B, T, HO, c.dim("V")});
  if (c.flag("causal")) {
    const Array seen = c.Cast(goes_on ? c.In("initial_state_pos") : c.Zeros({B}), DType::kFloat64);
    const Array size = c.Cast(c.Scalar(static_cast<double>(C)), DType::kFloat64);
    const Array open = Mod(seen, size);
    const Array before_k = goes_on ? c.In("initial_state_k") : c.Zeros({B, C, HO, c.dim("K")});
    const Array before_v = goes_on ? c.In("initial_state_v") : c.Zeros({B, C, HO, c.dim("V")});
    const Array all_k = Concat(before_k, k, 1), all_v = Concat(before_v, v, 1);
    const Array final_k = c.Empty(before_k.tensor().shape());
    const Array final_v = c.Empty(before_v.tensor().shape());
    for (int64_t b = 0; b < B && c.status().ok(); ++b) {
      const auto row = [b](const Array& x) { return x.Slice(0, b, 1); };
      const Frame frame = {c, row(open), C, T};
      if (T == 0) {  // As they were, whatever lies behind the open block.
        row(final_k).Assign(row(before_k));
        row(final_v).Assign(row(before_v));
        continue;
      }
      if (goes_on) row(o).Assign(FromTheMiddle(frame, row(q), row(all_k), row(all_v)));
      row(final_k).Assign(OpenBlock(frame, row(all_k)));
      row(final_v).Assign(OpenBlock(frame, row(all_v)));
    }
    c.Out("final_state_k", final_k);
    c.Out("final_state_v", final_v);
    c.Out("final_state_pos", seen + static_cast<double>(T));
  }
  c.Out("o", OutputNorm(c, o));
  return c.status();
}

void Draw(RandomSource& source) {
  const int64_t block = source.Uniform(1, 20);
  source.Attribute("block_size", block);
  // Rows of few channels may come near zero, where a norm makes noise of rounding.
  source.Dim("V", source.Uniform(4, 20));
  if (source.options().random_attributes) source.Attribute("causal", source.Uniform(0, 2) > 0);
  if (!source.Together({"initial_state_k", "initial_state_v", "initial_state_pos"})) return;
  const AttrValue* causal = source.request().attributes.Find("causal");
  if (causal != nullptr && *causal == AttrValue(false)) return;
  const int64_t B = source.Dim("B", source.Uniform(1, 3));
  std::vector<int64_t> seen(
      static_cast<size_t>(source.Dim("M", source.options().packed ? source.Uniform(1, 4) : B)));
  for (int64_t& tokens : seen) tokens = source.Uniform(0, 3 * block);
  source.request().inputs.Set("initial_state_pos",
                              HostTensor<int64_t>({static_cast<int64_t>(seen.size())}, seen));
}

}  // namespace

void RegisterDiagAttention(Registry& registry);

void RegisterDiagAttention(Registry& registry) {
  Operator& op = registry.AddOfParts(Schema(), Compose);
  op.check = [](const BoundCall& call) { return CheckTokensSeen(call, "initial_state_pos"); };
  op.random = Draw;
  op.causal = [](const BoundCall& call) { return call.flag("causal"); };
}

}  // namespace attnd
