#include "kernels/cores/recurrent_cuda.h"

#include <algorithm>
#include <vector>

#include "kernels/cores/recurrent_params.cuh"
#include "kernels/primitives/cuda/cuda_backend.h"

namespace attnd::cuda {
namespace {

HeadView ViewOf(const Tensor& tensor, int64_t heads) {
  HeadView view = {};
  if (!tensor.defined()) return view;
  view.elements = Elements(tensor);
  if (tensor.rank() < 3) return view;  // One value a head.
  view.tokens = tensor.dim(1);
  view.heads = static_cast<int>(tensor.dim(2));
  view.group = static_cast<int>(heads / tensor.dim(2));
  view.width = tensor.rank() == 4 ? static_cast<int>(tensor.dim(3)) : 1;
  return view;
}

// Memory of one call, given back in stream order when the call's views are gone.
class Workspace {
 public:
  explicit Workspace(Backend& backend) : backend_(backend) {}

  float* Floats(int64_t count) {
    if (!status_.ok()) return nullptr;
    absl::StatusOr<Tensor> tensor = backend_.Allocate(DType::kFloat32, {count});
    if (!tensor.ok()) {
      status_ = tensor.status();
      return nullptr;
    }
    held_.push_back(*std::move(tensor));
    return held_.back().data<float>();
  }

  // A table of int64 fields on the device.
  template <typename T>
  const T* Table(const std::vector<T>& entries) {
    if (!status_.ok()) return nullptr;
    const int64_t words = static_cast<int64_t>(entries.size() * sizeof(T) / sizeof(int64_t));
    absl::StatusOr<Tensor> device = backend_.Allocate(DType::kInt64, {words});
    if (device.ok()) {
      const Tensor host(const_cast<T*>(entries.data()), DType::kInt64, {words});
      status_ = backend_.Upload(host, *device);
      held_.push_back(*device);
      return static_cast<const T*>(held_.back().raw());
    }
    status_ = device.status();
    return nullptr;
  }

  const absl::Status& status() const { return status_; }

 private:
  Backend& backend_;
  std::vector<Tensor> held_;
  absl::Status status_;
};

void SetKeySize(int64_t key_size, RecurrentParams& p) {
  p.K = static_cast<int>(key_size);
  p.padded_K = (p.K + 15) / 16 * 16;
}

template <typename T>
T* Data(const Tensor& tensor) {
  return tensor.defined() ? tensor.data<T>() : nullptr;
}

}  // namespace

bool FitsRecurrent(const RecurrentForm& form) {
  if (form.key_size > (form.decay == Decay::kVector ? 128 : 256)) return false;
  RecurrentParams p = {};
  p.decay = form.decay;
  p.delta = form.delta;
  p.fades = form.value_decay;
  SetKeySize(form.key_size, p);
  return std::max(PrepareSharedMemory(p), WalkSharedMemory(p)) <= SharedMemoryLimit();
}

absl::Status Recurrent(Backend& any_backend, const RecurrentCall& call) {
  auto& backend = static_cast<CudaBackend&>(any_backend);
  const int64_t heads = call.o.dim(2), V = call.v.dim(3);
  std::vector<Chunk> chunks;
  std::vector<Run> runs;
  for (const Sequence& sequence : call.sequences) {
    runs.push_back({static_cast<int64_t>(chunks.size()), (sequence.length + kChunk - 1) / kChunk,
                    sequence.state});
    for (int64_t begin = 0; begin < sequence.length; begin += kChunk) {
      chunks.push_back({sequence.row, sequence.begin + begin,
                        std::min<int64_t>(kChunk, sequence.length - begin)});
    }
  }
  if (runs.empty()) return absl::OkStatus();
  if (runs.size() > 65535 || heads > 65535) {
    return absl::ResourceExhaustedError("more than 65535 sequences or heads in one launch");
  }

  RecurrentParams p = {};
  p.q = ViewOf(call.q, heads);
  p.k = ViewOf(call.k, heads);
  p.v = ViewOf(call.v, heads);
  p.g = ViewOf(call.g, heads);
  p.value_decay = ViewOf(call.value_decay, heads);
  p.fades = call.value_decay.defined();
  p.beta = ViewOf(call.beta, heads);
  p.o = ViewOf(call.o, heads);
  p.decay = call.decay;
  p.delta = call.delta;
  p.scale = static_cast<float>(call.scale);
  p.heads = static_cast<int>(heads);
  SetKeySize(call.q.dim(3), p);
  p.V = static_cast<int>(V);

  Workspace workspace(backend);
  const auto slots = static_cast<int64_t>(chunks.size()) * heads;
  const int64_t rows = std::max<int64_t>(1, slots * kChunk * p.padded_K),
                squares = std::max<int64_t>(1, slots * kChunk * kChunk);
  p.runs = workspace.Table(runs);
  if (!chunks.empty()) p.chunks = workspace.Table(chunks);
  p.queries = workspace.Floats(rows);
  p.keys_until = workspace.Floats(rows);
  p.end = workspace.Floats(std::max<int64_t>(1, slots * p.padded_K));
  p.weights = workspace.Floats(squares);
  if (call.delta) {
    p.keys_since = workspace.Floats(rows);
    p.inverse = workspace.Floats(squares);
  }
  if (!workspace.status().ok()) return workspace.status();
  p.initial_state = Data<const float>(call.initial_state);
  p.final_state = Data<float>(call.final_state);
  p.initial_z = Data<const float>(call.initial_z);
  p.final_z = Data<float>(call.final_z);
  p.dots = Data<float>(call.dots);

  const cudaStream_t stream = backend.stream();
  const auto sequences = static_cast<int64_t>(runs.size());
  if (!chunks.empty()) {
    backend.Note(LaunchPrepare(stream, p, static_cast<int64_t>(chunks.size())),
                 "recurrent core: chunks");
  }
  backend.Note(LaunchWalk(stream, p, sequences), "recurrent core: walk");
  if (call.final_z.defined()) {
    backend.Note(LaunchNormaliser(stream, p, sequences), "recurrent core: normaliser");
  }
  return absl::OkStatus();
}

}  // namespace attnd::cuda
