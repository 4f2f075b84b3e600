#include "kernels/primitives/cuda/cuda_backend.h"

#include <algorithm>
#include <atomic>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"

namespace attnd::cuda {

// Blocks of device memory, kept by size. Lives until the last tensor is gone.
class DevicePool : public std::enable_shared_from_this<DevicePool> {
 public:
  DevicePool(int ordinal, int64_t limit) : ordinal_(ordinal), limit_(limit) {}
  ~DevicePool() { Release(); }

  absl::StatusOr<Tensor> Allocate(DType dtype, Dims shape) {
    absl::StatusOr<int64_t> bytes = CheckedByteSize(dtype, shape);
    if (!bytes.ok()) return bytes.status();
    const int64_t size = RoundedSize(*bytes);
    void* block = Take(size);
    if (block == nullptr) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "no device memory for ", *bytes, " bytes of ", Name(dtype), ToString(shape), ": ",
          in_use_.load(), " in use", limit_ > 0 ? absl::StrCat(", limit ", limit_) : ""));
    }
    std::shared_ptr<const void> owner(
        block, [pool = shared_from_this(), size](void* p) { pool->Give(p, size); });
    return Tensor(block, dtype, std::move(shape), Device::kCuda, std::move(owner));
  }

  int64_t in_use() const { return in_use_; }
  int64_t peak() const { return peak_; }

 private:
  // Eight sizes to each power of two: at most an eighth is wasted.
  static int64_t RoundedSize(int64_t bytes) {
    if (bytes <= 512) return 512;
    int64_t step = 64;
    while (step * 16 <= bytes) step *= 2;
    return (bytes + step - 1) / step * step;
  }

  void* Take(int64_t size) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (limit_ > 0 && in_use_ + size > limit_) return nullptr;
    void* block = nullptr;
    auto it = free_.find(size);
    if (it != free_.end() && !it->second.empty()) {
      block = it->second.back();
      it->second.pop_back();
    } else {
      cudaSetDevice(ordinal_);
      if (cudaMalloc(&block, static_cast<size_t>(size)) != cudaSuccess) {
        cudaGetLastError();
        Release();  // What is kept may make room; cudaFree waits for the work that uses it.
        if (cudaMalloc(&block, static_cast<size_t>(size)) != cudaSuccess) {
          cudaGetLastError();
          return nullptr;
        }
      }
    }
    in_use_ += size;
    peak_ = std::max<int64_t>(peak_, in_use_);
    return block;
  }

  void Give(void* block, int64_t size) {
    std::lock_guard<std::mutex> lock(mutex_);
    in_use_ -= size;
    free_[size].push_back(block);
  }

  void Release() {
    for (auto& [size, blocks] : free_) {
      for (void* block : blocks) cudaFree(block);
    }
    free_.clear();
  }

  const int ordinal_;
  const int64_t limit_;
  std::mutex mutex_;
  std::map<int64_t, std::vector<void*>> free_;
  std::atomic<int64_t> in_use_{0};
  std::atomic<int64_t> peak_{0};
};

int SharedMemoryLimit() {
  static const int limit = [] {
    int devices = 0;
    int least = std::numeric_limits<int>::max();
    if (cudaGetDeviceCount(&devices) != cudaSuccess) return 0;
    for (int i = 0; i < devices; ++i) {
      int bytes = 0;
      cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, i);
      least = std::min(least, bytes);
    }
    return least;
  }();
  return limit;
}

absl::StatusOr<std::unique_ptr<CudaBackend>> CudaBackend::Create(const CudaOptions& options) {
  std::unique_ptr<CudaBackend> backend(new CudaBackend());  // The constructor is private.
  backend->ordinal_ = options.ordinal;
  cudaDeviceProp properties;
  for (cudaError_t error :
       {cudaSetDevice(options.ordinal), cudaGetDeviceProperties(&properties, options.ordinal),
        cudaStreamCreateWithFlags(&backend->stream_, cudaStreamNonBlocking)}) {
    if (error != cudaSuccess) {
      return absl::UnavailableError(
          absl::StrCat("CUDA device ", options.ordinal, ": ", cudaGetErrorString(error)));
    }
  }
  backend->name_ = properties.name;
  backend->multiprocessors_ = properties.multiProcessorCount;
  backend->pool_ = std::make_shared<DevicePool>(options.ordinal, options.memory_limit_bytes);
  return backend;
}

CudaBackend::~CudaBackend() {
  if (stream_ != nullptr) {
    cudaStreamSynchronize(stream_);
    cudaStreamDestroy(stream_);
  }
}

void CudaBackend::Note(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::lock_guard<std::mutex> lock(mutex_);
  if (error_.ok())
    error_ = absl::InternalError(absl::StrCat(what, ": ", cudaGetErrorString(error)));
}

absl::StatusOr<Tensor> CudaBackend::Allocate(DType dtype, Dims shape) {
  cudaSetDevice(ordinal_);  // The calling thread may be new.
  return pool_->Allocate(dtype, std::move(shape));
}

int64_t CudaBackend::allocated_bytes() const { return pool_->in_use(); }
int64_t CudaBackend::peak_allocated_bytes() const { return pool_->peak(); }

absl::Status CudaBackend::Upload(const Tensor& host, const Tensor& out) {
  cudaSetDevice(ordinal_);
  if (host.byte_size() == 0) return absl::OkStatus();
  // From pageable memory: returns once the bytes are staged, so the caller may let go of them.
  const cudaError_t error =
      cudaMemcpyAsync(out.raw(), host.raw(), static_cast<size_t>(host.byte_size()),
                      cudaMemcpyHostToDevice, stream_);
  if (error == cudaSuccess) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("copy to the device: ", cudaGetErrorString(error)));
}

absl::Status CudaBackend::Download(const Tensor& in, const Tensor& host) {
  if (in.byte_size() > 0) {
    Note(cudaMemcpyAsync(host.raw(), in.raw(), static_cast<size_t>(in.byte_size()),
                         cudaMemcpyDeviceToHost, stream_),
         "copy from the device");
  }
  return Synchronize();
}

absl::Status CudaBackend::Synchronize() {
  Note(cudaStreamSynchronize(stream_), "work on the device");
  std::lock_guard<std::mutex> lock(mutex_);
  return std::exchange(error_, absl::OkStatus());
}

}  // namespace attnd::cuda
