#include <algorithm>
#include <limits>
#include <string>

#include "kernels/core/part_call.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/hedgehog_map.h"
#include "kernels/cores/normalised_sums.h"
#include "kernels/cores/ring.h"
#include "kernels/cores/softmax_composed.h"
#include "kernels/cores/tokens_seen.h"
#include "kernels/cores/window_branch.h"
#include "kernels/cores/windows.h"

namespace attnd {
namespace {

constexpr char kAllOfTheState[] = "  # all of the state, or none of it";

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "lolcats",
      .paper = "LoLCATs: On Low-Rank Linearizing of Large Language Models (2024)",
      .summary = "Softmax over the last tokens, trained linear attention before, one normaliser",
      .core = "softmax",
      .definition =
          R"(Softmax over the last tokens and linear attention of hedgehog's features over all before them, in one normaliser ("LoLCATs: On Low-Rank Linearizing of Large Language Models", 2024).
  a_j = gamma exp(scale q·k_j - c) for j near, c their maximum;  w_j = lambda phi(q)·phi(k_j) for j far o = (sum a_j v_j + sum w_j v_j) / (sum a_j + sum w_j)
A token enters the far state when it leaves the ring, W or (terraced) 2W tokens later: the linear part is a recurrence over keys that come late. Where terraces make more tokens far than have left the ring, those are weighed pair by pair within their blocks.)",
      .inputs = RingInputs(
          {"q: float[B,T,H,K]  # rotated", "k: float[B,T,HK,K]  # rotated", "v: float[B,T,HV,V]",
           "w_q: float[H,K,F] ~small  # a map for each query head",
           "w_k: float[H,K,F]? ~small  # that of the keys; w_q when absent",
           "b_q: float[H,F]?  # added to q w_q; to k w_q too when w_k is absent",
           "b_k: float[H,F]? if has(w_k)  # added to k w_k",
           "window_factor: float32[H]  # gamma = sigmoid(window_factor), the weight of what is "
           "near",
           "initial_state: float32[M,H,E,V]? ~small  # sum of phi(k) v^T of what left the ring",
           "initial_state_z: float32[M,H,E]? ~positive  # sum of phi(k) of the same",
           "cu_seqlens: int32[M+1]?  # packed sequences, B = 1"}),
      .attributes = HedgehogAttributes(
          {"window: int = 64 >= 1  # W",
           "window_kind: {sliding, terraced} = sliding  # near: the last W tokens, or the query's "
           "block of W and the one before",
           "affine_factors: bool = false  # lambda = 1 - gamma, or 1",
           "scale: float = 1/sqrt(K)  # of the softmax"}),
      .outputs = WindowOutputs(
          {"o: float[B,T,H,V]", "final_state: float32[M,H,E,V]", "final_state_z: float32[M,H,E]"}),
      .derived = {kHedgehogFeatures, "C = select(window_kind == 'terraced', 2 * window, window)"},
      .rules =
          RingRules({kQueryHeadsRule,
                     std::string("has(initial_state) == has(initial_state_z)") + kAllOfTheState,
                     std::string("has(initial_state) == has(initial_state_k)") + kAllOfTheState}),
  };
  return schema;
}

// Who is near and who is far among the keys of a block of queries, bool [B n,L,C+L].
struct Pairs {
  Array near;
  Array late;  // Far, and in the ring still; undefined: none.
};

// The call in blocks of L queries, each beside the C + L tokens up to its last.
struct Blocks {
  int64_t length;  // L
  int64_t count;   // n
  int64_t slots;   // C

  Array Queries(Composer& c, const Array& x) const {
    const Array whole = PaddedTo(c, x, count * length);
    return whole.Reshape({x.dim(0) * count, length, x.dim(2), x.dim(3)});
  }
  // x [B,C+T,..]: the ring in order, then the new tokens.
  Array Keys(Composer& c, const Array& x) const {
    const Array whole = PaddedTo(c, x, slots + count * length);
    return Windows(c, whole, count, length, slots + length)
        .Reshape({x.dim(0) * count, slots + length, x.dim(2), x.dim(3)});
  }
  // The tokens of [B n,L,..].
  static Array Tokens(const Array& x, int64_t B, int64_t T) {
    if (!x.defined()) return {};
    return x.Reshape({B, x.dim(0) * x.dim(1) / B, x.dim(2), x.dim(3)}).Slice(1, 0, T);
  }
};

Pairs PairsOf(Composer& c, const Blocks& blocks, const Array& seen) {
  const int64_t B = c.dim("B"), L = blocks.length, n = blocks.count, C = blocks.slots;
  const auto W = static_cast<double>(c.integer("window"));
  const bool terraced = c.choice("window_kind") == "terraced";
  const Array first = (Positions(c, n) * static_cast<double>(L)).Unsqueeze(0) + seen.Unsqueeze(-1);
  const Array query = first.Unsqueeze(-1).Unsqueeze(-1) + Positions(c, L).Unsqueeze(-1);
  const Array key =
      first.Unsqueeze(-1).Unsqueeze(-1) + (Positions(c, C + L) - static_cast<double>(C));
  if (!c.status().ok()) return {};
  const Array zero = query * 0.0;
  // The first position that is near.
  const Array from = terraced ? (Apply(UnaryOp::kFloor, query / W) - 1.0) * W : query - (W - 1);
  const Array past = key <= query && zero <= key;
  const Dims shape = {B * n, L, C + L};
  Pairs pairs;
  pairs.near = (past && from <= key).Reshape(shape);
  if (terraced) pairs.late = (past && key < from && query - 2 * W < key).Reshape(shape);
  return pairs;
}

// The maximum c of scale q·k over what is near, [B n,L,H,1], head by head.
Array NearMaximum(Composer& c, const Array& q, const Array& k, const Array& near) {
  if (!c.status().ok()) return {};
  const int64_t H = q.dim(2), group = H / k.dim(2);
  Array most = c.Empty({q.dim(0), q.dim(1), H, 1});
  for (int64_t h = 0; h < H && c.status().ok(); ++h) {
    const Array scores = MatMul(q.Select(2, h), k.Select(2, h / group).T()) * c.real("scale");
    most.Select(2, h).Assign(
        Max(Where(near, scores, -std::numeric_limits<double>::infinity()), -1));
  }
  return most;
}

// sum of phi(q)·phi(k_j) [v_j, 1] over late j, [B n,L,H,V+1], head by head.
Array LateSums(Composer& c, const Array& q, const Array& k, const Array& v, const Array& late) {
  if (!c.status().ok()) return {};
  const int64_t H = q.dim(2), group = H / v.dim(2);
  Array sums = c.Empty({q.dim(0), q.dim(1), H, v.dim(3)});
  for (int64_t h = 0; h < H && c.status().ok(); ++h) {
    const Array weights = Where(late, MatMul(q.Select(2, h), k.Select(2, h).T()), 0.0);
    sums.Select(2, h).Assign(WeighedValues(c, weights, late, v.Select(2, h / group)));
  }
  return sums;
}

absl::Status Compose(Composer& c) {
  const int64_t B = c.dim("B"), T = c.dim("T"), C = c.dim("C"), V = c.dim("V");
  const Array q = c.In("q"), k = c.In("k"), v = c.In("v");
  const bool started = c.has("initial_state_k");
  const Array seen = c.Cast(started ? c.In("initial_state_pos") : c.Zeros({B}), DType::kFloat64);
  const Array ring_k = started ? c.In("initial_state_k") : c.Zeros({B, C, c.dim("HK"), c.dim("K")});
  const Array ring_v = started ? c.In("initial_state_v") : c.Zeros({B, C, c.dim("HV"), V});
  if (!c.status().ok()) return c.status();
  c.Out("final_state_k", RingWritten(c, ring_k, k, seen));
  c.Out("final_state_v", RingWritten(c, ring_v, v, seen));
  c.Out("final_state_pos", seen + static_cast<double>(T));

  const Array exists = RingExists(c, C, T, seen).Unsqueeze(-1).Unsqueeze(-1);
  const Array keys = Where(exists, Concat(RingInOrder(c, ring_k, seen), k, 1), 0.0);
  const Array values = Where(exists, Concat(RingInOrder(c, ring_v, seen), v, 1), 0.0);
  const Array phi_q = HedgehogQueries(c, q), phi_k = Where(exists, HedgehogKeys(c, keys), 0.0);
  NormalisedCall far;
  far.q = phi_q;
  far.k = phi_k.Slice(1, 0, T);
  far.v = values.Slice(1, 0, T);
  far.state = c.In("initial_state");
  far.z = c.In("initial_state_z");
  const NormalisedSums left = SumWithNormaliser(c, far);
  c.Out("final_state", left.state);
  c.Out("final_state_z", left.z);
  if (T == 0 || !c.status().ok()) return c.status();

  const int64_t length = std::min<int64_t>(T, c.integer("window"));
  const Blocks blocks = {length, (T + length - 1) / length, C};
  const Pairs pairs = PairsOf(c, blocks, seen);
  const Array block_q = blocks.Queries(c, q), block_k = blocks.Keys(c, keys);
  PartCall near(c, "softmax_attention");
  near.In("q", block_q).In("k", block_k).In("v", blocks.Keys(c, values)).In("mask", pairs.near);
  near.PassAttribute("scale").Set("return_lse", true);
  const Array mass =
      Exp(near.Out("lse").Unsqueeze(-1) - NearMaximum(c, block_q, block_k, pairs.near));
  const Array gamma = Sigmoid(c.In("window_factor")).Unsqueeze(-1);
  const Array near_weight = gamma * Blocks::Tokens(mass, B, T);
  Array far_sums = left.sums, far_total = left.total;
  if (pairs.late.defined()) {
    const Array late = Blocks::Tokens(LateSums(c, blocks.Queries(c, phi_q), blocks.Keys(c, phi_k),
                                               blocks.Keys(c, WithOnes(c, values)), pairs.late),
                                      B, T);
    far_sums = far_sums + late.Slice(3, 0, V);
    far_total = far_total + late.Slice(3, V, 1);
  }
  if (c.flag("affine_factors")) {
    const Array lambda = Sigmoid(-c.In("window_factor")).Unsqueeze(-1);
    far_sums = far_sums * lambda;
    far_total = far_total * lambda;
  }
  c.Out("o",
        (near_weight * Blocks::Tokens(near.Out("o"), B, T) + far_sums) / (near_weight + far_total));
  return c.status();
}

void Draw(RandomSource& source) {
  source.Attribute("window", source.Uniform(1, 30));
  source.Together({"initial_state", "initial_state_z", "initial_state_k", "initial_state_v",
                   "initial_state_pos"});
  DrawWindow(source, std::get<int64_t>(*source.request().attributes.Find("window")));
  source.Dim("F", source.Uniform(2, 12));
}

}  // namespace

void RegisterLolcats(Registry& registry);

void RegisterLolcats(Registry& registry) {
  Operator& op = registry.AddOfParts(Schema(), Compose);
  op.check = [](const BoundCall& call) { return CheckTokensSeen(call, "initial_state_pos"); };
  op.random = Draw;
  op.causal = [](const BoundCall&) { return true; };
}

}  // namespace attnd
