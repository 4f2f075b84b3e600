// Places at which tests end the process, to see that a session survives it there.
//
// ATTND_TEST_FAULT_POINT=name ends it by SIGKILL when it first comes to the point of that name,
// name:7 at the seventh time. Not set, a point costs a look at a constant pointer.
#ifndef ATTND_SERVICE_SESSION_FAULT_POINT_H_
#define ATTND_SERVICE_SESSION_FAULT_POINT_H_

#include <atomic>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <string>
#include <utility>

#include "absl/base/optimization.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "absl/strings/string_view.h"

namespace attnd {

class FaultPlan {
 public:
  // What the environment asks for; null for nothing.
  static FaultPlan* FromEnvironment() {
    const char* const text = std::getenv("ATTND_TEST_FAULT_POINT");
    if (text == nullptr) return nullptr;
    static FaultPlan plan(text);
    return &plan;
  }

  void Pass(absl::string_view name) {
    if (name == name_ && left_.fetch_sub(1) == 1) std::raise(SIGKILL);
  }

 private:
  explicit FaultPlan(absl::string_view text) {
    const std::pair<absl::string_view, absl::string_view> parts =
        absl::StrSplit(text, absl::MaxSplits(':', 1));
    name_ = std::string(parts.first);
    int64_t times = 1;
    if (absl::SimpleAtoi(parts.second, &times)) left_ = times;
  }

  std::string name_;
  std::atomic<int64_t> left_ = 1;
};

inline FaultPlan* const kFaultPlan = FaultPlan::FromEnvironment();

// Names are written once, in one place of the program: tests find them in the sources.
inline void FaultPoint(absl::string_view name) {
  if (ABSL_PREDICT_FALSE(kFaultPlan != nullptr)) kFaultPlan->Pass(name);
}

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_FAULT_POINT_H_
