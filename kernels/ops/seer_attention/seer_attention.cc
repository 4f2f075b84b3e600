#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/core/part_call.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/block_choice.h"
#include "kernels/cores/rope.h"
#include "kernels/cores/softmax_composed.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "seer_attention",
      .paper = "SeerAttention: Learning Intrinsic Sparse Attention in Your LLMs (2025)",
      .summary =
          "Causal attention over the key blocks that a learned gate on pooled queries and "
          "keys chooses",
      .core = "block_sparse",
      .definition =
          R"(Causal attention over the key blocks that a small learned gate on pooled queries and keys predicts to matter ("SeerAttention: Learning Intrinsic Sparse Attention in Your LLMs", 2025). Of a sequence, with blocks u of queries and w <= u of keys:
  Q_u = pools of q over the block, projected and rotated; K_w likewise;  A_uw = Q_u.K_w / sqrt(G) listed(u): softmax_w(A)_uw > threshold, or the largest A_uw;  then block-sparse attention)",
      .inputs = {"q: float[B,T,H,K]", "k: float[B,T,HK,K]", "v: float[B,T,HV,V]",
                 "q_gate: float[B,T,H,K]?  # what the gate pools, q when absent: q before its "
                 "rotation",
                 "k_gate: float[B,T,HK,K]?  # k when absent",
                 "gate_wq: float[H,QC,G]?  # of the pooled queries, QC = pools * K",
                 "gate_wk: float[HG,KC,G]  # of the pooled keys, KC = pools * K",
                 "gate_cos: float32[GR,GP]?  # rotation of the gate, a row for each block",
                 "gate_sin: float32[GR,GP]?  # with gate_cos",
                 "cu_seqlens: int32[M+1]?  # packed sequences, B = 1, each with its own blocks"},
      .attributes =
          {"block_size: int = 64 >= 1  # of queries and of keys",
           "q_pool: string = '[\"avg\"]'  # a list, as JSON text, of max, min, avg",
           "k_pool: string = '[\"max\", \"min\", \"avg\"]'",
           "method: {threshold, nz_ratio, top_k} = threshold",
           "threshold: float? >= 0  # blocks with more of the gate's softmax are kept; absent: 0",
           "nz_ratio: float? > 0 <= 1  # share of the causal blocks that is kept",
           "top_k: int? >= 1  # blocks of each row",
           "last_block_dense: bool = true  # the last two rows of blocks read every causal block",
           "scale: float = 1/sqrt(K)  # of the attention, not of the gate",
           "return_gate: bool = false"},
      .outputs = {"o: float[B,T,H,V]",
                  "block_mask: bool[M,H,MB,MB] if return_gate  # blocks that were read",
                  "gate: float32[M,H,MB,MB] if return_gate  # softmax over the causal blocks"},
      .derived = {"MB = ceil_div(LT, block_size)"},
      .rules =
          {kQueryHeadsRule, "HV == HK  # as many value heads as key heads",
           "HG == HK || (!has(gate_wq) && HG == H)  # projections of every key head, or, without "
           "gate_wq, of every query head",
           "has(gate_wq) || G == K  # gate_wq, or G = K",
           "has(gate_cos) == has(gate_sin)  # gate_cos and gate_sin together",
           "has(gate_cos) -> 2 * GP == G  # G even, half as many channels in the rotation",
           "has(gate_cos) -> GR >= MB  # a row of the rotation for each block",
           "has(threshold) -> method == 'threshold'  # threshold with its method",
           "(method == 'nz_ratio') == has(nz_ratio)  # nz_ratio with its method, and only there",
           "(method == 'top_k') == has(top_k)  # top_k with its method, and only there"},
      .packed_by_sequence = false,
  };
  return schema;
}

// The pools of an attribute, in the order max, min, avg; empty if it is no list of different ones.
std::vector<std::string> Pools(const BoundCall& call, absl::string_view attribute) {
  std::vector<std::string> named =
      absl::StrSplit(call.choice(attribute), absl::ByAnyChar("[]\", "), absl::SkipEmpty());
  std::vector<std::string> pools;
  for (const char* pool : {"max", "min", "avg"}) {
    if (std::count(named.begin(), named.end(), pool) == 1) pools.emplace_back(pool);
  }
  return pools.size() == named.size() ? pools : std::vector<std::string>();
}

absl::Status Check(const BoundCall& call) {
  const auto error = [&call](auto... what) {
    return absl::InvalidArgumentError(absl::StrCat(call.spec().id(), ": ", what...));
  };
  for (const char* attribute : {"q_pool", "k_pool"}) {
    const bool of_q = attribute[0] == 'q';
    const auto pools = static_cast<int64_t>(Pools(call, attribute).size());
    if (pools == 0) {
      return error(attribute, ": given ", call.choice(attribute),
                   ", expected a list of different ones of \"max\", \"min\", \"avg\"");
    }
    if (of_q && !call.has("gate_wq")) {
      if (pools == 1) continue;
      return error("q_pool: given ", pools, " pools, expected one where gate_wq is not given");
    }
    const int64_t channels = call.dim(of_q ? "QC" : "KC"), expected = pools * call.dim("K");
    if (channels != expected) {
      return error(of_q ? "gate_wq" : "gate_wk", ": given ", channels, " rows, expected ", expected,
                   ": ", pools, " pools of K=", call.dim("K"), " channels");
    }
  }
  return absl::OkStatus();
}

// x [B,T,H,K] -> [B,H,MB,pools * K]: every pool over the tokens that a block has.
Array Pooled(const Array& x, const std::vector<std::string>& pools, int64_t block) {
  Composer& c = *x.composer();
  const int64_t rows = x.dim(0), tokens = x.dim(1), blocks = (tokens + block - 1) / block;
  const auto in_blocks = [&](const Array& x, double beyond) {
    const Array padded = c.Full({rows, blocks * block, x.dim(2), x.dim(3)}, beyond);
    padded.Slice(1, 0, tokens).Assign(x);
    return padded.Reshape({rows, blocks, block, x.dim(2), x.dim(3)});
  };
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  Array all;
  for (const std::string& pool : pools) {
    Array one;
    if (pool == "max") one = Max(in_blocks(x, -kInfinity), 2);
    if (pool == "min") one = -Max(in_blocks(-x, -kInfinity), 2);
    if (pool == "avg") {
      std::vector<double> counts(static_cast<size_t>(blocks), static_cast<double>(block));
      counts.back() = static_cast<double>(tokens - (blocks - 1) * block);
      const Array divisor = c.FromHost(HostTensor<double>({blocks}, counts));
      one = Sum(in_blocks(x, 0), 2) / divisor.Reshape({blocks, 1, 1, 1});
    }
    one = one.Select(2, 0);
    all = all.defined() ? Concat(all, one, -1) : one;
  }
  return all.Transpose(1, 2);
}

struct Gate {
  Array listed;  // bool [B,H,MB,MB]
  Array weight;  // [B,H,MB,MB]
};

class SeerGate {
 public:
  SeerGate(Composer& c, int64_t block) : c_(c), block_(block) {}

  // Of queries [B,T,H,K] and keys [B,T,HK,K], T > 0.
  Gate Of(const Array& q, const Array& k) const {
    const int64_t heads = c_.dim("H"), blocks = (q.dim(1) + block_ - 1) / block_;
    Array queries = Pooled(q, Pools(c_.call(), "q_pool"), block_);
    if (c_.has("gate_wq")) queries = MatMul(queries, c_.In("gate_wq"));
    const Array pooled = Pooled(k, Pools(c_.call(), "k_pool"), block_).RepeatTo(1, c_.dim("HG"));
    const Array keys = MatMul(pooled, c_.In("gate_wk"));
    const Array scores = MatMul(Turned(queries), Turned(keys).RepeatTo(1, heads).T()) /
                         std::sqrt(static_cast<double>(c_.dim("G")));
    const Array causal = WindowPairs(c_, blocks, blocks, true, -1, -1);
    Array lse;
    const Array weight = Softmax(scores, causal.Expand(scores.tensor().shape()), &lse);
    Array listed = Listed(scores, lse, causal, blocks);
    if (c_.flag("last_block_dense")) {
      const Array late = c_.Scalar(static_cast<double>(blocks - 3)) < c_.Iota(blocks).Unsqueeze(1);
      listed = listed || (causal && late);
    }
    return {listed, weight};
  }

 private:
  // x [B,H,MB,G], its channels c and c + G/2 turned by the angle of the block.
  Array Turned(const Array& x) const {
    if (!c_.has("gate_cos")) return x;
    const auto factors = [&](absl::string_view name) {
      const Array half = c_.In(name).Slice(0, 0, x.dim(2));
      return Concat(half, half, -1);
    };
    return x * factors("gate_cos") + RotatedHalves(x) * factors("gate_sin");
  }

  Array Listed(const Array& scores, const Array& lse, const Array& causal, int64_t blocks) const {
    const std::string& method = c_.choice("method");
    if (method == "threshold") {
      const double least = c_.call().has_attribute("threshold") ? c_.real("threshold") : 0;
      // By logarithms: a weight too small for float32 is still more than a threshold of 0.
      return causal && c_.Scalar(std::log(least)) < scores - lse;
    }
    int64_t count = 0;
    if (method == "nz_ratio") {
      const double share = 1 - std::sqrt(1 - c_.real("nz_ratio"));
      count = std::max<int64_t>(
          1, static_cast<int64_t>(std::floor(share * static_cast<double>(blocks))));
    } else {
      count = std::min(c_.integer("top_k"), blocks);
    }
    return Largest(scores, causal.Expand(scores.tensor().shape()), count);
  }

  Composer& c_;
  const int64_t block_;
};

absl::Status Compose(Composer& c) {
  const Array q = c.In("q"), k = c.In("k"), v = c.In("v");
  const Array q_gate = c.has("q_gate") ? c.In("q_gate") : q;
  const Array k_gate = c.has("k_gate") ? c.In("k_gate") : k;
  const int64_t heads = c.dim("H"), blocks = c.dim("MB");
  const Dims grid = {c.dim("M"), heads, blocks, blocks};
  const Array o = c.Zeros({c.dim("B"), c.dim("T"), heads, c.dim("V")});
  const Array listed = c.Cast(c.Zeros(grid), DType::kBool), weight = c.Zeros(grid);
  // Rows of the batch together, packed sequences one by one.
  const auto run = [&](const Sequence& sequence, int64_t states) {
    if (sequence.length == 0 || !c.status().ok()) return;
    const int64_t block = std::min(c.integer("block_size"), sequence.length);
    const auto cut = [&](const Array& x) { return x.Slice(1, sequence.begin, sequence.length); };
    const Gate gate = SeerGate(c, block).Of(cut(q_gate), cut(k_gate));
    PartCall attention(c, "block_sparse_attention");
    attention.In("q", cut(q)).In("k", cut(k)).In("v", cut(v)).PassAttribute("scale");
    attention.In("block_mask", gate.listed).Set("causal", true);
    attention.Set("block_size_q", block).Set("block_size_k", block);
    cut(o).Assign(attention.Out("o"));
    const int64_t used = (sequence.length + block - 1) / block;
    const auto corner = [&](const Array& x) {
      return x.Slice(0, sequence.state, states).Slice(2, 0, used).Slice(3, 0, used);
    };
    corner(listed).Assign(gate.listed);
    corner(weight).Assign(gate.weight);
  };
  if (c.call().packed()) {
    for (const Sequence& sequence : c.call().sequences()) run(sequence, 1);
  } else {
    run({0, 0, c.dim("T"), 0}, c.dim("B"));
  }
  c.Out("o", o);
  c.Out("block_mask", listed);
  c.Out("gate", weight);
  return c.status();
}

// Small blocks, pools, and weights that fit them.
void Draw(RandomSource& source) {
  source.Attribute("block_size", source.Uniform(6, 16));
  source.Dim("HV", source.Dim("HK", source.Uniform(1, 2)));
  const int64_t heads = source.Dim("H", *source.dims().Find("HK") * source.Uniform(1, 2));
  const int64_t size = source.Dim("K", source.Uniform(1, 16));
  const bool projects = source.Wants("gate_wq");
  constexpr const char* kPools[] = {"[\"avg\"]", "[\"max\"]", "min", "[\"avg\", \"max\"]"};
  const int64_t q_pool = source.Uniform(0, projects ? 3 : 2), k_pool = source.Uniform(0, 3);
  if (source.options().random_attributes || !projects) {
    source.Attribute("q_pool", std::string(kPools[q_pool]));
    source.Attribute("k_pool", std::string(kPools[k_pool]));
    source.Dim("QC", size * (q_pool == 3 ? 2 : 1));
    source.Dim("KC", size * (k_pool == 3 ? 2 : 1));
  } else {
    source.Dim("QC", size);
    source.Dim("KC", 3 * size);
  }
  const int64_t gate = source.Dim("G", projects ? 2 * source.Uniform(1, 8) : size);
  source.Dim("HG", !projects && source.Uniform(0, 1) == 0 ? heads : *source.dims().Find("HK"));
  source.Dim("GP", std::max<int64_t>(1, gate / 2));
  source.Dim("GR", 120);
  if (gate % 2 == 0) source.Together({"gate_cos", "gate_sin"});
  const AttrValue* method = source.request().attributes.Find("method");
  if (method == nullptr) return;
  if (std::get<std::string>(*method) == "threshold") source.Attribute("threshold", 0.1);
  if (std::get<std::string>(*method) == "nz_ratio") {
    source.Attribute("nz_ratio", 0.1 + 0.9 * source.Uniform01());
  }
  if (std::get<std::string>(*method) == "top_k") source.Attribute("top_k", source.Uniform(1, 4));
}

}  // namespace

void RegisterSeerAttention(Registry& registry);

void RegisterSeerAttention(Registry& registry) {
  Operator& op = registry.AddOfParts(Schema(), Compose);
  op.check = Check;
  op.random = Draw;
}

}  // namespace attnd
