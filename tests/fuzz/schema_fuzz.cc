// Arbitrary text as an expression and as a schema; whatever parses is put to all its uses. A line
// of a schema begins with what it is:
//   i, o, a, d, r   input, output, attribute, derived symbol, rule
//   z               symbols whose size may be zero
//   p               packed by sequence
//   s SYMBOL SIZE   a size of the random call
//   t NAME SIZE...  an input of a call by hand, float32
#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "kernels/core/batch.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"

namespace attnd {
namespace {

constexpr int64_t kMostElements = 4096;

// Every name means something, so that evaluation gets as far as it can.
class AnyEnvironment final : public Environment {
 public:
  std::optional<AttrValue> Lookup(absl::string_view name) const override {
    switch (name.front() % 6) {
      case 0:
        return AttrValue(std::numeric_limits<int64_t>::min());
      case 1:
        return AttrValue(std::numeric_limits<int64_t>::max());
      case 2:
        return AttrValue(0.5);
      case 3:
        return AttrValue(std::string("relu"));
      case 4:
        return std::nullopt;
      default:
        return AttrValue(int64_t{3});
    }
  }
  bool Has(absl::string_view name) const override { return name.size() % 2 == 0; }
};

void TryExpression(absl::string_view text) {
  const absl::StatusOr<Expression> parsed = Expression::Parse(text);
  if (!parsed.ok()) return;
  (void)parsed->Names();
  (void)parsed->AsLinear();
  const AnyEnvironment environment;
  (void)parsed->EvaluateInt(environment);
  (void)parsed->EvaluateBool(environment);
  // The kept text means the same.
  const absl::StatusOr<Expression> again = Expression::Parse(parsed->text());
  if (!again.ok() || again->Names() != parsed->Names()) std::abort();
}

struct Script {
  SchemaText text;
  RandomOptions options;
  CallRequest request;
};

void ReadTensor(absl::string_view line, Script& script) {
  const std::vector<std::string> words = absl::StrSplit(line, ' ');
  Dims shape;
  int64_t elements = 1, size = 0;
  for (size_t i = 1; i < words.size(); ++i) {
    if (!absl::SimpleAtoi(words[i], &size) || size < 0) return;
    if (__builtin_mul_overflow(elements, size, &elements) || elements > kMostElements) return;
    shape.push_back(size);
  }
  const absl::StatusOr<Tensor> tensor = AllocateHost(DType::kFloat32, shape);
  if (tensor.ok()) script.request.inputs.Set(words[0], *tensor);
}

Script ReadScript(absl::string_view bytes) {
  Script script;
  script.text.id = "fuzz";
  script.text.core = "softmax";
  script.text.packed_by_sequence = false;
  script.options.max_bytes = int64_t{1} << 14;
  for (absl::string_view line : absl::StrSplit(bytes, '\n')) {
    if (line.size() < 2) continue;
    const absl::string_view rest = line.substr(2);
    switch (line.front()) {
      case 'i':
        script.text.inputs.emplace_back(rest);
        break;
      case 'o':
        script.text.outputs.emplace_back(rest);
        break;
      case 'a':
        script.text.attributes.emplace_back(rest);
        break;
      case 'd':
        script.text.derived.emplace_back(rest);
        break;
      case 'r':
        script.text.rules.emplace_back(rest);
        break;
      case 'z':
        script.text.may_be_zero = std::string(rest);
        break;
      case 'p':
        script.text.packed_by_sequence = true;
        break;
      case 's': {
        const std::vector<absl::string_view> words = absl::StrSplit(rest, ' ');
        int64_t size = 0;
        if (words.size() == 2 && absl::SimpleAtoi(words[1], &size)) {
          script.options.dims.Set(words[0], size);
        }
        break;
      }
      case 't':
        ReadTensor(rest, script);
        break;
      default:
        TryExpression(rest);
    }
  }
  return script;
}

void TryCall(const OpSpec& spec, const CallRequest& request) {
  const absl::StatusOr<BoundCall> call = Bind(spec, request);
  if (!call.ok()) return;
  const std::string key = BatchKey(*call, "");
  // A second call of the same form takes the short way, to the same end.
  const absl::StatusOr<BoundCall> again = Bind(spec, request);
  if (!again.ok() || BatchKey(*again, "") != key) std::abort();
  if (!key.empty()) {
    const std::vector<const BoundCall*> both = {&*call, &*again};
    (void)Pack(both);
  }
}

void TrySchema(absl::string_view bytes) {
  Script script = ReadScript(bytes);
  absl::StatusOr<OpSpec> spec = OpSpec::Parse(script.text);
  if (!spec.ok()) return;
  TryCall(*spec, script.request);
  const Operator op{.spec = *std::move(spec)};
  script.options.seed = bytes.size();
  script.options.random_attributes = bytes.size() % 2 == 0;
  const absl::StatusOr<CallRequest> drawn = RandomCall(op, script.options);
  if (drawn.ok()) TryCall(op.spec, *drawn);
}

}  // namespace
}  // namespace attnd

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const absl::string_view bytes(reinterpret_cast<const char*>(data), size);
  attnd::TryExpression(bytes);
  attnd::TrySchema(bytes);
  return 0;
}
