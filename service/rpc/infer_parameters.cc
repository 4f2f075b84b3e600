#include "service/rpc/infer_parameters.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "nlohmann/json.hpp"
#include "service/rpc/wire_tensor.h"

namespace attnd {
namespace {

using inference::InferParameter;

// Longest JSON text of a list: some ten thousand numbers.
constexpr size_t kMaxJson = 128 << 10;

bool IsList(AttrType type) {
  return type == AttrType::kBoolList || type == AttrType::kIntList || type == AttrType::kFloatList;
}

absl::StatusOr<AttrValue> DecodeAttribute(absl::string_view op, absl::string_view name,
                                          const AttrSpec* attribute, const InferParameter& value) {
  switch (value.parameter_choice_case()) {
    case InferParameter::kBoolParam:
      return AttrValue(value.bool_param());
    case InferParameter::kDoubleParam:
      return AttrValue(value.double_param());
    case InferParameter::kInt64Param:
    case InferParameter::kUint64Param:
      if (const std::optional<int64_t> integer = IntegerOf(value)) return AttrValue(*integer);
      return Refusal(op, name, Given(value), "an integer below 2^63");
    case InferParameter::kStringParam:
      if (attribute != nullptr && IsList(attribute->type)) {
        return ParseJsonList(op, name, value.string_param());
      }
      return AttrValue(value.string_param());
    case InferParameter::PARAMETER_CHOICE_NOT_SET:
      break;
  }
  return Refusal(op, name, "no value", "bool, int64, double or string");
}

// Reads the reserved names.
class Reserved {
 public:
  Reserved(absl::string_view op, ReservedParameters& out) : op_(op), out_(out) {}

  // nullopt: the name is not reserved.
  std::optional<absl::Status> Read(absl::string_view name, const InferParameter& value) {
    if (name == "sequence_id") return ReadSequenceId(value);
    if (name == "sequence_start") return ReadBool(name, value, out_.sequence.start);
    if (name == "sequence_end") return ReadBool(name, value, out_.sequence.end);
    if (name == "priority") return ReadPriority(value);
    if (name == "timeout") return ReadTimeout(value);
    if (name == "attnd_kernel" || name == "kernel") return ReadKernel(name, value);
    if (name == "triton_enable_empty_final_response") {
      bool ignored;  // Every answer is marked as the last one; there is no empty one after it.
      return ReadBool(name, value, ignored);
    }
    if (absl::StartsWith(name, "triton_") || absl::StartsWith(name, "attnd_")) {
      return Refusal(op_, name, Given(value), "no other parameter that starts so: it is reserved");
    }
    return std::nullopt;
  }

 private:
  absl::Status ReadBool(absl::string_view name, const InferParameter& value, bool& out) {
    if (value.parameter_choice_case() != InferParameter::kBoolParam) {
      return Refusal(op_, name, Given(value), "a bool");
    }
    out = value.bool_param();
    return absl::OkStatus();
  }

  // 0 and "" mean that the call belongs to no sequence. Numbers and texts are different ids.
  absl::Status ReadSequenceId(const InferParameter& value) {
    if (value.parameter_choice_case() == InferParameter::kStringParam) {
      constexpr size_t kMaxId = 128;
      if (value.string_param().size() > kMaxId) {
        return Refusal(op_, "sequence_id", Given(value),
                       absl::StrCat("at most ", kMaxId, " bytes"));
      }
      if (!value.string_param().empty()) {
        out_.sequence.id = absl::StrCat("'", value.string_param(), "'");
      }
      return absl::OkStatus();
    }
    if (value.parameter_choice_case() == InferParameter::kUint64Param) {
      if (value.uint64_param() != 0) out_.sequence.id = absl::StrCat(value.uint64_param());
      return absl::OkStatus();
    }
    const std::optional<int64_t> integer = IntegerOf(value);
    if (!integer) return Refusal(op_, "sequence_id", Given(value), "an integer or a string");
    if (*integer != 0) out_.sequence.id = absl::StrCat(*integer);
    return absl::OkStatus();
  }

  // The standard's clients count from 1, the highest; 0 is the default, which is the lowest here.
  absl::Status ReadPriority(const InferParameter& value) {
    const std::optional<int64_t> level = IntegerOf(value);
    if (!level || *level < 0) {
      return Refusal(op_, "priority", Given(value), "an integer: 1 is highest, 0 the default");
    }
    out_.priority = *level == 1 ? 2 : *level == 2 ? 1 : 0;
    return absl::OkStatus();
  }

  absl::Status ReadTimeout(const InferParameter& value) {
    const std::optional<int64_t> microseconds = IntegerOf(value);
    if (!microseconds || *microseconds < 0) {
      return Refusal(op_, "timeout", Given(value), "microseconds, 0 for none");
    }
    if (*microseconds > 0) out_.deadline = absl::Now() + absl::Microseconds(*microseconds);
    return absl::OkStatus();
  }

  absl::Status ReadKernel(absl::string_view name, const InferParameter& value) {
    if (value.parameter_choice_case() != InferParameter::kStringParam) {
      return Refusal(op_, name, Given(value), "a string: 'composed' or a kernel's name");
    }
    if (absl::Status s = CheckText(op_, name, value.string_param()); !s.ok()) return s;
    std::string& kernel = out_.kernel;
    if (!kernel.empty() && kernel != value.string_param()) {
      return Refusal(op_, name, Given(value),
                     "one kernel: attnd_kernel and kernel mean the same and differ");
    }
    kernel = value.string_param();
    return absl::OkStatus();
  }

  const absl::string_view op_;
  ReservedParameters& out_;
};

}  // namespace

std::string Given(const InferParameter& value) {
  switch (value.parameter_choice_case()) {
    case InferParameter::kBoolParam:
      return value.bool_param() ? "true" : "false";
    case InferParameter::kInt64Param:
      return absl::StrCat(value.int64_param());
    case InferParameter::kUint64Param:
      return absl::StrCat(value.uint64_param());
    case InferParameter::kDoubleParam:
      return absl::StrCat(value.double_param());
    case InferParameter::kStringParam:
      return absl::StrCat("'", Quoted(value.string_param()), "'");
    case InferParameter::PARAMETER_CHOICE_NOT_SET:
      break;
  }
  return "no value";
}

std::optional<int64_t> IntegerOf(const InferParameter& value) {
  if (value.parameter_choice_case() == InferParameter::kInt64Param) return value.int64_param();
  if (value.parameter_choice_case() == InferParameter::kUint64Param &&
      value.uint64_param() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return static_cast<int64_t>(value.uint64_param());
  }
  return std::nullopt;
}

std::optional<absl::Status> ReadReserved(absl::string_view op, absl::string_view name,
                                         const InferParameter& value, ReservedParameters& out) {
  return Reserved(op, out).Read(name, value);
}

absl::Status DecodeParameters(const OpSpec& spec, const InferParameters& parameters,
                              InferCall& call) {
  const std::string& op = spec.id();
  if (absl::Status s =
          CheckCount(op, "parameters", static_cast<int64_t>(parameters.size()), kMaxAttributes);
      !s.ok()) {
    return s;
  }
  ReservedParameters reserved;
  for (const auto& [name, value] : parameters) {
    if (absl::Status s = CheckName(op, "parameter", name); !s.ok()) return s;
    const AttrSpec* attribute = spec.FindAttribute(name);
    if (attribute == nullptr) {
      if (const auto read = ReadReserved(op, name, value, reserved)) {
        if (!read->ok()) return *read;
        continue;
      }
    }
    absl::StatusOr<AttrValue> decoded = DecodeAttribute(op, name, attribute, value);
    if (!decoded.ok()) return decoded.status();
    call.call.request.attributes.Set(name, *std::move(decoded));
  }
  call.sequence = reserved.sequence;
  call.call.priority = reserved.priority;
  call.call.deadline = reserved.deadline;
  call.call.request.kernel = reserved.kernel;
  return absl::OkStatus();
}

absl::StatusOr<AttrValue> ParseJsonList(absl::string_view op, absl::string_view name,
                                        absl::string_view text) {
  const auto refuse = [&] {
    return Refusal(op, name, absl::StrCat("'", Quoted(text), "'"),
                   "a list as JSON text, numbers or bools: '[7, 7]', or '[7]' for one, which may "
                   "also be a parameter of type int64, double or bool");
  };
  if (text.size() > kMaxJson) {
    return Refusal(op, name, absl::StrCat(text.size(), " bytes of JSON"),
                   absl::StrCat("at most ", kMaxJson));
  }
  // A list of scalars opens one bracket; anything deeper is not parsed at all.
  if (std::count_if(text.begin(), text.end(), [](char c) { return c == '[' || c == '{'; }) != 1) {
    return refuse();
  }
  const nlohmann::json list =
      nlohmann::json::parse(text.begin(), text.end(), nullptr, /*allow_exceptions=*/false);
  if (!list.is_array()) return refuse();
  const auto all = [&list](auto predicate) {
    return std::all_of(list.begin(), list.end(), predicate);
  };
  const auto is_int64 = [](const nlohmann::json& item) {
    return item.is_number_integer() &&
           (!item.is_number_unsigned() ||
            item.get<uint64_t>() <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max()));
  };
  if (all(is_int64)) return AttrValue(list.get<std::vector<int64_t>>());
  if (all([](const nlohmann::json& item) { return item.is_boolean(); })) {
    return AttrValue(list.get<std::vector<bool>>());
  }
  if (all([](const nlohmann::json& item) { return item.is_number(); })) {
    return AttrValue(list.get<std::vector<double>>());
  }
  return refuse();
}

}  // namespace attnd
