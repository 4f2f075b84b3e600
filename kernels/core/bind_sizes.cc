// Of a request: the size of every symbol, from the shapes of its inputs.
#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "kernels/core/binder.h"

namespace attnd {

int64_t LongestSequence(const CallRequest& request) {
  int64_t longest = 0;
  const Tensor* offsets = request.inputs.Find("cu_seqlens");
  if (offsets == nullptr || offsets->dtype() != DType::kInt32 || offsets->rank() != 1) return -1;
  const auto at = [offsets](int64_t i) { return offsets->data<int32_t>()[i * offsets->stride(0)]; };
  for (int64_t i = 1; i < offsets->dim(0); ++i) {
    longest = std::max<int64_t>(longest, static_cast<int64_t>(at(i)) - at(i - 1));
  }
  return longest;
}

// Gives free symbols their sizes. `complete`: every size has a value now, check them all.
absl::Status Binder::Unify(const Port& port, const Tensor& tensor,
                           const std::vector<Expression>& shape, bool complete) {
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    const int64_t given = tensor.shape()[axis];
    const std::optional<Expression::Linear> linear = shape[axis].AsLinear();
    int64_t expected;
    if (linear && FindDerived(linear->symbol) == nullptr &&
        !form_.attributes.contains(linear->symbol) && !form_.dims.contains(linear->symbol)) {
      if (linear->symbol == "M" && port.name != "cu_seqlens") {
        if (complete) return absl::InternalError("M has no size");
        continue;
      }
      if (given - linear->offset >= 0) {
        form_.dims.Set(linear->symbol, given - linear->offset);
        bound_by_.Set(linear->symbol, port.name);
        continue;
      }
      expected = linear->offset;
    } else {
      const absl::StatusOr<int64_t> size = shape[axis].EvaluateInt(*this);
      if (!size.ok()) {
        if (!complete) continue;  // Waits for derived sizes.
        return Error(port.name, absl::StrCat("given ", ToString(tensor.shape()), ", expected ",
                                             AfterColon(port.text), ": ", size.status().message()));
      }
      expected = *size;
    }
    if (given == expected) continue;
    std::vector<std::string> names;
    for (const Expression& size : shape) {
      for (const std::string& name : size.Names()) names.push_back(name);
    }
    const std::string values = Values(std::move(names));
    return Error(port.name,
                 absl::StrCat("given ", ToString(tensor.shape()), ", expected ",
                              AfterColon(port.text), values.empty() ? "" : " with ", values));
  }
  return absl::OkStatus();
}

absl::Status Binder::BindPort(const Port& port, const Tensor& tensor) {
  absl::Status last = Error(port.name, absl::StrCat("given ", ToString(tensor.shape()),
                                                    ", expected ", AfterColon(port.text)));
  for (size_t i = 0; i < port.shapes.size(); ++i) {
    if (port.shapes[i].size() != static_cast<size_t>(tensor.rank())) continue;
    const Named<int64_t> before = form_.dims;
    const Named<std::string> sources = bound_by_;
    absl::Status status = Unify(port, tensor, port.shapes[i], /*complete=*/false);
    if (status.ok()) {
      if (i != 0) form_.alternatives.Set(port.name, static_cast<int>(i));
      return status;
    }
    last = status;
    form_.dims = before;
    bound_by_ = sources;
  }
  return last;
}

absl::Status Binder::BindSizes() {
  // M first: states are sized by it. Required inputs before optional ones, so that errors blame the
  // latter.
  for (int round = 0; round < 3; ++round) {
    for (const Port& port : spec_.inputs()) {
      const Tensor* tensor = request_->inputs.Find(port.name);
      if (tensor == nullptr) continue;
      const int turn = port.name == "cu_seqlens" ? 0 : port.optional ? 2 : 1;
      if (turn != round) continue;
      if (absl::Status s = BindPort(port, *tensor); !s.ok()) return s;
    }
    if (round >= 1 && !form_.dims.contains("M") && form_.dims.contains("B")) {
      form_.dims.Set("M", *form_.dims.Find("B"));
      bound_by_.Set("M", "the batch");
    }
  }
  // What an absent input would have held has size zero.
  for (absl::string_view symbol :
       absl::StrSplit(spec_.text().may_be_zero, ' ', absl::SkipEmpty())) {
    if (!form_.dims.contains(symbol)) form_.dims.Set(symbol, 0);
  }
  return absl::OkStatus();
}

absl::Status Binder::BindDerived() {
  if (spec_.reads_longest() && request_ != nullptr && form_.dims.contains("T")) {
    // Offsets that are none are refused later: sizes must not be absurd before that.
    const int64_t longest = LongestSequence(*request_), tokens = *form_.dims.Find("T");
    form_.dims.Set("LT", longest < 0 ? tokens : std::min(longest, tokens));
  }
  for (const Derived& derived : spec_.derived()) {
    absl::StatusOr<int64_t> size = derived.value.EvaluateInt(*this);
    if (!size.ok()) {
      // A size that hangs on an absent input; whatever needs it will say so.
      if (absl::IsFailedPrecondition(size.status())) continue;
      return Error(derived.symbol,
                   absl::StrCat("given ", Values(derived.value.Names()), ", expected a size from ",
                                derived.value.text(), ": ", size.status().message()));
    }
    form_.dims.Set(derived.symbol, *size);
  }
  return absl::OkStatus();
}

absl::Status Binder::CheckComputedSizes() {
  for (const Port& port : spec_.inputs()) {
    const Tensor* tensor = request_->inputs.Find(port.name);
    if (tensor == nullptr) continue;
    const int* alternative = form_.alternatives.Find(port.name);
    const auto& shape = port.shapes[static_cast<size_t>(alternative != nullptr ? *alternative : 0)];
    if (absl::Status s = Unify(port, *tensor, shape, /*complete=*/true); !s.ok()) return s;
  }
  return absl::OkStatus();
}

absl::Status Binder::CheckZeroSizes() const {
  for (const auto& [symbol, size] : form_.dims) {
    if (size > 0 || spec_.MayBeZero(symbol) || FindDerived(symbol) != nullptr) continue;
    const std::string* source = bound_by_.Find(symbol);
    return Error(source != nullptr ? *source : symbol,
                 absl::StrCat("given a size of ", size, " for ", symbol, ", expected at least 1"));
  }
  return absl::OkStatus();
}

}  // namespace attnd
