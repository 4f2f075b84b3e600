#include "kernels/primitives/cpu/cpu_backend.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstdlib>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/primitives_cpu.h"

namespace attnd {
namespace {

// Keeps freed blocks for the next allocation of the same size: steady state never asks the system.
class BlockPool : public std::enable_shared_from_this<BlockPool> {
 public:
  BlockPool(int64_t limit, std::string limit_name)
      : limit_(limit), limit_name_(std::move(limit_name)) {}
  ~BlockPool() {
    for (auto& [size, blocks] : free_) {
      for (void* block : blocks) std::free(block);
    }
  }

  absl::StatusOr<Tensor> Allocate(DType dtype, Dims shape) {
    absl::StatusOr<int64_t> bytes = CheckedByteSize(dtype, shape);
    if (!bytes.ok()) return bytes.status();
    const size_t size = RoundedSize(static_cast<size_t>(*bytes));
    void* block = Take(size);
    if (block == nullptr) {
      return absl::ResourceExhaustedError(
          absl::StrCat("no memory for ", *bytes, " bytes of ", Name(dtype), ToString(shape), ": ",
                       in_use_.load(), " in use",
                       limit_ > 0 ? absl::StrCat(", ", limit_name_, " ", limit_) : ""));
    }
    std::shared_ptr<const void> owner(
        block, [pool = shared_from_this(), size](void* p) { pool->Give(p, size); });
    return Tensor(block, dtype, std::move(shape), Device::kCpu, std::move(owner));
  }

  int64_t in_use() const { return in_use_; }
  int64_t peak() const { return peak_; }

 private:
  // Eight sizes to each power of two: at most an eighth is wasted.
  static size_t RoundedSize(size_t bytes) {
    if (bytes <= 512) return 512;
    const size_t step = std::bit_floor(bytes) / 8;
    return (bytes + step - 1) / step * step;
  }

  void* Take(size_t size) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto signed_size = static_cast<int64_t>(size);
    if (limit_ > 0 && in_use_ + signed_size > limit_) return nullptr;
    void* block = nullptr;
    auto it = free_.find(size);
    if (it != free_.end() && !it->second.empty()) {
      block = it->second.back();
      it->second.pop_back();
      kept_ -= size;
    } else {
      block = std::aligned_alloc(64, (size + 63) / 64 * 64);
      if (block == nullptr) return nullptr;
    }
    in_use_ += signed_size;
    peak_ = std::max<int64_t>(peak_, in_use_);
    return block;
  }

  void Give(void* block, size_t size) {
    std::lock_guard<std::mutex> lock(mutex_);
    in_use_ -= static_cast<int64_t>(size);
    if (kept_ + size > kMostKept) {
      std::free(block);
      return;
    }
    free_[size].push_back(block);
    kept_ += size;
  }

  static constexpr size_t kMostKept = size_t{256} << 20;
  const int64_t limit_;
  const std::string limit_name_;
  std::mutex mutex_;
  std::map<size_t, std::vector<void*>> free_;
  size_t kept_ = 0;
  std::atomic<int64_t> in_use_{0};
  std::atomic<int64_t> peak_{0};
};

absl::string_view InstructionSet() {
  if (__builtin_cpu_supports("avx512f")) return "AVX-512";
  if (__builtin_cpu_supports("avx2")) return "AVX2";
  return "baseline x86-64";
}

class CpuBackend final : public Backend {
 public:
  explicit CpuBackend(const CpuOptions& options)
      : pool_(std::make_shared<BlockPool>(options.memory_limit_bytes, options.memory_limit_name)) {
    if (options.threads > 0) cpu::SetThreads(options.threads);
    name_ = absl::StrCat("cpu (", InstructionSet(), ", ", cpu::Threads(), " threads)");
  }

  Device device() const override { return Device::kCpu; }
  std::string name() const override { return name_; }
  absl::StatusOr<Tensor> Allocate(DType dtype, Dims shape) override {
    return pool_->Allocate(dtype, std::move(shape));
  }
  int64_t allocated_bytes() const override { return pool_->in_use(); }
  int64_t peak_allocated_bytes() const override { return pool_->peak(); }

  absl::Status Upload(const Tensor& host, const Tensor& out) override {
    cpu::Copy(host, out);
    return absl::OkStatus();
  }
  absl::Status Download(const Tensor& in, const Tensor& host) override {
    cpu::Copy(in, host);
    return absl::OkStatus();
  }
  absl::Status Synchronize() override { return absl::OkStatus(); }

  void Copy(const Tensor& x, const Tensor& out) override { cpu::Copy(x, out); }
  void Fill(double value, const Tensor& out) override { cpu::Fill(value, out); }
  void Iota(double start, double step, const Tensor& out) override { cpu::Iota(start, step, out); }
  void Unary(UnaryOp op, const Tensor& x, const Tensor& out) override { cpu::Unary(op, x, out); }
  void Binary(BinaryOp op, const Tensor& a, const Tensor& b, const Tensor& out) override {
    cpu::Binary(op, a, b, out);
  }
  void Where(const Tensor& condition, const Tensor& a, const Tensor& b,
             const Tensor& out) override {
    cpu::Where(condition, a, b, out);
  }
  void Reduce(ReduceOp op, const Tensor& x, int axis, const Tensor& out) override {
    cpu::Reduce(op, x, axis, out);
  }
  void CumSum(const Tensor& x, int axis, const Tensor& out) override { cpu::CumSum(x, axis, out); }
  void Softmax(const Tensor& x, const Tensor& mask, const Tensor& out, const Tensor& lse) override {
    cpu::Softmax(x, mask, out, lse);
  }
  void MatMul(const Tensor& a, const Tensor& b, const Tensor& out, double alpha,
              double beta) override {
    cpu::MatMul(a, b, out, alpha, beta);
  }
  void SolveUnitLower(const Tensor& a, const Tensor& b, const Tensor& out) override {
    cpu::SolveUnitLower(a, b, out);
  }
  void Gather(const Tensor& x, const Tensor& index, int axis, const Tensor& out) override {
    cpu::Gather(x, index, axis, out);
  }
  void SortDescending(const Tensor& x, const Tensor& out) override { cpu::SortDescending(x, out); }
  void LinearScan(const Tensor& factor, const Tensor& x, const Tensor& initial,
                  const Tensor& out) override {
    cpu::LinearScan(factor, x, initial, out);
  }
  void LogSumExpScan(const Tensor& x, const Tensor& initial, const Tensor& out) override {
    cpu::LogSumExpScan(x, initial, out);
  }

 private:
  std::shared_ptr<BlockPool> pool_;
  std::string name_;
};

}  // namespace

std::unique_ptr<Backend> CreateCpuBackend(const CpuOptions& options) {
  return std::make_unique<CpuBackend>(options);
}

}  // namespace attnd
