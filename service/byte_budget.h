// Bytes that several users together may hold.
#ifndef ATTND_SERVICE_BYTE_BUDGET_H_
#define ATTND_SERVICE_BYTE_BUDGET_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <utility>

namespace attnd {

// Thread-safe.
class ByteBudget {
 public:
  explicit ByteBudget(int64_t limit) : limit_(limit), left_(limit) {}
  // All or nothing; a call that asks for too much is never in the way of one that does not.
  bool Take(int64_t bytes) {
    int64_t left = left_.load();
    while (left >= bytes) {
      if (left_.compare_exchange_weak(left, left - bytes)) return true;
    }
    return false;
  }
  void Return(int64_t bytes) { left_.fetch_add(bytes); }

  int64_t limit() const { return limit_; }
  int64_t taken() const { return limit_ - left_.load(); }

 private:
  const int64_t limit_;
  std::atomic<int64_t> left_;
};

// Bytes of a budget, until it goes.
class TakenBytes {
 public:
  // Null if they are not to be had.
  static std::shared_ptr<const TakenBytes> Take(std::shared_ptr<ByteBudget> budget, int64_t bytes) {
    if (!budget->Take(bytes)) return nullptr;
    return std::shared_ptr<const TakenBytes>(new TakenBytes(std::move(budget), bytes));
  }
  ~TakenBytes() { budget_->Return(bytes_); }
  TakenBytes(const TakenBytes&) = delete;
  TakenBytes& operator=(const TakenBytes&) = delete;

 private:
  TakenBytes(std::shared_ptr<ByteBudget> budget, int64_t bytes)
      : budget_(std::move(budget)), bytes_(bytes) {}

  const std::shared_ptr<ByteBudget> budget_;
  const int64_t bytes_;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_BYTE_BUDGET_H_
