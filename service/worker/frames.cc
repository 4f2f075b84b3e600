#include "service/worker/frames.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/rpc/wire_tensor.h"
#include "service/wire.h"

namespace attnd {
void AnnounceTensors(const NamedTensors& tensors, TensorHeaders* headers) {
  for (const auto& [name, tensor] : tensors) {
    v1::TensorHeader* header = headers->Add();
    header->set_name(name);
    header->set_dtype(ToWire(tensor.dtype()));
    header->mutable_shape()->Assign(tensor.shape().begin(), tensor.shape().end());
  }
}

absl::StatusOr<FrameWriter> FrameWriter::Create(v1::ExecuteFrame first,
                                                const NamedTensors& tensors) {
  FrameWriter writer;
  writer.first_ = std::move(first);
  for (const auto& [name, tensor] : tensors) {
    absl::StatusOr<Tensor> contiguous = Contiguous(tensor);
    if (!contiguous.ok()) return contiguous.status();
    writer.tensors_.push_back(*std::move(contiguous));
  }
  return writer;
}

void FrameWriter::Next(v1::ExecuteFrame* frame) {
  if (std::exchange(started_, true)) {
    frame->Clear();
  } else {
    *frame = std::move(first_);
  }
  int64_t room = kFrameBytes;
  while (tensor_ < tensors_.size() && room > 0) {
    const Tensor& tensor = tensors_[tensor_];
    const int64_t size = std::min(room, tensor.byte_size() - offset_);
    if (size > 0) {
      v1::TensorBytes* data = frame->add_data();
      data->set_tensor(static_cast<uint32_t>(tensor_));
      data->set_bytes(tensor.data<const char>() + offset_, size);
      offset_ += size;
      room -= size;
    }
    if (offset_ == tensor.byte_size()) {
      ++tensor_;
      offset_ = 0;
    }
  }
}

absl::Status FrameReader::Announce(const TensorHeaders& headers, int64_t max_bytes) {
  std::vector<std::pair<DType, Dims>> shapes;
  int64_t total = 0;
  for (const v1::TensorHeader& header : headers) {
    const std::optional<DType> dtype = FromWire(header.dtype());
    if (!dtype.has_value() || header.shape_size() > kMaxRank) {
      return absl::InvalidArgumentError(
          absl::StrCat("frame: tensor ", header.name(), ": unknown type or rank over ", kMaxRank));
    }
    Dims shape(header.shape().begin(), header.shape().end());
    const absl::StatusOr<int64_t> bytes = CheckedByteSize(*dtype, shape);
    if (!bytes.ok()) return absl::InvalidArgumentError(bytes.status().message());
    if (__builtin_add_overflow(total, *bytes, &total) || total > max_bytes) {
      return absl::ResourceExhaustedError(
          absl::StrCat("frame: tensors need more than ", max_bytes, " bytes"));
    }
    shapes.emplace_back(*dtype, std::move(shape));
    names_.push_back(header.name());
  }
  for (auto& [dtype, shape] : shapes) {
    absl::StatusOr<Tensor> tensor = AllocateHost(dtype, std::move(shape));
    if (!tensor.ok()) return tensor.status();
    tensors_.push_back(*std::move(tensor));
  }
  return absl::OkStatus();
}

void FrameReader::SkipFull() {
  while (tensor_ < tensors_.size() && offset_ == tensors_[tensor_].byte_size()) {
    ++tensor_;
    offset_ = 0;
  }
}

absl::Status FrameReader::Append(const v1::ExecuteFrame& frame) {
  for (const v1::TensorBytes& data : frame.data()) {
    SkipFull();
    const auto size = static_cast<int64_t>(data.bytes().size());
    if (data.tensor() != tensor_ || tensor_ >= tensors_.size() ||
        size > tensors_[tensor_].byte_size() - offset_) {
      return absl::InvalidArgumentError("frame: bytes that no announced tensor has room for");
    }
    std::memcpy(tensors_[tensor_].data<char>() + offset_, data.bytes().data(), size);
    offset_ += size;
  }
  return absl::OkStatus();
}

absl::StatusOr<NamedTensors> FrameReader::Finish() {
  SkipFull();
  if (tensor_ < tensors_.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("frame: tensor ", names_[tensor_], " is incomplete"));
  }
  NamedTensors tensors;
  for (size_t i = 0; i < names_.size(); ++i) tensors.Set(names_[i], tensors_[i]);
  return tensors;
}

absl::Status WriteOne(const NamedTensors& tensors, v1::ExecuteFrame* frame) {
  int64_t room = kFrameBytes;
  uint32_t index = 0;
  for (const auto& [name, tensor] : tensors) {
    absl::StatusOr<Tensor> contiguous = Contiguous(tensor);
    if (!contiguous.ok()) return contiguous.status();
    const int64_t size = contiguous->byte_size();
    room -= size;
    if (room < 0) return absl::InternalError("frame: the tensors do not fit into one");
    if (size > 0) {
      v1::TensorBytes* data = frame->add_data();
      data->set_tensor(index);
      data->set_bytes(contiguous->data<const char>(), static_cast<size_t>(size));
    }
    ++index;
  }
  return absl::OkStatus();
}

absl::StatusOr<NamedTensors> ReadOne(const v1::ExecuteFrame& frame, const TensorHeaders& headers,
                                     int64_t max_bytes) {
  FrameReader reader;
  if (absl::Status s = reader.Announce(headers, max_bytes); !s.ok()) return s;
  if (absl::Status s = reader.Append(frame); !s.ok()) return s;
  return reader.Finish();
}

}  // namespace attnd
