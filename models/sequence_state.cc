#include "models/sequence_state.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/cores/replay_attention.h"

namespace attnd::models {
namespace {

using cpu::kPage;

absl::StatusOr<Tensor> Zeros(int64_t size) {
  absl::StatusOr<Tensor> memory = AllocateHost(DType::kFloat32, {size});
  if (memory.ok()) std::memset(memory->raw(), 0, static_cast<size_t>(memory->byte_size()));
  return memory;
}

absl::StatusOr<Tensor> CopyOf(const Tensor& tensor) {
  absl::StatusOr<Tensor> memory = AllocateHost(DType::kFloat32, tensor.shape());
  if (memory.ok()) {
    std::memcpy(memory->raw(), tensor.raw(), static_cast<size_t>(tensor.byte_size()));
  }
  return memory;
}

}  // namespace

absl::StatusOr<SequenceState> SequenceState::Create(absl::Span<const LayerLayout> layouts) {
  SequenceState state;
  state.layouts_.assign(layouts.begin(), layouts.end());
  for (const LayerLayout& layout : layouts) {
    absl::StatusOr<Tensor> fixed = Zeros(layout.fixed);
    if (!fixed.ok()) return fixed.status();
    state.layers_.push_back({*std::move(fixed), {}});
  }
  return state;
}

absl::StatusOr<SequenceState> SequenceState::Copy() const {
  SequenceState copy;
  copy.position_ = position_;
  copy.layouts_ = layouts_;
  // Pages from here on may still be written by the original.
  const auto full = static_cast<size_t>(position_ / kPage);
  for (const LayerState& layer : layers_) {
    absl::StatusOr<Tensor> fixed = CopyOf(layer.fixed);
    if (!fixed.ok()) return fixed.status();
    LayerState other{*std::move(fixed), layer.pages};
    if (other.pages.size() > full) {
      other.pages.resize(full + (position_ % kPage != 0 ? 1 : 0));
      if (other.pages.size() > full) {
        absl::StatusOr<Tensor> page = CopyOf(other.pages[full]);
        if (!page.ok()) return page.status();
        other.pages[full] = *std::move(page);
      }
    }
    copy.layers_.push_back(std::move(other));
  }
  return copy;
}

absl::Status SequenceState::Reserve(int64_t count) {
  const auto pages = static_cast<size_t>((position_ + count + kPage - 1) / kPage);
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (layouts_[i].page == 0) continue;
    while (layers_[i].pages.size() < pages) {
      absl::StatusOr<Tensor> page = Zeros(layouts_[i].page);
      if (!page.ok()) return page.status();
      layers_[i].pages.push_back(*std::move(page));
    }
  }
  return absl::OkStatus();
}

void SequenceState::Advance(int64_t count) {
  position_ += count;
  for (size_t i = 0; i < layers_.size(); ++i) {
    if (layouts_[i].window == 0) continue;
    const int64_t oldest = position_ + 1 - layouts_[i].window;
    for (int64_t page = oldest / kPage; page-- > 0;) {
      Tensor& gone = layers_[i].pages[static_cast<size_t>(page)];
      if (!gone.defined()) break;  // And so were all before it.
      gone = Tensor();
    }
  }
}

int64_t SequenceState::byte_size() const {
  int64_t bytes = 0;
  for (const LayerState& layer : layers_) {
    bytes += layer.fixed.byte_size();
    for (const Tensor& page : layer.pages) bytes += page.defined() ? page.byte_size() : 0;
  }
  return bytes;
}

}  // namespace attnd::models
