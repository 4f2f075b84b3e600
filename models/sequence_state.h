// What a model keeps of one sequence: per layer some floats of fixed size, and pages that grow with
// the sequence.
#ifndef ATTND_MODELS_SEQUENCE_STATE_H_
#define ATTND_MODELS_SEQUENCE_STATE_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/core/tensor.h"
#include "kernels/decode/step_engine.h"
#include "kernels/primitives/primitives.h"

namespace attnd::models {

// Positions of a page.
inline constexpr int64_t kPagePositions = 64;

// Sizes of one layer's state, in floats.
struct LayerLayout {
  int64_t fixed = 0;
  int64_t page = 0;    // For kPagePositions; 0: the layer has no pages.
  int64_t window = 0;  // Positions that a token sees, itself included; 0: all.
};

using decode::LayerState;

// The state after `position` tokens. Full pages are never written again, so that copies share them.
// Its memory is the host's, or a device's. Not safe from two threads.
class SequenceState {
 public:
  // In the memory of `device`; null: the host's. RESOURCE_EXHAUSTED if there is none left.
  static absl::StatusOr<SequenceState> Create(absl::Span<const LayerLayout> layouts,
                                              std::shared_ptr<Backend> device = nullptr);

  SequenceState(SequenceState&&) = default;
  SequenceState& operator=(SequenceState&&) = default;

  // An independent state of equal content; costs the fixed parts and one page a layer.
  absl::StatusOr<SequenceState> Copy() const;
  // A copy in the host's memory, to be read and not to be run.
  absl::StatusOr<SequenceState> ToHost() const;

  Device device() const { return device_ == nullptr ? Device::kCpu : device_->device(); }

  int64_t position() const { return position_; }
  LayerState& layer(int64_t index) { return layers_[static_cast<size_t>(index)]; }
  const LayerState& layer(int64_t index) const { return layers_[static_cast<size_t>(index)]; }
  absl::Span<const LayerState> all_layers() const { return layers_; }
  int64_t layers() const { return static_cast<int64_t>(layers_.size()); }

  // Makes room for `count` tokens more. On an error nothing has changed but memory.
  absl::Status Reserve(int64_t count);
  // `count` tokens were written: forgets pages that no later token sees.
  void Advance(int64_t count);

  // Of this state alone, shared pages counted in full.
  int64_t byte_size() const;

  // The state as bytes: a header, then views on this state's memory, or a device's on a copy of it,
  // valid until it changes.
  struct Image {
    std::string header;
    std::vector<absl::string_view> parts;  // The header first.
    std::shared_ptr<const SequenceState> copy;
  };
  absl::Status Save(Image& image) const;
  // The way back. DATA_LOSS if the bytes are no image of a state of these layouts;
  // FAILED_PRECONDITION if a device of another kind computed it.
  static absl::StatusOr<SequenceState> Load(absl::Span<const LayerLayout> layouts,
                                            absl::string_view bytes,
                                            std::shared_ptr<Backend> device = nullptr);
  // A state from the parts of one, in the host's memory. FAILED_PRECONDITION if they are none of
  // these layouts after `position` tokens.
  static absl::StatusOr<SequenceState> FromLayers(absl::Span<const LayerLayout> layouts,
                                                  uint64_t position, std::vector<LayerState> layers,
                                                  std::shared_ptr<Backend> device = nullptr);

 private:
  SequenceState() = default;
  // Errors as Create's.
  absl::StatusOr<Tensor> Zeros(int64_t size) const;
  absl::StatusOr<Tensor> CopyOf(const Tensor& tensor) const;
  absl::Status Fill(const Tensor& tensor, absl::string_view bytes) const;
  uint64_t magic() const;

  std::shared_ptr<Backend> device_;
  int64_t position_ = 0;
  std::vector<LayerLayout> layouts_;
  std::vector<LayerState> layers_;
};

}  // namespace attnd::models

#endif  // ATTND_MODELS_SEQUENCE_STATE_H_
