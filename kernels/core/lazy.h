#ifndef ATTND_KERNELS_CORE_LAZY_H_
#define ATTND_KERNELS_CORE_LAZY_H_

#include "absl/base/call_once.h"

namespace attnd {

// A value that follows from what it is a member of, made when first asked for, by any thread. A
// copy makes its own: what it follows from may change before it is asked.
template <typename T>
class Lazy {
 public:
  Lazy() = default;
  Lazy(const Lazy& /*other*/) {}
  Lazy& operator=(const Lazy&) = delete;

  template <typename Make>
  const T& Get(Make&& make) const {
    absl::call_once(once_, [&] { value_ = make(); });
    return value_;
  }

 private:
  mutable absl::once_flag once_;
  mutable T value_{};
};

}  // namespace attnd

#endif  // ATTND_KERNELS_CORE_LAZY_H_
