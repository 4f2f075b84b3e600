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

// What an image begins with: this, the position, the number of layers, then for each its floats of
// fixed size, its floats of a page, and which pages are there: the first one, and one after the
// last.
constexpr uint64_t kMagic = 0x31657461'74736e74;      // "tnstate1", read backwards.
constexpr uint64_t kCudaMagic = 0x31657461'74736375;  // "ucstate1".

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

uint64_t SequenceState::magic() const { return device() == Device::kCuda ? kCudaMagic : kMagic; }

absl::StatusOr<Tensor> SequenceState::Zeros(int64_t size) const {
  if (device_ == nullptr) {
    absl::StatusOr<Tensor> memory = AllocateHost(DType::kFloat32, {size});
    if (memory.ok()) std::memset(memory->raw(), 0, static_cast<size_t>(memory->byte_size()));
    return memory;
  }
  absl::StatusOr<Tensor> memory = device_->Allocate(DType::kFloat32, {size});
  if (memory.ok() && size > 0) device_->Fill(0, *memory);
  return memory;
}

absl::StatusOr<Tensor> SequenceState::CopyOf(const Tensor& tensor) const {
  if (device_ == nullptr) {
    absl::StatusOr<Tensor> memory = AllocateHost(DType::kFloat32, tensor.shape());
    if (memory.ok()) {
      std::memcpy(memory->raw(), tensor.raw(), static_cast<size_t>(tensor.byte_size()));
    }
    return memory;
  }
  absl::StatusOr<Tensor> memory = device_->Allocate(DType::kFloat32, tensor.shape());
  if (memory.ok() && tensor.num_elements() > 0) device_->Copy(tensor, *memory);
  return memory;
}

absl::Status SequenceState::Fill(const Tensor& tensor, absl::string_view bytes) const {
  if (device_ == nullptr) {
    std::memcpy(tensor.raw(), bytes.data(), bytes.size());
    return absl::OkStatus();
  }
  const Tensor host(const_cast<char*>(bytes.data()), DType::kFloat32, tensor.shape());
  return device_->Upload(host, tensor);
}

absl::StatusOr<SequenceState> SequenceState::ToHost() const {
  SequenceState copy;
  copy.position_ = position_;
  copy.layouts_ = layouts_;
  const auto download = [&](const Tensor& from) -> absl::StatusOr<Tensor> {
    if (!from.defined()) return from;
    if (device_ == nullptr) return CopyOf(from);
    absl::StatusOr<Tensor> host = AllocateHost(DType::kFloat32, from.shape());
    if (!host.ok()) return host;
    if (absl::Status s = device_->Download(from, *host); !s.ok()) return s;
    return host;
  };
  for (const LayerState& layer : layers_) {
    LayerState& to = copy.layers_.emplace_back();
    absl::StatusOr<Tensor> fixed = download(layer.fixed);
    if (!fixed.ok()) return fixed.status();
    to.fixed = *std::move(fixed);
    for (const Tensor& page : layer.pages) {
      absl::StatusOr<Tensor> own = download(page);
      if (!own.ok()) return own.status();
      to.pages.push_back(*std::move(own));
    }
  }
  return copy;
}

absl::StatusOr<SequenceState> SequenceState::Create(absl::Span<const LayerLayout> layouts,
                                                    std::shared_ptr<Backend> device) {
  SequenceState state;
  state.device_ = std::move(device);
  state.layouts_.assign(layouts.begin(), layouts.end());
  for (const LayerLayout& layout : layouts) {
    absl::StatusOr<Tensor> fixed = state.Zeros(layout.fixed);
    if (!fixed.ok()) return fixed.status();
    state.layers_.push_back({*std::move(fixed), {}});
  }
  return state;
}

absl::StatusOr<SequenceState> SequenceState::Copy() const {
  SequenceState copy;
  copy.device_ = device_;
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

absl::Status SequenceState::Save(Image& image) const {
  image.copy = nullptr;
  const std::vector<LayerState>* layers = &layers_;
  if (device_ != nullptr) {
    absl::StatusOr<SequenceState> host = ToHost();
    if (!host.ok()) return host.status();
    image.copy = std::make_shared<const SequenceState>(*std::move(host));
    layers = &image.copy->layers_;
  }
  image.header.clear();
  Put(magic(), image.header);
  Put(static_cast<uint64_t>(position_), image.header);
  Put(layers_.size(), image.header);
  std::vector<absl::string_view> parts;
  const auto used = static_cast<size_t>((position_ + kPage - 1) / kPage);
  for (const LayerState& layer : *layers) {
    const size_t end = std::min(used, layer.pages.size());
    size_t first = 0;
    while (first < end && !layer.pages[first].defined()) ++first;
    const auto own = static_cast<size_t>(&layer - layers->data());
    Put(static_cast<uint64_t>(layouts_[own].fixed), image.header);
    Put(static_cast<uint64_t>(layouts_[own].page), image.header);
    Put(first, image.header);
    Put(end, image.header);
    parts.push_back(BytesOf(layer.fixed));
    for (size_t i = first; i < end; ++i) parts.push_back(BytesOf(layer.pages[i]));
  }
  image.parts = {image.header};
  image.parts.insert(image.parts.end(), parts.begin(), parts.end());
  return absl::OkStatus();
}

absl::StatusOr<SequenceState> SequenceState::Load(absl::Span<const LayerLayout> layouts,
                                                  absl::string_view bytes,
                                                  std::shared_ptr<Backend> device) {
  const auto bad = [] { return absl::DataLossError("state: not one of this model"); };
  absl::StatusOr<SequenceState> state = Create(layouts, std::move(device));
  if (!state.ok()) return state.status();
  ImageReader reader(bytes);
  if (const uint64_t magic = reader.Number(); magic != state->magic()) {
    if (magic != kMagic && magic != kCudaMagic) return bad();
    return absl::FailedPreconditionError(
        absl::StrCat("state: given one that a device of another kind computed, expected one of ",
                     Name(state->device())));
  }
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
      return reader.good() ? state->Fill(to, part) : bad();
    };
    if (absl::Status s = copy(layer.fixed); !s.ok()) return s;
    layer.pages.resize(ranges[l].first);
    for (uint64_t i = ranges[l].first; i < ranges[l].second; ++i) {
      absl::StatusOr<Tensor> page = state->Zeros(layouts[l].page);
      if (!page.ok()) return page.status();
      if (absl::Status s = copy(*page); !s.ok()) return s;
      layer.pages.push_back(*std::move(page));
    }
  }
  if (!reader.done()) return bad();
  return state;
}

absl::StatusOr<SequenceState> SequenceState::FromLayers(absl::Span<const LayerLayout> layouts,
                                                        uint64_t position,
                                                        std::vector<LayerState> layers,
                                                        std::shared_ptr<Backend> device) {
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
  state.device_ = std::move(device);
  state.position_ = static_cast<int64_t>(position);
  state.layouts_.assign(layouts.begin(), layouts.end());
  const auto take = [&state](Tensor& host) -> absl::Status {
    if (!host.defined() || state.device_ == nullptr) return absl::OkStatus();
    absl::StatusOr<Tensor> own = state.Zeros(host.num_elements());
    if (!own.ok()) return own.status();
    absl::Status filled = state.Fill(*own, BytesOf(host));
    host = *std::move(own);
    return filled;
  };
  for (LayerState& layer : layers) {
    if (absl::Status s = take(layer.fixed); !s.ok()) return s;
    for (Tensor& page : layer.pages) {
      if (absl::Status s = take(page); !s.ok()) return s;
    }
  }
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
