// The CUDA backend: one device, one stream, memory that is kept for the next allocation.
#ifndef ATTND_KERNELS_PRIMITIVES_CUDA_CUDA_BACKEND_H_
#define ATTND_KERNELS_PRIMITIVES_CUDA_CUDA_BACKEND_H_

#include <cuda_runtime.h>

#include <memory>
#include <mutex>
#include <string>

#include "kernels/primitives/cuda_module.h"
#include "kernels/primitives/primitives.h"

namespace attnd::cuda {

class DevicePool;

// The shared memory that one block may ask for, in bytes, on every device of this machine: what a
// kernel's condition knows before a device is chosen.
int SharedMemoryLimit();

// Everything is queued on one stream, so memory that a finished call gave back may be handed out at
// once: its last user was queued before its next. Thread-safe; calls of several threads interleave
// on the stream.
class CudaBackend final : public Backend {
 public:
  static absl::StatusOr<std::unique_ptr<CudaBackend>> Create(const CudaOptions& options);
  ~CudaBackend() override;

  cudaStream_t stream() const { return stream_; }
  int ordinal() const { return ordinal_; }
  // Multiprocessors of the device.
  int multiprocessors() const { return multiprocessors_; }

  // Keeps the first error until Synchronize reports it.
  void Note(cudaError_t error, const char* what);
  // After a launch.
  void NoteLaunch(const char* kernel) { Note(cudaGetLastError(), kernel); }

  Device device() const override { return Device::kCuda; }
  std::string name() const override { return name_; }
  absl::StatusOr<Tensor> Allocate(DType dtype, Dims shape) override;
  int64_t allocated_bytes() const override;
  int64_t peak_allocated_bytes() const override;
  absl::Status Upload(const Tensor& host, const Tensor& out) override;
  absl::Status Download(const Tensor& in, const Tensor& host) override;
  absl::Status Synchronize() override;

  void Copy(const Tensor& x, const Tensor& out) override;
  void Fill(double value, const Tensor& out) override;
  void Iota(double start, double step, const Tensor& out) override;
  void Unary(UnaryOp op, const Tensor& x, const Tensor& out) override;
  void Binary(BinaryOp op, const Tensor& a, const Tensor& b, const Tensor& out) override;
  void Where(const Tensor& condition, const Tensor& a, const Tensor& b, const Tensor& out) override;
  void Reduce(ReduceOp op, const Tensor& x, int axis, const Tensor& out) override;
  void CumSum(const Tensor& x, int axis, const Tensor& out) override;
  void Softmax(const Tensor& x, const Tensor& mask, const Tensor& out, const Tensor& lse) override;
  void MatMul(const Tensor& a, const Tensor& b, const Tensor& out, double alpha,
              double beta) override;
  void SolveUnitLower(const Tensor& a, const Tensor& b, const Tensor& out) override;
  void Gather(const Tensor& x, const Tensor& index, int axis, const Tensor& out) override;
  void SortDescending(const Tensor& x, const Tensor& out) override;
  void LinearScan(const Tensor& factor, const Tensor& x, const Tensor& initial,
                  const Tensor& out) override;
  void LogSumExpScan(const Tensor& x, const Tensor& initial, const Tensor& out) override;

 private:
  CudaBackend() = default;

  int ordinal_ = 0;
  int multiprocessors_ = 0;
  cudaStream_t stream_ = nullptr;
  std::string name_;
  std::shared_ptr<DevicePool> pool_;
  std::mutex mutex_;
  absl::Status error_;
};

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_PRIMITIVES_CUDA_CUDA_BACKEND_H_
