#include "service/rpc/wire_tensor.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/primitives/cpu/primitives_cpu.h"

namespace attnd {
namespace {

constexpr int64_t kMaxSize = std::numeric_limits<int32_t>::max();
constexpr int64_t kMaxElements = int64_t{1} << 40;

bool IsNameChar(char c) { return absl::ascii_isalnum(c) || c == '_' || c == '-' || c == '.'; }

}  // namespace

absl::Status Refusal(absl::string_view op, absl::string_view subject, absl::string_view given,
                     absl::string_view expected) {
  return absl::InvalidArgumentError(
      absl::StrCat(op, ": ", subject, ": given ", given, ", expected ", expected));
}

std::string Quoted(absl::string_view text) {
  constexpr size_t kShown = 64;
  if (text.size() <= kShown) return absl::CEscape(text);
  return absl::StrCat(absl::CEscape(text.substr(0, kShown)), "... (", text.size(), " bytes)");
}

absl::Status CheckName(absl::string_view op, absl::string_view kind, absl::string_view name) {
  if (!name.empty() && name.size() <= kMaxNameLength &&
      std::all_of(name.begin(), name.end(), IsNameChar)) {
    return absl::OkStatus();
  }
  return Refusal(op, kind, absl::StrCat("the name '", Quoted(name), "'"),
                 absl::StrCat("1 to ", kMaxNameLength, " letters, digits, '_', '-' or '.'"));
}

absl::Status CheckText(absl::string_view op, absl::string_view subject, absl::string_view text) {
  if (text.size() <= kMaxNameLength) return absl::OkStatus();
  return Refusal(op, subject, absl::StrCat(text.size(), " bytes"),
                 absl::StrCat("at most ", kMaxNameLength));
}

absl::Status CheckCount(absl::string_view op, absl::string_view what, int64_t given,
                        int64_t limit) {
  if (given <= limit) return absl::OkStatus();
  return Refusal(op, what, absl::StrCat(given), absl::StrCat("at most ", limit));
}

absl::StatusOr<int64_t> CheckedTensorBytes(absl::string_view op, absl::string_view name,
                                           DType dtype, absl::Span<const int64_t> shape) {
  if (shape.size() > kMaxRank) {
    return Refusal(op, name, absl::StrCat("rank ", shape.size()),
                   absl::StrCat("at most ", kMaxRank));
  }
  for (int64_t size : shape) {
    if (size < 0 || size > kMaxSize) {
      return Refusal(op, name, absl::StrCat("shape ", ToString(shape)),
                     absl::StrCat("sizes from 0 to ", kMaxSize));
    }
  }
  const absl::StatusOr<int64_t> elements = CheckedElementCount(shape);
  if (!elements.ok() || *elements > kMaxElements) {
    return Refusal(op, name, absl::StrCat("shape ", ToString(shape)),
                   absl::StrCat("at most ", kMaxElements, " elements"));
  }
  return *elements * static_cast<int64_t>(SizeOf(dtype));
}

absl::StatusOr<Tensor> ViewTensor(absl::string_view op, absl::string_view name, DType dtype,
                                  absl::Span<const int64_t> shape, absl::string_view bytes,
                                  std::shared_ptr<const void> owner) {
  const absl::StatusOr<int64_t> expected = CheckedTensorBytes(op, name, dtype, shape);
  if (!expected.ok()) return expected.status();
  if (static_cast<int64_t>(bytes.size()) != *expected) {
    return Refusal(op, name, absl::StrCat(bytes.size(), " bytes"),
                   absl::StrCat(*expected, " for ", Name(dtype), ToString(shape)));
  }
  // Inputs are only read; a tensor has no notion of that.
  Tensor tensor(const_cast<char*>(bytes.data()), dtype, Dims(shape.begin(), shape.end()),
                Device::kCpu, std::move(owner));
  if (absl::Status s = CheckBools(op, name, tensor); !s.ok()) return s;
  return tensor;
}

absl::Status CheckBools(absl::string_view op, absl::string_view name, const Tensor& tensor) {
  if (tensor.dtype() != DType::kBool) return absl::OkStatus();
  const uint8_t* begin = tensor.data<uint8_t>();
  const uint8_t* end = begin + tensor.num_elements();
  const uint8_t* wrong = std::find_if(begin, end, [](uint8_t byte) { return byte > 1; });
  if (wrong == end) return absl::OkStatus();
  return Refusal(op, name, absl::StrCat("the byte ", *wrong, " at ", wrong - begin),
                 "bools as bytes 0 or 1");
}

absl::StatusOr<Tensor> Contiguous(const Tensor& tensor) {
  if (tensor.is_contiguous()) return tensor;
  absl::StatusOr<Tensor> copy = AllocateHost(tensor.dtype(), tensor.shape());
  if (copy.ok()) cpu::Copy(tensor, *copy);
  return copy;
}

}  // namespace attnd
