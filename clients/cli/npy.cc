#include "clients/cli/npy.h"

#include <array>
#include <cctype>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"

namespace attnd::cli {
namespace {

using client::DType;
using client::Tensor;

constexpr absl::string_view kMagic("\x93NUMPY", 6);

struct Descriptor {
  absl::string_view text;
  DType dtype;
};

// The first of a type is the one written.
constexpr std::array<Descriptor, 8> kDescriptors = {{{"|b1", v1::BOOL},
                                                     {"<i4", v1::INT32},
                                                     {"<i8", v1::INT64},
                                                     {"<f2", v1::FLOAT16},
                                                     {"<V2", v1::BFLOAT16},
                                                     {"<f4", v1::FLOAT32},
                                                     {"<f8", v1::FLOAT64},
                                                     {"|V2", v1::BFLOAT16}}};

absl::Status Bad(absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("npy: ", what));
}

// The header: a Python dictionary with string, bool and tuple values.
class HeaderParser {
 public:
  explicit HeaderParser(absl::string_view text) : rest_(text) {}

  absl::StatusOr<Tensor> Parse() {
    Tensor tensor;
    bool descr = false, order = false, shape = false;
    if (!Take('{')) return Bad("the header is no dictionary");
    while (!Take('}')) {
      const auto key = String();
      if (!key || !Take(':')) return Bad("the header's keys are not readable");
      absl::Status status = absl::OkStatus();
      if (*key == "descr") {
        descr = true;
        status = ReadType(tensor);
      } else if (*key == "fortran_order") {
        order = true;
        status = ReadOrder();
      } else if (*key == "shape") {
        shape = true;
        status = ReadShape(tensor);
      } else {
        status = Bad(absl::StrCat("the header holds an unknown key \"", *key, "\""));
      }
      if (!status.ok()) return status;
      if (!Take(',') && !Peek('}')) return Bad("the header's entries are not separated");
    }
    if (!descr || !order || !shape) {
      return Bad("the header lacks descr, fortran_order or shape");
    }
    return tensor;
  }

 private:
  void SkipSpace() {
    while (!rest_.empty() && std::isspace(static_cast<unsigned char>(rest_[0]))) {
      rest_.remove_prefix(1);
    }
  }
  bool Peek(char c) {
    SkipSpace();
    return !rest_.empty() && rest_[0] == c;
  }
  bool Take(char c) {
    if (!Peek(c)) return false;
    rest_.remove_prefix(1);
    return true;
  }
  std::optional<absl::string_view> String() {
    SkipSpace();
    if (rest_.empty() || (rest_[0] != '\'' && rest_[0] != '"')) return std::nullopt;
    const size_t end = rest_.find(rest_[0], 1);
    if (end == absl::string_view::npos) return std::nullopt;
    const absl::string_view text = rest_.substr(1, end - 1);
    rest_.remove_prefix(end + 1);
    return text;
  }

  absl::Status ReadType(Tensor& tensor) {
    const auto text = String();
    if (!text) return Bad("given a structured type, expected a plain one");
    for (const Descriptor& descriptor : kDescriptors) {
      if (descriptor.text == *text) {
        tensor.dtype = descriptor.dtype;
        return absl::OkStatus();
      }
    }
    return Bad(absl::StrCat(
        "given elements of type ", *text, ", expected ",
        absl::StrJoin(kDescriptors, " ", [](std::string* out, const Descriptor& descriptor) {
          absl::StrAppend(out, descriptor.text);
        })));
  }

  absl::Status ReadOrder() {
    SkipSpace();
    if (absl::ConsumePrefix(&rest_, "False")) return absl::OkStatus();
    if (absl::ConsumePrefix(&rest_, "True")) {
      return Bad("given a column-major array, expected a row-major one (numpy.ascontiguousarray)");
    }
    return Bad("fortran_order is neither True nor False");
  }

  absl::Status ReadShape(Tensor& tensor) {
    if (!Take('(')) return Bad("the shape is no tuple");
    while (!Take(')')) {
      SkipSpace();
      size_t digits = 0;
      while (digits < rest_.size() && std::isdigit(static_cast<unsigned char>(rest_[digits]))) {
        ++digits;
      }
      int64_t size;
      if (!absl::SimpleAtoi(rest_.substr(0, digits), &size)) {
        return Bad("the shape holds something that is no size");
      }
      rest_.remove_prefix(digits);
      tensor.shape.push_back(size);
      if (!Take(',') && !Peek(')')) return Bad("the shape's sizes are not separated");
    }
    return absl::OkStatus();
  }

  absl::string_view rest_;
};

}  // namespace

absl::StatusOr<Tensor> ParseNpy(absl::string_view file) {
  if (!absl::ConsumePrefix(&file, kMagic) || file.size() < 4) return Bad("not a .npy file");
  const auto byte = [&](size_t i) { return static_cast<uint32_t>(static_cast<uint8_t>(file[i])); };
  const uint32_t version = byte(0);
  if (version < 1 || version > 3) {
    return Bad(absl::StrCat("given version ", version, ", expected 1, 2 or 3"));
  }
  size_t length = byte(2) | byte(3) << 8;
  size_t begin = 4;
  if (version > 1) {
    if (file.size() < 6) return Bad("the file ends in its header");
    length |= byte(4) << 16 | byte(5) << 24;
    begin = 6;
  }
  if (length > file.size() - begin) return Bad("the file ends in its header");
  auto tensor = HeaderParser(file.substr(begin, length)).Parse();
  if (!tensor.ok()) return tensor;
  file.remove_prefix(begin + length);
  const auto bytes = client::ByteSize(tensor->dtype, tensor->shape);
  if (!bytes.ok()) return Bad(bytes.status().message());
  if (file.size() != static_cast<size_t>(*bytes)) {
    return Bad(absl::StrCat(tensor->DebugString(), " has ", *bytes, " bytes, given ", file.size()));
  }
  tensor->bytes = std::string(file);
  return tensor;
}

std::string FormatNpy(const Tensor& tensor) {
  absl::string_view type;
  for (const Descriptor& descriptor : kDescriptors) {
    if (descriptor.dtype == tensor.dtype && type.empty()) type = descriptor.text;
  }
  std::string header =
      absl::StrCat("{'descr': '", type, "', 'fortran_order': False, 'shape': (",
                   absl::StrJoin(tensor.shape, ", "), tensor.shape.size() == 1 ? ",)" : ")", ", }");
  // Data starts at a multiple of 64 bytes; the header ends in a newline. Rank 8 keeps it below
  // 2^16.
  constexpr size_t kPrefix = 10;
  header.append(63 - (kPrefix + header.size()) % 64, ' ');
  header += '\n';
  const std::string prefix = {1, 0, static_cast<char>(header.size() & 0xff),
                              static_cast<char>(header.size() >> 8)};
  return absl::StrCat(kMagic, prefix, header, tensor.bytes);
}

}  // namespace attnd::cli
