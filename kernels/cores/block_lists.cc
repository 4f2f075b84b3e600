#include "kernels/cores/block_lists.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace attnd {
namespace {

// Any block size is legal, so a + b might overflow.
int64_t CeilDiv(int64_t a, int64_t b) { return a / b + (a % b != 0 ? 1 : 0); }

int64_t LongestSequence(const BoundCall& call) {
  int64_t longest = 0;
  for (const Sequence& sequence : call.sequences()) longest = std::max(longest, sequence.length);
  return longest;
}

absl::Status Error(const BoundCall& call, absl::string_view subject, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(call.spec().id(), ": ", subject, ": ", what));
}

// Keys that a sequence's queries may read.
int64_t KeysOf(const BoundCall& call, const Sequence& sequence) {
  return call.packed() ? sequence.length : call.dim("S");
}

absl::Status CheckGrid(const BoundCall& call) {
  const int64_t queries = call.packed() ? LongestSequence(call) : call.dim("T");
  const int64_t query_blocks = CeilDiv(queries, call.integer("block_size_q"));
  const char* lists = call.has("block_mask") ? "block_mask" : "block_indices";
  if (call.dim("MB") != query_blocks) {
    return Error(call, lists,
                 absl::StrCat("given MB=", call.dim("MB"), ", expected ", query_blocks,
                              ": the blocks of ", queries, " queries"));
  }
  if (call.has("block_mask") && call.dim("NB") != KeyBlocks(call)) {
    return Error(call, lists,
                 absl::StrCat("given NB=", call.dim("NB"), ", expected ", KeyBlocks(call),
                              ": the blocks of the keys"));
  }
  return absl::OkStatus();
}

}  // namespace

int64_t KeyBlocks(const BoundCall& call) {
  return CeilDiv(call.packed() ? LongestSequence(call) : call.dim("S"),
                 call.integer("block_size_k"));
}

absl::StatusOr<Tensor> ListedBlocks(const BoundCall& call, const Tensor& indices,
                                    const Tensor& counts, const Tensor& mask) {
  if (mask.defined()) return mask;
  const int64_t blocks = KeyBlocks(call);
  const int64_t slots = indices.dim(3);
  const int64_t lists = indices.dim(0) * indices.dim(1) * indices.dim(2);
  absl::StatusOr<Tensor> listed =
      AllocateHost(DType::kBool, {indices.dim(0), indices.dim(1), indices.dim(2), blocks});
  if (!listed.ok()) return listed;
  std::fill_n(listed->data<bool>(), listed->num_elements(), false);
  for (int64_t list = 0; list < lists; ++list) {
    const int64_t count = counts.defined() ? counts.data<int64_t>()[list] : slots;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t block = indices.data<int64_t>()[list * slots + i];
      if (block >= 0) listed->data<bool>()[list * blocks + block] = true;
    }
  }
  return listed;
}

absl::Status CheckBlockLists(const BoundCall& call) {
  if (absl::Status s = CheckGrid(call); !s.ok() || call.has("block_mask")) return s;
  const Tensor& indices = call.input("block_indices");
  const Tensor& counts = call.input("block_counts");
  const int64_t list_heads = call.dim("HB"), query_blocks = call.dim("MB"), slots = call.dim("NK");
  std::vector<int64_t> last_list(static_cast<size_t>(KeyBlocks(call)), -1);
  for (const Sequence& sequence : call.sequences()) {
    if (sequence.state >= call.dim("BM")) break;  // All rows share the lists of the first.
    const int64_t blocks = CeilDiv(KeysOf(call, sequence), call.integer("block_size_k"));
    for (int64_t head = 0; head < list_heads; ++head) {
      for (int64_t u = 0; u < query_blocks; ++u) {
        const int64_t list = (sequence.state * list_heads + head) * query_blocks + u;
        const auto place = [&](int64_t i) {
          return absl::StrCat(" at [", sequence.state, ",", head, ",", u, ",", i, "]");
        };
        int64_t count = slots;
        if (counts.defined()) {
          count = counts.data<int64_t>()[list];
          if (count < 0 || count > slots) {
            return Error(call, "block_counts",
                         absl::StrCat("given ", count, " at [", sequence.state, ",", head, ",", u,
                                      "], expected 0 to NK=", slots));
          }
        }
        for (int64_t i = 0; i < count; ++i) {
          const int64_t block = indices.data<int64_t>()[list * slots + i];
          if (block < 0 && !counts.defined()) continue;
          if (block < 0 || block >= blocks) {
            return Error(call, "block_indices",
                         absl::StrCat("given ", block, place(i), ", expected ",
                                      blocks > 0 ? absl::StrCat("a key block, 0 to ", blocks - 1)
                                                 : "no block: the sequence has no keys"));
          }
          if (std::exchange(last_list[static_cast<size_t>(block)], list) == list) {
            return Error(call, "block_indices",
                         absl::StrCat("given block ", block, " again", place(i),
                                      ", expected each block once in a list"));
          }
        }
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace attnd
