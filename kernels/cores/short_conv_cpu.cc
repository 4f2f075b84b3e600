#include <algorithm>
#include <vector>

#include "kernels/cores/short_conv.h"
#include "kernels/primitives/cpu/gemm.h"
#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"

namespace attnd::cpu {
namespace {

// A tile's inputs fit in the second-level cache.
constexpr int64_t kTokens = 64;
constexpr int64_t kChannels = 512;

const char* At(const Tensor& x, int64_t index) {
  return x.data<char>() + index * static_cast<int64_t>(SizeOf(x.dtype()));
}

// Some channels of one sequence.
class Strip {
 public:
  Strip(const ShortConvCall& call, const Sequence& sequence, int64_t channel, int64_t channels)
      : call_(call),
        sequence_(sequence),
        channel_(channel),
        channels_(channels),
        all_channels_(call.x.dim(2)),
        taps_(call.weight.dim(1)) {}

  // x_t as float32, t counted from the sequence's start; negative t is read from the state.
  void Input(int64_t t, float* out) const {
    if (t >= 0) {
      return LoadRow(At(call_.x, Index(t)), call_.x.dtype(), out, channels_);
    }
    const Tensor& state = call_.initial_state;
    const int64_t history = taps_ - 1;
    for (int64_t d = 0; d < channels_; ++d) {
      out[d] = state.defined() ? state.data<float>()[StateIndex(d) + history + t] : 0.0f;
    }
  }

  void Convolve(int64_t begin, int64_t count) const {
    Scratch scratch;
    float* inputs = scratch.Take<float>((count + taps_ - 1) * channels_);
    float* weights = scratch.Take<float>(taps_ * channels_);
    float* by_channel = scratch.Take<float>(taps_ * channels_);
    float* bias = scratch.Take<float>(channels_);
    float* y = scratch.Take<float>(channels_);
    float* residual = scratch.Take<float>(channels_);
    LoadRow(At(call_.weight, channel_ * taps_), call_.weight.dtype(), by_channel,
            taps_ * channels_);
    Transpose(channels_, taps_, by_channel, taps_, weights, channels_);
    std::fill(bias, bias + channels_, 0.0f);
    if (call_.bias.defined()) {
      LoadRow(At(call_.bias, channel_), call_.bias.dtype(), bias, channels_);
    }
    for (int64_t i = 0; i < count + taps_ - 1; ++i) {
      Input(begin - (taps_ - 1) + i, inputs + i * channels_);
    }
    for (int64_t t = 0; t < count; ++t) {
      std::copy(bias, bias + channels_, y);
      for (int64_t j = 0; j < taps_; ++j) {
        MulAddRow(weights + j * channels_, inputs + (t + j) * channels_, y, channels_);
      }
      if (call_.silu) SiluRow(y, channels_);
      const int64_t at = Index(begin + t);
      if (call_.residual.defined()) {
        LoadRow(At(call_.residual, at), call_.residual.dtype(), residual, channels_);
        AddRow(y, residual, y, channels_);
      }
      StoreRow(y, call_.o.dtype(), const_cast<char*>(At(call_.o, at)), channels_);
    }
  }

  void WriteState() const {
    Scratch scratch;
    float* row = scratch.Take<float>(channels_);
    for (int64_t i = 0; i < taps_ - 1; ++i) {
      Input(sequence_.length - (taps_ - 1) + i, row);
      for (int64_t d = 0; d < channels_; ++d) {
        call_.final_state.data<float>()[StateIndex(d) + i] = row[d];
      }
    }
  }

 private:
  int64_t Index(int64_t t) const {
    return (sequence_.row * call_.x.dim(1) + sequence_.begin + t) * all_channels_ + channel_;
  }
  int64_t StateIndex(int64_t d) const {
    return (sequence_.state * all_channels_ + channel_ + d) * (taps_ - 1);
  }

  const ShortConvCall& call_;
  const Sequence& sequence_;
  const int64_t channel_;
  const int64_t channels_;
  const int64_t all_channels_;
  const int64_t taps_;
};

}  // namespace

void ShortConv(const ShortConvCall& call) {
  const int64_t channels = call.x.dim(2);
  const int64_t strips = (channels + kChannels - 1) / kChannels;
  // A task is a tile of tokens of one strip, or (count 0) the strip's state.
  struct Task {
    size_t sequence;
    int64_t strip;
    int64_t begin;
    int64_t count;
  };
  std::vector<Task> tasks;
  int64_t tokens = 0;
  for (size_t i = 0; i < call.sequences.size(); ++i) {
    const int64_t length = call.sequences[i].length;
    tokens += length;
    for (int64_t strip = 0; strip < strips; ++strip) {
      for (int64_t begin = 0; begin < length; begin += kTokens) {
        tasks.push_back(Task{i, strip, begin, std::min(kTokens, length - begin)});
      }
      tasks.push_back(Task{i, strip, 0, 0});
    }
  }
  const double work =
      4.0 * static_cast<double>(tokens) * static_cast<double>(channels * (call.weight.dim(1) + 4));
  ParallelFor(static_cast<int64_t>(tasks.size()), work, [&](int64_t index) {
    const Task& task = tasks[static_cast<size_t>(index)];
    const int64_t channel = task.strip * kChannels;
    const Strip strip(call, call.sequences[task.sequence], channel,
                      std::min(kChannels, channels - channel));
    if (task.count > 0) {
      strip.Convolve(task.begin, task.count);
    } else {
      strip.WriteState();
    }
  });
}

}  // namespace attnd::cpu
