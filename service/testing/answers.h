// Waiting for answers of an engine.
#ifndef ATTND_SERVICE_TESTING_ANSWERS_H_
#define ATTND_SERVICE_TESTING_ANSWERS_H_

#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "service/engine.h"

namespace attnd::testing {

// One answer that somebody will give, exactly once.
template <typename T>
class Answer {
 public:
  void Give(absl::StatusOr<T> value) {
    absl::MutexLock lock(&mu_);
    ++given_;
    value_ = std::move(value);
  }
  bool given() const {
    absl::MutexLock lock(&mu_);
    return value_.has_value();
  }
  // DEADLINE_EXCEEDED "no answer came" after the timeout; INTERNAL if more than one came.
  absl::StatusOr<T> Get(absl::Duration timeout = absl::Seconds(20)) {
    absl::MutexLock lock(&mu_);
    const auto given = [this] { return value_.has_value(); };
    if (!mu_.AwaitWithTimeout(absl::Condition(&given), timeout)) {
      return absl::DeadlineExceededError("no answer came");
    }
    if (given_ != 1) return absl::InternalError("answered more than once");
    return *value_;
  }

 private:
  mutable absl::Mutex mu_;
  std::optional<absl::StatusOr<T>> value_;
  int given_ = 0;
};

using PendingResult = std::shared_ptr<Answer<EngineResult>>;
using PendingReport = std::shared_ptr<Answer<NumericsReport>>;

inline PendingResult Submit(Engine& engine, EngineCall call) {
  auto answer = std::make_shared<Answer<EngineResult>>();
  engine.Evaluate(std::move(call), [answer](absl::StatusOr<EngineResult> result) {
    answer->Give(std::move(result));
  });
  return answer;
}

// `count` calls of `make`, one after another.
inline std::vector<PendingResult> SubmitMany(Engine& engine, int count,
                                             absl::FunctionRef<EngineCall(int index)> make) {
  std::vector<PendingResult> answers;
  answers.reserve(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) answers.push_back(Submit(engine, make(i)));
  return answers;
}

inline PendingReport SubmitCompare(Engine& engine, EngineCall call, const RandomCompare* random) {
  auto answer = std::make_shared<Answer<NumericsReport>>();
  engine.Compare(std::move(call), random, [answer](absl::StatusOr<NumericsReport> report) {
    answer->Give(std::move(report));
  });
  return answer;
}

}  // namespace attnd::testing

#endif  // ATTND_SERVICE_TESTING_ANSWERS_H_
