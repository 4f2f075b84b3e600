#include <algorithm>

#include "kernels/cores/feature_maps.cuh"
#include "kernels/cores/short_conv_cuda.h"
#include "kernels/cuda/elements.cuh"
#include "kernels/cuda/launch.h"

namespace attnd::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kTokens = 32;  // That a thread computes one after the other, for one channel.

struct Arguments {
  Elements x, weight, bias, residual, o;
  const float* initial_state;
  float* final_state;
  const Sequence* sequences;
  int64_t tokens_per_row;  // T
  int64_t channels;        // D
  int64_t taps;            // W
  int64_t token_tiles;     // Of the longest sequence.
  int64_t channel_tiles;
  bool silu;
};

// x of one channel of a sequence at token t; negative t is read from the state.
struct Inputs {
  const Arguments& a;
  int64_t first;       // Element of token 0.
  const float* state;  // Of this channel; null: zeros.

  __device__ float At(int64_t t) const {
    if (t >= 0) return a.x.Load(first + t * a.channels);
    return state != nullptr ? state[a.taps - 1 + t] : 0.0f;
  }
};

__device__ Inputs InputsOf(const Arguments& a, const Sequence& sequence, int64_t channel) {
  const int64_t history = a.taps - 1;
  return {a, (sequence.row * a.tokens_per_row + sequence.begin) * a.channels + channel,
          a.initial_state != nullptr
              ? a.initial_state + (sequence.state * a.channels + channel) * history
              : nullptr};
}

// kTaps taps in registers, with the last inputs; 0: any number, read again from the caches.
template <int kTaps>
__global__ void __launch_bounds__(kThreads) ShortConvKernel(const __grid_constant__ Arguments a) {
  int64_t block = blockIdx.x;
  const int64_t channel = block % a.channel_tiles * kThreads + threadIdx.x;
  block /= a.channel_tiles;
  const int64_t begin = block % a.token_tiles * kTokens;
  const Sequence sequence = a.sequences[block / a.token_tiles];
  const int64_t end = min(begin + kTokens, sequence.length);
  if (channel >= a.channels || begin >= end) return;
  const Inputs inputs = InputsOf(a, sequence, channel);
  const float bias = a.bias.defined() ? a.bias.Load(channel) : 0.0f;

  constexpr int kHeld = kTaps > 0 ? kTaps : 1;
  float weight[kHeld];
  float window[kHeld];  // window[j] meets tap j.
  if constexpr (kTaps > 0) {
#pragma unroll
    for (int j = 0; j < kTaps; ++j) weight[j] = a.weight.Load(channel * kTaps + j);
#pragma unroll
    for (int j = 1; j < kTaps; ++j) window[j] = inputs.At(begin - kTaps + j);
  }
  for (int64_t t = begin; t < end; ++t) {
    float y = bias;
    if constexpr (kTaps > 0) {
#pragma unroll
      for (int j = 0; j + 1 < kTaps; ++j) window[j] = window[j + 1];
      window[kTaps - 1] = inputs.At(t);
#pragma unroll
      for (int j = 0; j < kTaps; ++j) y = fmaf(weight[j], window[j], y);
    } else {
      for (int64_t j = 0; j < a.taps; ++j) {
        y = fmaf(a.weight.Load(channel * a.taps + j), inputs.At(t - (a.taps - 1) + j), y);
      }
    }
    if (a.silu) y *= Sigmoid(y);
    const int64_t at = inputs.first + t * a.channels;
    if (a.residual.defined()) y += a.residual.Load(at);
    a.o.Store(at, y);
  }
}

// final_state[i, d, j] = x at token length - (W-1) + j.
__global__ void __launch_bounds__(kThreads)
    FinalStateKernel(const __grid_constant__ Arguments a, int64_t sequences) {
  const int64_t history = a.taps - 1;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= sequences * a.channels * history) return;
  const Sequence sequence = a.sequences[i / history / a.channels];
  const int64_t channel = i / history % a.channels;
  a.final_state[(sequence.state * a.channels + channel) * history + i % history] =
      InputsOf(a, sequence, channel).At(sequence.length - history + i % history);
}

void LaunchTaps(const Arguments& a, unsigned blocks, cudaStream_t stream) {
  switch (a.taps) {
    case 2:
      ShortConvKernel<2><<<blocks, kThreads, 0, stream>>>(a);
      break;
    case 3:
      ShortConvKernel<3><<<blocks, kThreads, 0, stream>>>(a);
      break;
    case 4:
      ShortConvKernel<4><<<blocks, kThreads, 0, stream>>>(a);
      break;
    default:
      ShortConvKernel<0><<<blocks, kThreads, 0, stream>>>(a);
  }
}

}  // namespace

absl::Status ShortConv(Backend& backend, const ShortConvCall& call) {
  const auto sequences = static_cast<int64_t>(call.sequences.size());
  int64_t longest = 0;
  for (const Sequence& sequence : call.sequences) longest = std::max(longest, sequence.length);
  const absl::StatusOr<Tensor> table =
      UploadTable<Sequence>(backend, DType::kInt64, call.sequences);
  if (!table.ok()) return table.status();

  Arguments a;
  a.x = Elements(call.x);
  a.weight = Elements(call.weight);
  a.bias = Elements(call.bias);
  a.residual = Elements(call.residual);
  a.o = Elements(call.o);
  a.initial_state = call.initial_state.defined() ? call.initial_state.data<float>() : nullptr;
  a.final_state = call.final_state.data<float>();
  a.sequences = static_cast<const Sequence*>(table->raw());
  a.tokens_per_row = call.x.dim(1);
  a.channels = call.x.dim(2);
  a.taps = call.weight.dim(1);
  a.token_tiles = CeilDiv(longest, int64_t{kTokens});
  a.channel_tiles = CeilDiv(a.channels, int64_t{kThreads});
  a.silu = call.silu;

  const absl::StatusOr<unsigned> blocks = GridSize(sequences * a.token_tiles * a.channel_tiles);
  if (!blocks.ok()) return blocks.status();
  if (*blocks > 0) {
    LaunchTaps(a, *blocks, StreamOf(backend));
    if (absl::Status s = LaunchStatus("short_conv"); !s.ok()) return s;
  }
  const absl::StatusOr<unsigned> state_blocks =
      GridSize(CeilDiv(call.final_state.num_elements(), int64_t{kThreads}));
  if (!state_blocks.ok()) return state_blocks.status();
  if (*state_blocks == 0) return absl::OkStatus();
  FinalStateKernel<<<*state_blocks, kThreads, 0, StreamOf(backend)>>>(a, sequences);
  return LaunchStatus("short_conv: state");
}

}  // namespace attnd::cuda
