// Launches and their results as runs of frames: a header that announces tensors, then their bytes.
#ifndef ATTND_SERVICE_WORKER_FRAMES_H_
#define ATTND_SERVICE_WORKER_FRAMES_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "attnd/v1/worker.pb.h"
#include "kernels/core/call.h"

namespace attnd {

// Tensor bytes of one frame.
inline constexpr int64_t kFrameBytes = int64_t{1} << 20;

using TensorHeaders = google::protobuf::RepeatedPtrField<v1::TensorHeader>;

// Announces `tensors`, in their order.
void AnnounceTensors(const NamedTensors& tensors, TensorHeaders* headers);

// Cuts tensors into frames. Views need not be contiguous.
class FrameWriter {
 public:
  // `first` holds the header; `tensors` are those that it announces. RESOURCE_EXHAUSTED if a view
  // cannot be copied for want of memory.
  static absl::StatusOr<FrameWriter> Create(v1::ExecuteFrame first, const NamedTensors& tensors);

  // Fills the next frame; there is at least one.
  void Next(v1::ExecuteFrame* frame);
  // Whether Next has given the last frame.
  bool done() const { return started_ && tensor_ == tensors_.size(); }

 private:
  v1::ExecuteFrame first_;
  std::vector<Tensor> tensors_;
  bool started_ = false;
  size_t tensor_ = 0;
  int64_t offset_ = 0;
};

// Puts them together again.
class FrameReader {
 public:
  // Allocates what the header announces. INVALID_ARGUMENT for a header that cannot be,
  // RESOURCE_EXHAUSTED beyond `max_bytes`, before anything is allocated.
  absl::Status Announce(const TensorHeaders& headers, int64_t max_bytes);
  // INVALID_ARGUMENT for bytes out of order or too many.
  absl::Status Append(const v1::ExecuteFrame& frame);
  // INVALID_ARGUMENT if bytes are missing.
  absl::StatusOr<NamedTensors> Finish();

 private:
  std::vector<std::string> names_;
  std::vector<Tensor> tensors_;
  // Steps over tensors that are full.
  void SkipFull();

  size_t tensor_ = 0;  // That is being filled.
  int64_t offset_ = 0;
};

// Adds the bytes of `tensors`, which the frame's header announces. RESOURCE_EXHAUSTED if a view
// cannot be copied for want of memory, INTERNAL if they are more than one frame may hold.
absl::Status WriteOne(const NamedTensors& tensors, v1::ExecuteFrame* frame);

// The tensors of a launch or result that is one frame; errors as of FrameReader.
absl::StatusOr<NamedTensors> ReadOne(const v1::ExecuteFrame& frame, const TensorHeaders& headers,
                                     int64_t max_bytes);

}  // namespace attnd

#endif  // ATTND_SERVICE_WORKER_FRAMES_H_
