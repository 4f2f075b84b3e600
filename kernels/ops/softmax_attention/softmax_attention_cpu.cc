#include <algorithm>
#include <cstring>

#include "kernels/core/registry.h"
#include "kernels/cores/softmax.h"
#include "kernels/cores/softmax_composed.h"

namespace attnd {
namespace {

int64_t RowBytes(const Tensor& x) {
  return x.dim(2) * x.dim(3) * static_cast<int64_t>(SizeOf(x.dtype()));
}

// Copies `count` tokens of a tensor [B,T,H,K] into another; rows of tokens are the same in both.
void CopyTokens(const Tensor& from, int64_t from_row, int64_t from_token, const Tensor& to,
                int64_t to_row, int64_t to_token, int64_t count) {
  if (count <= 0) return;
  const int64_t bytes = RowBytes(from);
  std::memcpy(to.data<char>() + (to_row * to.dim(1) + to_token) * bytes,
              from.data<char>() + (from_row * from.dim(1) + from_token) * bytes,
              static_cast<size_t>(count * bytes));
}

// The concatenation [state, x] of every row.
void Append(const Tensor& state, const Tensor& x, const Tensor& out) {
  const int64_t places = state.defined() ? state.dim(1) : 0;
  for (int64_t b = 0; b < x.dim(0); ++b) {
    if (state.defined()) CopyTokens(state, b, 0, out, b, 0, places);
    CopyTokens(x, b, 0, out, b, places, x.dim(1));
  }
}

// The keys (or values) of a call with a ring: per sequence the ring's last C positions in order,
// then the new tokens. `out` is [B,C+T,..], or packed [1,M C+T,..].
void Unroll(const BoundCall& call, const Tensor& state, const Tensor& x,
            absl::Span<const Sequence> keys, const std::vector<int64_t>& seen, const Tensor& out) {
  const int64_t slots = call.dim("C");
  for (size_t i = 0; i < keys.size(); ++i) {
    const Sequence& sequence = call.sequences()[i];
    const int64_t begin = keys[i].begin;
    for (int64_t place = 0; place < slots; ++place) {
      const int64_t position = seen[i] - slots + place;
      if (position >= 0) {
        CopyTokens(state, sequence.state, position % slots, out, keys[i].row, begin + place, 1);
      } else {  // No token: the rule skips it, and zeros keep what is computed beside it finite.
        std::memset(out.data<char>() + (keys[i].row * out.dim(1) + begin + place) * RowBytes(out),
                    0, static_cast<size_t>(RowBytes(out)));
      }
    }
    CopyTokens(x, sequence.row, sequence.begin, out, keys[i].row, begin + slots, sequence.length);
  }
}

// The ring after the call.
void WriteRing(const BoundCall& call, const Tensor& state, const Tensor& x,
               const std::vector<int64_t>& seen, const Tensor& out) {
  const int64_t slots = call.dim("C");
  if (state.defined()) {
    std::memcpy(out.raw(), state.raw(), static_cast<size_t>(out.byte_size()));
  } else {
    std::memset(out.raw(), 0, static_cast<size_t>(out.byte_size()));
  }
  for (size_t i = 0; i < seen.size(); ++i) {
    const Sequence& sequence = call.sequences()[i];
    for (int64_t t = std::max<int64_t>(0, sequence.length - slots); t < sequence.length; ++t) {
      CopyTokens(x, sequence.row, sequence.begin + t, out, sequence.state, (seen[i] + t) % slots,
                 1);
    }
  }
}

absl::Status Run(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  cpu::SoftmaxCall core;
  core.q = call.input("q");
  core.k = call.input("k");
  core.v = call.input("v");
  core.o = *outputs.Find("o");
  core.sinks = call.input("sinks");
  core.scale = call.real("scale");
  core.softcap = UsableSoftcap(call.real("softcap"));
  if (const Tensor* lse = outputs.Find("lse")) core.lse = *lse;
  cpu::WindowRule::Options rule{call.flag("causal"),
                                call.integer("window_left"),
                                call.integer("window_right"),
                                call.input("mask"),
                                {}};

  // Every sequence reads all keys of its row, or in a packed call its own tokens.
  std::vector<Sequence> keys = call.sequences();
  const std::string& cache = call.choice("cache");
  if (cache == "dense") {
    core.k = *outputs.Find("final_state_k");
    core.v = *outputs.Find("final_state_v");
    Append(call.input("initial_state_k"), call.input("k"), core.k);
    Append(call.input("initial_state_v"), call.input("v"), core.v);
  } else if (cache == "ring") {
    const int64_t slots = call.dim("C");
    std::vector<int64_t> seen(keys.size(), 0);
    const Tensor& pos = call.input("initial_state_pos");
    for (size_t i = 0; i < keys.size(); ++i) {
      if (pos.defined()) seen[i] = pos.data<int64_t>()[i];
      rule.missing_keys.push_back(std::max<int64_t>(0, slots - seen[i]));
      if (call.packed()) keys[i].begin += static_cast<int64_t>(i) * slots;
      keys[i].length += slots;
      outputs.Find("final_state_pos")->data<int64_t>()[i] = seen[i] + call.sequences()[i].length;
    }
    for (Tensor* x : {&core.k, &core.v}) {
      const bool is_k = x == &core.k;
      const Tensor& state = call.input(is_k ? "initial_state_k" : "initial_state_v");
      const int64_t rows = call.packed() ? static_cast<int64_t>(keys.size()) : 1;
      absl::StatusOr<Tensor> row =
          backend.Allocate(x->dtype(), {x->dim(0), x->dim(1) + rows * slots, x->dim(2), x->dim(3)});
      if (!row.ok()) return row.status();
      Unroll(call, state, *x, keys, seen, *row);
      WriteRing(call, state, *x, seen, *outputs.Find(is_k ? "final_state_k" : "final_state_v"));
      *x = *std::move(row);
    }
  }
  if (!call.packed()) {
    for (Sequence& sequence : keys) sequence.length = core.k.dim(1);
  }
  const cpu::WindowRule window(std::move(rule));
  core.queries = call.sequences();
  core.keys = keys;
  core.rule = &window;
  return cpu::Softmax(backend, core);
}

}  // namespace

void RegisterSoftmaxAttentionCpu(Registry& registry);

void RegisterSoftmaxAttentionCpu(Registry& registry) {
  registry.AddKernel("softmax_attention",
                     {"stream_cpu", Device::kCpu, [](const BoundCall&) { return true; }, Run});
}

}  // namespace attnd
