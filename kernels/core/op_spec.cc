#include "kernels/core/op_spec.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "kernels/core/form_cache.h"

namespace attnd {
namespace {

constexpr size_t kMaxLine = 4096;
constexpr size_t kMaxPorts = 32;
constexpr size_t kMaxAttributes = 64;

constexpr std::array<absl::string_view, 6> kPortTypes = {"float", "float32", "int",
                                                         "int32", "int64",   "bool"};
constexpr std::array<absl::string_view, 7> kAttrTypes = {"bool",   "int",   "float",  "string",
                                                         "bool[]", "int[]", "float[]"};
constexpr std::array<absl::string_view, 8> kDistributions = {
    "normal", "unit", "logdecay", "probability", "positive", "small", "bernoulli", "slopes"};

bool IsIdentifier(absl::string_view text) {
  if (text.empty() || text.size() > 64 ||
      absl::ascii_isdigit(static_cast<unsigned char>(text[0]))) {
    return false;
  }
  return std::all_of(text.begin(), text.end(), [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_';
  });
}

absl::Status Malformed(absl::string_view line, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat("schema line '", line.substr(0, 120), "': ", what));
}

// Splits at `separator` outside of brackets, braces, parentheses and strings.
std::vector<absl::string_view> SplitOutside(absl::string_view text, char separator) {
  std::vector<absl::string_view> parts;
  int depth = 0;
  bool quoted = false;
  size_t begin = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (c == '\'') quoted = !quoted;
    if (quoted) continue;
    if (c == '(' || c == '[' || c == '{') ++depth;
    if (c == ')' || c == ']' || c == '}') --depth;
    if (c == separator && depth == 0) {
      parts.push_back(text.substr(begin, i - begin));
      begin = i + 1;
    }
  }
  parts.push_back(text.substr(begin));
  return parts;
}

// Cuts off "# ..." (outside strings) and returns it without the mark.
std::string TakeDoc(absl::string_view& line) {
  const std::vector<absl::string_view> parts = SplitOutside(line, '#');
  if (parts.size() < 2) return "";
  std::string doc(
      absl::StripAsciiWhitespace(line.substr(static_cast<size_t>(parts[1].data() - line.data()))));
  line = parts[0];
  return doc;
}

absl::Status CheckLine(absl::string_view line) {
  if (line.size() > kMaxLine) return Malformed(line, "longer than 4096 characters");
  return absl::OkStatus();
}

// "[B,T,H,K]" -> its sizes.
absl::StatusOr<std::vector<Expression>> ParseShape(absl::string_view line, absl::string_view text) {
  text = absl::StripAsciiWhitespace(text);
  if (!absl::ConsumePrefix(&text, "[") || !absl::ConsumeSuffix(&text, "]")) {
    return Malformed(line, "a shape is written [..]");
  }
  std::vector<Expression> shape;
  if (absl::StripAsciiWhitespace(text).empty()) return shape;
  for (absl::string_view size : SplitOutside(text, ',')) {
    absl::StatusOr<Expression> expression = Expression::Parse(size);
    if (!expression.ok()) return Malformed(line, expression.status().message());
    shape.push_back(*std::move(expression));
  }
  if (shape.size() > 8) return Malformed(line, "rank above 8");
  return shape;
}

absl::StatusOr<Port> ParsePort(absl::string_view line) {
  if (absl::Status s = CheckLine(line); !s.ok()) return s;
  const absl::string_view whole = line;
  Port port;
  port.doc = TakeDoc(line);
  const std::vector<absl::string_view> halves = SplitOutside(line, '~');
  if (halves.size() > 2) return Malformed(whole, "two distributions");
  if (halves.size() == 2) {
    port.distribution = std::string(absl::StripAsciiWhitespace(halves[1]));
    if (std::find(kDistributions.begin(), kDistributions.end(), port.distribution) ==
        kDistributions.end()) {
      return Malformed(whole, absl::StrCat("unknown distribution '", port.distribution, "'"));
    }
  }
  absl::string_view rest = absl::StripAsciiWhitespace(halves[0]);
  port.text = std::string(rest);

  const size_t colon = rest.find(':');
  if (colon == absl::string_view::npos) return Malformed(whole, "expected name: type[dims]");
  port.name = std::string(absl::StripAsciiWhitespace(rest.substr(0, colon)));
  if (!IsIdentifier(port.name)) return Malformed(whole, "the name is not an identifier");
  rest = absl::StripAsciiWhitespace(rest.substr(colon + 1));

  const size_t bracket = rest.find('[');
  if (bracket == absl::string_view::npos) return Malformed(whole, "expected [dims]");
  const absl::string_view type = absl::StripAsciiWhitespace(rest.substr(0, bracket));
  const auto* known = std::find(kPortTypes.begin(), kPortTypes.end(), type);
  if (known == kPortTypes.end()) return Malformed(whole, absl::StrCat("unknown type '", type, "'"));
  port.type = static_cast<PortType>(known - kPortTypes.begin());
  rest = rest.substr(bracket);

  // What follows the last "]" that belongs to a shape: "?" and "if ...".
  size_t end = 0;
  int depth = 0;
  for (size_t i = 0; i < rest.size(); ++i) {
    if (rest[i] == '[') ++depth;
    if (rest[i] == ']' && --depth == 0) {
      end = i + 1;
      absl::string_view after = absl::StripLeadingAsciiWhitespace(rest.substr(end));
      if (after.empty() || after[0] != '|') break;
    }
  }
  if (end == 0) return Malformed(whole, "unfinished shape");
  for (absl::string_view shape : SplitOutside(rest.substr(0, end), '|')) {
    absl::StatusOr<std::vector<Expression>> parsed = ParseShape(whole, shape);
    if (!parsed.ok()) return parsed.status();
    port.shapes.push_back(*std::move(parsed));
  }
  rest = absl::StripAsciiWhitespace(rest.substr(end));
  port.optional = absl::ConsumePrefix(&rest, "?");
  rest = absl::StripAsciiWhitespace(rest);
  if (rest.empty()) return port;
  if (!absl::ConsumePrefix(&rest, "if ")) return Malformed(whole, "expected '?' or 'if'");
  absl::StatusOr<Expression> condition = Expression::Parse(rest);
  if (!condition.ok()) return Malformed(whole, condition.status().message());
  port.condition = *std::move(condition);
  return port;
}

// "[1, 2]" of an attribute's default.
absl::StatusOr<AttrValue> ParseList(absl::string_view line, AttrType type, absl::string_view text) {
  if (!absl::ConsumePrefix(&text, "[") || !absl::ConsumeSuffix(&text, "]")) {
    return Malformed(line, "a list is written [..]");
  }
  std::vector<bool> bools;
  std::vector<int64_t> integers;
  std::vector<double> reals;
  for (absl::string_view entry : absl::StrSplit(text, ',', absl::SkipWhitespace())) {
    entry = absl::StripAsciiWhitespace(entry);
    int64_t integer = 0;
    double real = 0;
    bool ok = false;
    if (type == AttrType::kBoolList) ok = entry == "true" || entry == "false";
    if (type == AttrType::kIntList) ok = absl::SimpleAtoi(entry, &integer);
    if (type == AttrType::kFloatList) ok = absl::SimpleAtod(entry, &real);
    if (!ok) return Malformed(line, absl::StrCat("'", entry, "' is not of type ", Name(type)));
    bools.push_back(entry == "true");
    integers.push_back(integer);
    reals.push_back(real);
  }
  if (type == AttrType::kBoolList) return AttrValue(std::move(bools));
  if (type == AttrType::kIntList) return AttrValue(std::move(integers));
  return AttrValue(std::move(reals));
}

bool IsList(AttrType type) { return type >= AttrType::kBoolList; }

// Reads trailing ">= 1", "< 0" from the back of `rest`.
absl::Status TakeBounds(absl::string_view line, absl::string_view& rest, AttrSpec& attr) {
  for (;;) {
    const size_t at = rest.find_last_of("<>");
    if (at == absl::string_view::npos) return absl::OkStatus();
    absl::string_view number = rest.substr(at + 1);
    std::string comparison(1, rest[at]);
    if (absl::ConsumePrefix(&number, "=")) comparison += '=';
    double value;
    if (!absl::SimpleAtod(absl::StripAsciiWhitespace(number), &value) || std::isnan(value)) {
      return Malformed(line, "a bound is a comparison and a number");
    }
    attr.bounds.insert(attr.bounds.begin(), AttrSpec::Bound{comparison, value});
    rest = absl::StripAsciiWhitespace(rest.substr(0, at));
  }
}

// "[axes]" after a scalar type makes it a list of that length.
absl::Status TakeLength(absl::string_view whole, absl::string_view& rest, AttrSpec& attr) {
  if (!absl::ConsumePrefix(&rest, "[")) return absl::OkStatus();
  const size_t close = rest.find(']');
  if (close == absl::string_view::npos) return Malformed(whole, "lacks ']'");
  absl::StatusOr<Expression> length = Expression::Parse(rest.substr(0, close));
  if (!length.ok()) return Malformed(whole, length.status().message());
  switch (attr.type) {
    case AttrType::kBool:
      attr.type = AttrType::kBoolList;
      break;
    case AttrType::kInt:
      attr.type = AttrType::kIntList;
      break;
    case AttrType::kFloat:
      attr.type = AttrType::kFloatList;
      break;
    default:
      return Malformed(whole, "a list is of bool, int or float");
  }
  attr.length = *std::move(length);
  rest.remove_prefix(close + 1);
  return absl::OkStatus();
}

absl::StatusOr<AttrSpec> ParseAttribute(absl::string_view line) {
  if (absl::Status s = CheckLine(line); !s.ok()) return s;
  const absl::string_view whole = line;
  AttrSpec attr;
  attr.doc = TakeDoc(line);
  absl::string_view rest = absl::StripAsciiWhitespace(line);
  attr.text = std::string(rest);
  const size_t colon = rest.find(':');
  if (colon == absl::string_view::npos) return Malformed(whole, "expected name: type");
  attr.name = std::string(absl::StripAsciiWhitespace(rest.substr(0, colon)));
  if (!IsIdentifier(attr.name)) return Malformed(whole, "the name is not an identifier");
  rest = absl::StripAsciiWhitespace(rest.substr(colon + 1));

  if (absl::ConsumePrefix(&rest, "{")) {
    const size_t close = rest.find('}');
    if (close == absl::string_view::npos) return Malformed(whole, "lacks '}'");
    attr.type = AttrType::kString;
    for (absl::string_view choice : absl::StrSplit(rest.substr(0, close), ',')) {
      choice = absl::StripAsciiWhitespace(choice);
      if (!IsIdentifier(choice)) return Malformed(whole, "a choice is not an identifier");
      attr.choices.emplace_back(choice);
    }
    rest = absl::StripAsciiWhitespace(rest.substr(close + 1));
  } else {
    // The longest type first: "int[]" before "int".
    bool found = false;
    for (size_t i = kAttrTypes.size(); i-- > 0 && !found;) {
      if (absl::ConsumePrefix(&rest, kAttrTypes[i])) {
        attr.type = static_cast<AttrType>(i);
        found = true;
      }
    }
    if (!found) return Malformed(whole, "unknown type");
    if (absl::Status s = TakeLength(whole, rest, attr); !s.ok()) return s;
    rest = absl::StripAsciiWhitespace(rest);
  }
  attr.optional = absl::ConsumePrefix(&rest, "?");
  rest = absl::StripAsciiWhitespace(rest);
  if (absl::Status s = TakeBounds(whole, rest, attr); !s.ok()) return s;
  if (rest.empty()) return attr;
  if (!absl::ConsumePrefix(&rest, "=")) return Malformed(whole, "expected '=' and a default");
  rest = absl::StripAsciiWhitespace(rest);
  if (attr.optional) return Malformed(whole, "an attribute with a default is not optional");
  if (IsList(attr.type)) {
    absl::StatusOr<AttrValue> list = ParseList(whole, attr.type, rest);
    if (!list.ok()) return list.status();
    attr.default_list = *std::move(list);
    return attr;
  }
  std::string text(rest);
  if (!attr.choices.empty()) {
    if (std::find(attr.choices.begin(), attr.choices.end(), text) == attr.choices.end()) {
      return Malformed(whole, "the default is not one of the choices");
    }
    text = absl::StrCat("'", text, "'");
  }
  absl::StatusOr<Expression> value = Expression::Parse(text);
  if (!value.ok()) return Malformed(whole, value.status().message());
  attr.default_value = *std::move(value);
  return attr;
}

template <typename T>
const T* FindNamed(const std::vector<T>& entries, absl::string_view name) {
  for (const T& entry : entries) {
    if (entry.name == name) return &entry;
  }
  return nullptr;
}

absl::StatusOr<std::vector<Port>> ParsePorts(const std::vector<std::string>& lines) {
  if (lines.size() > kMaxPorts) return absl::InvalidArgumentError("more than 32 ports");
  std::vector<Port> ports;
  for (const std::string& line : lines) {
    absl::StatusOr<Port> port = ParsePort(line);
    if (!port.ok()) return port.status();
    if (FindNamed(ports, port->name) != nullptr) return Malformed(line, "the name is taken");
    ports.push_back(*std::move(port));
  }
  return ports;
}

}  // namespace

absl::string_view Name(PortType type) { return kPortTypes[static_cast<size_t>(type)]; }
absl::string_view Name(AttrType type) { return kAttrTypes[static_cast<size_t>(type)]; }

int Port::AxisOf(absl::string_view symbol, int alternative) const {
  const std::vector<Expression>& shape = shapes[static_cast<size_t>(alternative)];
  for (size_t axis = 0; axis < shape.size(); ++axis) {
    if (shape[axis].text() == symbol) return static_cast<int>(axis);
  }
  return -1;
}

absl::StatusOr<OpSpec> OpSpec::Parse(const SchemaText& text) {
  OpSpec spec;
  spec.text_ = text;
  spec.forms_ = std::make_shared<FormCache>();
  const auto annotate = [&text](const absl::Status& status) {
    return absl::InvalidArgumentError(absl::StrCat(text.id, ": ", status.message()));
  };
  if (!IsIdentifier(text.id))
    return annotate(absl::InvalidArgumentError("id is not an identifier"));
  absl::StatusOr<std::vector<Port>> inputs = ParsePorts(text.inputs);
  if (!inputs.ok()) return annotate(inputs.status());
  spec.inputs_ = *std::move(inputs);
  absl::StatusOr<std::vector<Port>> outputs = ParsePorts(text.outputs);
  if (!outputs.ok()) return annotate(outputs.status());
  spec.outputs_ = *std::move(outputs);
  if (text.attributes.size() > kMaxAttributes) {
    return annotate(absl::InvalidArgumentError("more than 64 attributes"));
  }
  for (const std::string& line : text.attributes) {
    absl::StatusOr<AttrSpec> attr = ParseAttribute(line);
    if (!attr.ok()) return annotate(attr.status());
    if (FindNamed(spec.attributes_, attr->name) != nullptr || FindNamed(spec.inputs_, attr->name)) {
      return annotate(Malformed(line, "the name is taken"));
    }
    spec.attributes_.push_back(*std::move(attr));
  }
  for (const std::string& line : text.derived) {
    if (absl::Status s = CheckLine(line); !s.ok()) return annotate(s);
    const size_t equals = line.find('=');
    if (equals == std::string::npos)
      return annotate(Malformed(line, "expected symbol = expression"));
    const absl::string_view symbol =
        absl::StripAsciiWhitespace(absl::string_view(line).substr(0, equals));
    if (!IsIdentifier(symbol)) return annotate(Malformed(line, "the symbol is not an identifier"));
    absl::StatusOr<Expression> value =
        Expression::Parse(absl::string_view(line).substr(equals + 1));
    if (!value.ok()) return annotate(Malformed(line, value.status().message()));
    const std::vector<std::string> names = value->Names();
    spec.reads_longest_ |= std::find(names.begin(), names.end(), "LT") != names.end();
    spec.derived_.push_back(Derived{std::string(symbol), *std::move(value)});
  }
  for (const std::string& line : text.rules) {
    if (absl::Status s = CheckLine(line); !s.ok()) return annotate(s);
    absl::string_view condition = line;
    Rule rule;
    rule.sentence = TakeDoc(condition);
    absl::StatusOr<Expression> parsed = Expression::Parse(condition);
    if (!parsed.ok()) return annotate(Malformed(line, parsed.status().message()));
    rule.condition = *std::move(parsed);
    spec.rules_.push_back(std::move(rule));
  }
  return spec;
}

bool OpSpec::MayBeZero(absl::string_view symbol) const {
  if (symbol == "T" || symbol == "M" || symbol == "LT") return true;
  for (absl::string_view name : absl::StrSplit(text_.may_be_zero, ' ', absl::SkipEmpty())) {
    if (name == symbol) return true;
  }
  return false;
}

const Port* OpSpec::FindInput(absl::string_view name) const { return FindNamed(inputs_, name); }
const Port* OpSpec::FindOutput(absl::string_view name) const { return FindNamed(outputs_, name); }
const AttrSpec* OpSpec::FindAttribute(absl::string_view name) const {
  return FindNamed(attributes_, name);
}

bool OpSpec::has_state() const {
  return std::any_of(inputs_.begin(), inputs_.end(),
                     [](const Port& port) { return !FinalStateName(port.name).empty(); });
}

std::string FinalStateName(absl::string_view input) {
  if (input != "initial_state" && !absl::StartsWith(input, "initial_state_")) return "";
  return absl::StrCat("final_state", input.substr(sizeof("initial_state") - 1));
}

double Tolerance(const OpSpec& spec, DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
      return 1e-9;
    case DType::kFloat16:
      return 2e-3;
    case DType::kBFloat16:
      return 1e-2;
    default:
      return spec.text().float32_tolerance;
  }
}

}  // namespace attnd
