#include "kernels/cores/tokens_seen.h"

#include "absl/strings/str_cat.h"

namespace attnd {

absl::Status CheckTokensSeen(const BoundCall& call, absl::string_view name) {
  constexpr int64_t kMost = int64_t{1} << 53;
  const Tensor& seen = call.input(name);
  for (int64_t i = 0; seen.defined() && i < seen.num_elements(); ++i) {
    const int64_t tokens = seen.data<int64_t>()[i];
    if (tokens >= 0 && tokens <= kMost) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(call.spec().id(), ": ", name, ": given ", tokens, " at [", i,
                     "], expected tokens seen so far, >= 0 and <= ", kMost));
  }
  return absl::OkStatus();
}

}  // namespace attnd
