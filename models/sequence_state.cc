#include "models/sequence_state.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cores/replay_attention.h"

namespace attnd::models {
namespace {

using cpu::kPage;
static_assert(kPage == kPagePositions);

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

// What an image begins with: this, the position, the number of layers, then for each its floats of
// fixed size, its floats of a page, and which pages are there: the first one, and one after the
// last.
constexpr uint64_t kMagic = 0x31657461'74736e74;  // "tnstate1", read backwards.

void Put(uint64_t value, std::string& out) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

class ImageReader {
 public:
  explicit ImageReader(absl::string_view bytes) : bytes_(bytes) {}
  uint64_t Number() {
    uint64_t value = 0;
    if (const absl::string_view part = Bytes(sizeof(value)); !part.empty()) {
      std::memcpy(&value, part.data(), sizeof(value));
    }
    return value;
  }
  // Empty after an error.
  absl::string_view Bytes(uint64_t size) {
    if (size > bytes_.size()) {
      good_ = false;
      return {};
    }
    const absl::string_view part = bytes_.substr(0, size);
    bytes_.remove_prefix(size);
    return part;
  }
  bool good() const { return good_; }
  bool done() const { return bytes_.empty(); }

 private:
  absl::string_view bytes_;
  bool good_ = true;
};

absl::string_view BytesOf(const Tensor& tensor) {
  return {tensor.data<char>(), static_cast<size_t>(tensor.byte_size())};
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

void SequenceState::Save(Image& image) const {
  image.header.clear();
  Put(kMagic, image.header);
  Put(static_cast<uint64_t>(position_), image.header);
  Put(layers_.size(), image.header);
  std::vector<absl::string_view> parts;
  const auto used = static_cast<size_t>((position_ + kPage - 1) / kPage);
  for (const LayerState& layer : layers_) {
    const size_t end = std::min(used, layer.pages.size());
    size_t first = 0;
    while (first < end && !layer.pages[first].defined()) ++first;
    const auto own = static_cast<size_t>(&layer - layers_.data());
    Put(static_cast<uint64_t>(layouts_[own].fixed), image.header);
    Put(static_cast<uint64_t>(layouts_[own].page), image.header);
    Put(first, image.header);
    Put(end, image.header);
    parts.push_back(BytesOf(layer.fixed));
    for (size_t i = first; i < end; ++i) parts.push_back(BytesOf(layer.pages[i]));
  }
  image.parts = {image.header};
  image.parts.insert(image.parts.end(), parts.begin(), parts.end());
}

absl::StatusOr<SequenceState> SequenceState::Load(absl::Span<const LayerLayout> layouts,
                                                  absl::string_view bytes) {
  const auto bad = [] { return absl::DataLossError("state: not one of this model"); };
  absl::StatusOr<SequenceState> state = Create(layouts);
  if (!state.ok()) return state.status();
  ImageReader reader(bytes);
  if (reader.Number() != kMagic) return bad();
  state->position_ = static_cast<int64_t>(reader.Number());
  if (reader.Number() != layouts.size() || state->position_ < 0) return bad();
  const auto pages = static_cast<uint64_t>((state->position_ + kPage - 1) / kPage);
  std::vector<std::pair<uint64_t, uint64_t>> ranges;
  for (const LayerLayout& layout : layouts) {
    if (reader.Number() != static_cast<uint64_t>(layout.fixed) ||
        reader.Number() != static_cast<uint64_t>(layout.page)) {
      return bad();
    }
    const uint64_t first = reader.Number(), end = reader.Number();
    if (!reader.good() || first > end || end != (layout.page == 0 ? 0 : pages)) return bad();
    ranges.emplace_back(first, end);
  }
  for (size_t l = 0; l < layouts.size(); ++l) {
    LayerState& layer = state->layers_[l];
    const auto copy = [&](const Tensor& to) {
      const absl::string_view part = reader.Bytes(static_cast<uint64_t>(to.byte_size()));
      if (reader.good()) std::memcpy(to.raw(), part.data(), part.size());
      return reader.good();
    };
    if (!copy(layer.fixed)) return bad();
    layer.pages.resize(ranges[l].first);
    for (uint64_t i = ranges[l].first; i < ranges[l].second; ++i) {
      absl::StatusOr<Tensor> page = Zeros(layouts[l].page);
      if (!page.ok()) return page.status();
      if (!copy(*page)) return bad();
      layer.pages.push_back(*std::move(page));
    }
  }
  if (!reader.done()) return bad();
  return state;
}

absl::StatusOr<SequenceState> SequenceState::FromLayers(absl::Span<const LayerLayout> layouts,
                                                        uint64_t position,
                                                        std::vector<LayerState> layers) {
  const auto bad = [](size_t layer, absl::string_view what) {
    return absl::FailedPreconditionError(
        absl::StrCat("state: layer ", layer, ": ", what, " are none of this model"));
  };
  if (layers.size() != layouts.size()) return bad(layers.size(), "layers");
  const uint64_t used = (position + kPage - 1) / kPage;
  for (size_t i = 0; i < layers.size(); ++i) {
    const LayerLayout& layout = layouts[i];
    const auto has = [](const Tensor& tensor, int64_t floats) {
      return tensor.defined() && tensor.dtype() == DType::kFloat32 &&
             tensor.num_elements() == floats;
    };
    if (!has(layers[i].fixed, layout.fixed)) return bad(i, "its floats of fixed size");
    const std::vector<Tensor>& pages = layers[i].pages;
    if (pages.size() != (layout.page == 0 ? 0 : used)) return bad(i, "its pages");
    // Pages that later tokens see are there, as Advance leaves them.
    const int64_t oldest = static_cast<int64_t>(position) + 1 - layout.window;
    for (size_t p = 0; p < pages.size(); ++p) {
      const bool unseen = layout.window > 0 && static_cast<int64_t>(p) < oldest / kPage;
      if (!has(pages[p], layout.page) && (pages[p].defined() || !unseen)) {
        return bad(i, "its pages");
      }
    }
  }
  SequenceState state;
  state.position_ = static_cast<int64_t>(position);
  state.layouts_.assign(layouts.begin(), layouts.end());
  state.layers_ = std::move(layers);
  return state;
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
