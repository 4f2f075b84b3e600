#include <algorithm>
#include <vector>

#include "kernels/core/registry.h"
#include "kernels/cores/softmax_cuda.h"
#include "kernels/cuda/launch.h"

namespace attnd {
namespace {

constexpr int kThreads = 128;

// One sequence of a call with a ring cache.
struct RingSequence {
  int64_t first_token;  // In k and v, counted over all rows of the batch.
  int64_t tokens;
  int64_t first_key;  // In the unrolled keys.
};

// Rings of k or of v. Elements are copied as 16-bit words, `words` of them a token.
struct RingCopy {
  const uint16_t* state;  // [M,slots,words]; null: zeros.
  const uint16_t* x;      // The call's tokens.
  uint16_t* unrolled;     // Of each sequence: the last `slots` positions in order, then its tokens.
  uint16_t* final_state;  // [M,slots,words]
  const int64_t* seen;    // [M] tokens before the call; null: 0.
  const RingSequence* sequences;
  int64_t slots;
  int64_t places;  // Of the longest sequence: slots + tokens.
  int64_t words;
};

// A block copies one token of the unrolled keys, or one slot of the ring that is handed back.
__global__ void CopyRingKernel(RingCopy a) {
  const int64_t units = a.places + a.slots;
  const int64_t index = blockIdx.x / units;
  const int64_t unit = blockIdx.x % units;
  const RingSequence sequence = a.sequences[index];
  const int64_t seen = a.seen != nullptr ? a.seen[index] : 0;
  const uint16_t* const ring = a.state != nullptr ? a.state + index * a.slots * a.words : nullptr;
  const uint16_t* const tokens = a.x + sequence.first_token * a.words;
  const uint16_t* source = nullptr;
  uint16_t* target;
  if (unit < a.places) {
    if (unit >= a.slots + sequence.tokens) return;
    target = a.unrolled + (sequence.first_key + unit) * a.words;
    const int64_t position = seen - a.slots + unit;
    if (unit >= a.slots) {
      source = tokens + (unit - a.slots) * a.words;
    } else if (position >= 0 && ring != nullptr) {
      source = ring + position % a.slots * a.words;
    }
  } else {
    const int64_t slot = unit - a.places;
    target = a.final_state + (index * a.slots + slot) * a.words;
    // The newest token of the call that belongs in the slot; before the first one there is none.
    const int64_t last = seen + sequence.tokens - 1;
    const int64_t token = sequence.tokens - 1 - ((last - slot) % a.slots + a.slots) % a.slots;
    if (token >= 0) {
      source = tokens + token * a.words;
    } else if (ring != nullptr) {
      source = ring + slot * a.words;
    }
  }
  for (int64_t i = threadIdx.x; i < a.words; i += kThreads)
    target[i] = source != nullptr ? source[i] : 0;
}

// Places of the unrolled keys before position 0, and the tokens seen after the call.
__global__ void CountRingKernel(const int64_t* seen, const RingSequence* sequences, int64_t count,
                                int64_t slots, int64_t* missing, int64_t* final_seen) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  const int64_t before = seen != nullptr ? seen[i] : 0;
  missing[i] = max(int64_t{0}, slots - before);
  final_seen[i] = before + sequences[i].tokens;
}

// Turns the call's new keys and values into all that its queries read, cache first; hands the cache
// on.
class Cache {
 public:
  Cache(Backend& backend, const BoundCall& call, const NamedTensors& outputs)
      : backend_(backend), call_(call), outputs_(outputs) {}

  // [state, x], which is the final state too.
  Tensor Append(absl::string_view state_name, const Tensor& x, absl::string_view final_name) {
    const Tensor& all = *outputs_.Find(final_name);
    const int64_t places = call_.has(state_name) ? call_.input(state_name).dim(1) : 0;
    if (places > 0) backend_.Copy(call_.input(state_name), all.Slice(1, 0, places));
    backend_.Copy(x, all.Slice(1, places, x.dim(1)));
    return all;
  }

  // Shifts `keys` to the unrolled rows and fills in what of them does not exist.
  absl::Status PlanRing(std::vector<Sequence>& keys, cuda::WindowMask& mask) {
    slots_ = call_.dim("C");
    std::vector<RingSequence> sequences(keys.size());
    for (size_t i = 0; i < keys.size(); ++i) {
      const Sequence& own = call_.sequences()[i];
      if (call_.packed()) keys[i].begin += static_cast<int64_t>(i) * slots_;
      keys[i].length += slots_;
      longest_ = std::max(longest_, keys[i].length);
      sequences[i] = {own.row * call_.dim("T") + own.begin, own.length,
                      keys[i].row * (slots_ + call_.dim("T")) + keys[i].begin};
    }
    const auto count = static_cast<int64_t>(keys.size());
    if (count == 0) return absl::OkStatus();
    absl::StatusOr<Tensor> table =
        cuda::UploadTable<RingSequence>(backend_, DType::kInt64, sequences);
    if (!table.ok()) return table.status();
    sequences_ = *std::move(table);
    absl::StatusOr<Tensor> missing = backend_.Allocate(DType::kInt64, {count});
    if (!missing.ok()) return missing.status();
    missing_ = *std::move(missing);
    mask.missing_keys = missing_.data<int64_t>();
    const absl::StatusOr<unsigned> blocks = cuda::GridSize(cuda::CeilDiv(count, int64_t{kThreads}));
    if (!blocks.ok()) return blocks.status();
    CountRingKernel<<<*blocks, kThreads, 0, cuda::StreamOf(backend_)>>>(
        Seen(), static_cast<const RingSequence*>(sequences_.raw()), count, slots_,
        missing_.data<int64_t>(), outputs_.Find("final_state_pos")->data<int64_t>());
    return cuda::LaunchStatus("softmax_attention: ring positions");
  }

  absl::StatusOr<Tensor> Unroll(absl::string_view state_name, const Tensor& x,
                                absl::string_view final_name) {
    const auto count = static_cast<int64_t>(call_.sequences().size());
    const int64_t rings = call_.packed() ? count : 1;
    absl::StatusOr<Tensor> all =
        backend_.Allocate(x.dtype(), {x.dim(0), x.dim(1) + rings * slots_, x.dim(2), x.dim(3)});
    if (!all.ok() || count == 0) return all;
    RingCopy copy;
    copy.state = call_.has(state_name) ? call_.input(state_name).data<uint16_t>() : nullptr;
    copy.x = x.data<uint16_t>();
    copy.unrolled = all->data<uint16_t>();
    copy.final_state = outputs_.Find(final_name)->data<uint16_t>();
    copy.seen = Seen();
    copy.sequences = static_cast<const RingSequence*>(sequences_.raw());
    copy.slots = slots_;
    copy.places = longest_;
    copy.words = x.dim(2) * x.dim(3) * static_cast<int64_t>(SizeOf(x.dtype()) / sizeof(uint16_t));
    const absl::StatusOr<unsigned> blocks = cuda::GridSize(count * (longest_ + slots_));
    if (!blocks.ok()) return blocks.status();
    CopyRingKernel<<<*blocks, kThreads, 0, cuda::StreamOf(backend_)>>>(copy);
    if (absl::Status s = cuda::LaunchStatus("softmax_attention: ring"); !s.ok()) return s;
    return all;
  }

 private:
  const int64_t* Seen() const {
    const Tensor& seen = call_.input("initial_state_pos");
    return seen.defined() ? seen.data<int64_t>() : nullptr;
  }

  Backend& backend_;
  const BoundCall& call_;
  const NamedTensors& outputs_;
  int64_t slots_ = 0;
  int64_t longest_ = 0;
  Tensor sequences_;
  Tensor missing_;
};

absl::Status Run(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  cuda::SoftmaxCall core;
  core.q = call.input("q");
  core.k = call.input("k");
  core.v = call.input("v");
  core.o = *outputs.Find("o");
  if (const Tensor* lse = outputs.Find("lse")) core.lse = *lse;
  core.sinks = call.input("sinks");
  core.scale = call.real("scale");
  core.softcap = call.real("softcap");
  cuda::WindowMask& window = core.mask.window;
  window.causal = call.flag("causal");
  window.left = cuda::ClampToken(call.integer("window_left"));
  window.right = cuda::ClampToken(call.integer("window_right"));
  if (const Tensor& mask = call.input("mask"); mask.defined()) {
    window.pairs = mask.data<bool>();
    if (mask.rank() == 3) window.pairs_batch_stride = mask.dim(1) * mask.dim(2);
  }

  // Every sequence reads all keys of its row, or in a packed call its own tokens.
  std::vector<Sequence> keys = call.sequences();
  Cache cache(backend, call, outputs);
  if (call.choice("cache") == "dense") {
    core.k = cache.Append("initial_state_k", core.k, "final_state_k");
    core.v = cache.Append("initial_state_v", core.v, "final_state_v");
  } else if (call.choice("cache") == "ring") {
    if (absl::Status s = cache.PlanRing(keys, window); !s.ok()) return s;
    absl::StatusOr<Tensor> k = cache.Unroll("initial_state_k", core.k, "final_state_k");
    if (!k.ok()) return k.status();
    absl::StatusOr<Tensor> v = cache.Unroll("initial_state_v", core.v, "final_state_v");
    if (!v.ok()) return v.status();
    core.k = *std::move(k);
    core.v = *std::move(v);
  }
  if (!call.packed()) {
    for (Sequence& sequence : keys) sequence.length = core.k.dim(1);
  }
  core.queries = call.sequences();
  core.keys = keys;
  return cuda::Softmax(backend, core);
}

}  // namespace

void RegisterSoftmaxAttentionCuda(Registry& registry);

void RegisterSoftmaxAttentionCuda(Registry& registry) {
  registry.AddKernel("softmax_attention", {"flash_cuda", Device::kCuda,
                                           [](const BoundCall& call) {
                                             return cuda::SoftmaxSupports(
                                                 call.dtype(), call.dim("K"), call.dim("V"));
                                           },
                                           Run});
}

}  // namespace attnd
