#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/block_lists.h"
#include "kernels/cores/softmax_composed.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "block_sparse_attention",
      .paper = "SeerAttention: Learning Intrinsic Sparse Attention in Your LLMs (2025)",
      .summary = "Softmax attention over listed blocks of keys, with sink and window",
      .core = "block_sparse",
      .definition =
          R"(Softmax attention in which every block of queries reads the key blocks that a list names (the core of SeerAttention, 2025, and of other sparse methods). With p(i) = i + S - T and L(u) the list of query block u = i // block_size_q:
  allowed(i,j) = (j // block_size_k in L(u) or causal and (j < sink or p(i) - j < window))
                 and (not causal or j <= p(i)))",
      .inputs =
          {"q: float[B,T,H,K]", "k: float[B,S,HK,K]", "v: float[B,S,HV,V]",
           "block_indices: int[BM,HB,MB,NK]?  # key blocks of each query block; negative: empty "
           "slot",
           "block_counts: int[BM,HB,MB]? if has(block_indices)  # only the first so many count",
           "block_mask: bool[BM,HB,MB,NB] if !has(block_indices)  # true = listed",
           "cu_seqlens: int32[M+1]?  # packed sequences, each with its own grid of blocks"},
      .attributes = {"block_size_q: int = 64 >= 1", "block_size_k: int = 64 >= 1",
                     "causal: bool = false",
                     "sink: int = 0 >= 0  # the first keys, attended by every query; with causal",
                     "window: int = 0 >= 0  # the nearest keys, the query's own first; with causal",
                     "scale: float = 1/sqrt(K)  # multiplies q.k", "return_lse: bool = false"},
      .outputs = {"o: float[B,T,H,V]", "lse: float32[B,T,H] if return_lse  # ln of the sum"},
      .rules = {kQueryHeadsRule, "HV == HK  # as many value heads as key heads",
                "H % HB == 0  # HB that divides H",
                "select(has(cu_seqlens), BM == M, BM == 1 || BM == B)  # lists for every batch row "
                "(packed: sequence), or one for all rows",
                "sink > 0 -> causal  # sink only with causal",
                "window > 0 -> causal  # window only with causal",
                "has(cu_seqlens) -> S == T  # as many keys as queries in packed calls"},
      .may_be_zero = "S BM MB NB NK",
      .per_row = "BM",
      .packed_by_sequence = false,
  };
  return schema;
}

// A copy on the host, where lists can be read; undefined if the input was not given.
Tensor OnHost(Composer& c, absl::string_view name) {
  return c.has(name) ? c.ToHost(c.In(name)) : Tensor();
}

// [0, n) / size: the block of every token.
Array BlockOf(Composer& c, int64_t n, int64_t size) {
  std::vector<int64_t> blocks(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) blocks[static_cast<size_t>(i)] = i / size;
  return c.FromHost(HostTensor<int64_t>({n}, blocks));
}

// bool [rows,H,T,S] from lists [rows,HB,MB,NB].
Array AllowedPairs(Composer& c, const Array& lists, int64_t heads, int64_t queries, int64_t keys) {
  const Array rows = Gather(lists, BlockOf(c, queries, c.integer("block_size_q")), 2);
  Array listed = Gather(rows, BlockOf(c, keys, c.integer("block_size_k")), 3).RepeatTo(1, heads);
  if (!c.flag("causal")) return listed;
  const Array key = c.Iota(keys).Unsqueeze(0);
  const Array distance = c.Iota(queries, static_cast<double>(keys - queries)).Unsqueeze(1) - key;
  const Array near = distance < c.Scalar(static_cast<double>(c.integer("window")));
  const Array sink = key < c.Scalar(static_cast<double>(c.integer("sink")));
  return (listed || near || sink) && !(distance < c.Scalar(0));
}

absl::Status Compose(Composer& c) {
  const absl::StatusOr<Tensor> host = ListedBlocks(
      c.call(), OnHost(c, "block_indices"), OnHost(c, "block_counts"), OnHost(c, "block_mask"));
  if (!host.ok()) return host.status();
  if (!c.status().ok()) return c.status();
  const Array lists = c.FromHost(*host);
  const Array q = c.In("q"), k = c.In("k"), v = c.In("v");
  const int64_t heads = c.dim("H");
  const auto attend = [&](const Array& q, const Array& k, const Array& v, const Array& lists) {
    return ComposeSoftmax(c, {.q = q,
                              .k = k,
                              .v = v,
                              .allowed = AllowedPairs(c, lists, heads, q.dim(1), k.dim(1)),
                              .scale = c.real("scale")});
  };
  if (!c.call().packed()) {
    const SoftmaxResult result = attend(q, k, v, lists);
    c.Out("o", result.o);
    c.Out("lse", result.lse);
    return c.status();
  }
  const Array o = c.Empty({1, c.dim("T"), heads, c.dim("V")});
  const Array lse = c.Empty({1, c.dim("T"), heads});
  for (const Sequence& sequence : c.call().sequences()) {
    const auto cut = [&](const Array& x) { return x.Slice(1, sequence.begin, sequence.length); };
    const SoftmaxResult result = attend(cut(q), cut(k), cut(v), lists.Slice(0, sequence.state, 1));
    cut(o).Assign(result.o);
    cut(lse).Assign(result.lse);
  }
  c.Out("o", o);
  c.Out("lse", lse);
  return c.status();
}

// Draws lists that fit the grid of every sequence.
void Draw(RandomSource& source) {
  if (source.options().random_attributes) {
    source.Attribute("block_size_q", source.Uniform(1, 40));
    source.Attribute("block_size_k", source.Uniform(1, 40));
    source.Attribute("causal", source.Uniform(0, 2) != 0);
    source.Attribute("sink", source.Uniform(0, 10));
    source.Attribute("window", source.Uniform(0, 20));
  }
  const auto size = [&source](absl::string_view name) {
    const AttrValue* value = source.request().attributes.Find(name);
    return value != nullptr ? std::get<int64_t>(*value) : 64;
  };
  const bool packed = source.options().packed;
  const int64_t tokens = source.Dim("T", source.Uniform(1, 90));
  const int64_t keys =
      source.Dim("S", packed || source.Uniform(0, 1) == 0 ? tokens : source.Uniform(1, 90));
  const int64_t rows = source.Dim("B", packed ? 1 : source.Uniform(1, 3));
  const int64_t key_heads = source.Dim("HK", source.Uniform(1, 3));
  source.Dim("HV", key_heads);
  const int64_t heads = source.Dim("H", key_heads * source.Uniform(1, 3));
  const int64_t list_heads = source.Dim("HB", source.Uniform(0, 1) == 0 ? 1 : heads);

  std::vector<int64_t> lengths(static_cast<size_t>(rows), tokens);
  if (packed) {
    std::vector<int32_t> offsets = {0, static_cast<int32_t>(tokens)};
    const int64_t cuts = source.Uniform(0, 3);
    for (int64_t i = 0; i < cuts; ++i) {
      offsets.push_back(static_cast<int32_t>(source.Uniform(0, tokens)));
    }
    std::sort(offsets.begin(), offsets.end());
    lengths.clear();
    for (size_t i = 1; i < offsets.size(); ++i) lengths.push_back(offsets[i] - offsets[i - 1]);
    source.request().inputs.Set(
        "cu_seqlens", HostTensor<int32_t>({static_cast<int64_t>(offsets.size())}, offsets));
  } else if (source.Dim("BM", source.Uniform(0, 1) == 0 ? 1 : rows) == 1) {
    lengths.resize(1);
  }
  const auto sequences = static_cast<int64_t>(lengths.size());
  const auto blocks = [](int64_t n, int64_t block) { return (n + block - 1) / block; };
  const int64_t longest = *std::max_element(lengths.begin(), lengths.end());
  const int64_t query_blocks = blocks(longest, size("block_size_q"));
  const int64_t all_blocks = blocks(packed ? longest : keys, size("block_size_k"));

  const Dims lists = {sequences, list_heads, query_blocks};
  // Nothing optional: every block is read, and nothing is hidden.
  const bool all = source.options().optional_inputs == 0;
  if (!source.Wants("block_indices")) {
    Tensor mask = AllocateHost(DType::kBool, {lists[0], lists[1], lists[2], all_blocks}).value();
    for (int64_t i = 0; i < mask.num_elements(); ++i) {
      mask.data<bool>()[i] = all || source.Uniform(0, 1) == 0;
    }
    source.request().inputs.Set("block_mask", mask);
    return;
  }
  const int64_t slots = source.Dim("NK", source.Uniform(0, all_blocks + 1));
  const bool counted = source.Wants("block_counts");
  Tensor indices = AllocateHost(DType::kInt64, {lists[0], lists[1], lists[2], slots}).value();
  Tensor counts = AllocateHost(DType::kInt64, lists).value();
  for (int64_t list = 0; list < counts.num_elements(); ++list) {
    const int64_t length =
        packed ? lengths[static_cast<size_t>(list / (list_heads * query_blocks))] : keys;
    std::vector<int64_t> order(static_cast<size_t>(blocks(length, size("block_size_k"))));
    std::iota(order.begin(), order.end(), 0);
    for (size_t i = order.size(); i > 1; --i) {
      std::swap(order[i - 1],
                order[static_cast<size_t>(source.Uniform(0, static_cast<int64_t>(i) - 1))]);
    }
    const int64_t count = source.Uniform(0, std::min(slots, static_cast<int64_t>(order.size())));
    counts.data<int64_t>()[list] = count;
    for (int64_t i = 0; i < slots; ++i) {
      indices.data<int64_t>()[list * slots + i] = i < count ? order[static_cast<size_t>(i)] : -1;
    }
  }
  source.request().inputs.Set("block_indices", indices);
  if (counted) source.request().inputs.Set("block_counts", counts);
}

}  // namespace

void RegisterBlockSparseAttention(Registry& registry);

void RegisterBlockSparseAttention(Registry& registry) {
  Operator& op = registry.Add(Schema(), Compose);
  op.check = CheckBlockLists;
  op.random = Draw;
  // With fewer keys than queries the first queries stand before every key.
  op.causal = [](const BoundCall& call) {
    return call.flag("causal") && call.dim("S") >= call.dim("T");
  };
}

}  // namespace attnd
