#include "kernels/core/expression.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace attnd {

struct Expression::Node {
  enum class Kind : uint8_t {
    kConstant,
    kName,
    kHas,
    kNot,
    kNegate,
    kBinary,
    kCall,
  };
  Kind kind;
  AttrValue constant;
  std::string name;  // Of a symbol, function or operator.
  std::vector<std::shared_ptr<const Node>> children;
};

namespace {

using Node = Expression::Node;
using NodePtr = std::shared_ptr<const Node>;

constexpr int kMaxDepth = 64;
constexpr size_t kMaxLength = 4096;

NodePtr Make(Node::Kind kind, std::string name, std::vector<NodePtr> children,
             AttrValue constant = false) {
  return std::make_shared<const Node>(
      Node{kind, std::move(constant), std::move(name), std::move(children)});
}

bool IsNameStart(char c) { return absl::ascii_isalpha(static_cast<unsigned char>(c)) || c == '_'; }
bool IsNamePart(char c) { return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_'; }

struct Function {
  absl::string_view name;
  size_t least_arguments;
  size_t most_arguments;
};

constexpr Function kFunctions[] = {{"max", 1, 8},   {"min", 1, 8},   {"ceil_div", 2, 2},
                                   {"sqrt", 1, 1},  {"floor", 1, 1}, {"length", 1, 1},
                                   {"select", 3, 3}};

// Recursive descent, one method per level of the grammar.
class Parser {
 public:
  explicit Parser(absl::string_view text) : text_(text) {}

  absl::StatusOr<NodePtr> Parse() {
    if (text_.size() > kMaxLength) return Error("is longer than 4096 characters");
    absl::StatusOr<NodePtr> node = Implication();
    if (!node.ok()) return node;
    SkipSpace();
    if (at_ != text_.size()) return Error("has something left over");
    return node;
  }

 private:
  absl::Status Error(absl::string_view what) const {
    return absl::InvalidArgumentError(
        absl::StrCat("expression '", text_.substr(0, 80), "' ", what, " at character ", at_ + 1));
  }

  void SkipSpace() {
    while (at_ < text_.size() && absl::ascii_isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
  }

  bool Take(absl::string_view token) {
    SkipSpace();
    if (text_.substr(at_, token.size()) != token) return false;
    at_ += token.size();
    return true;
  }

  // Left-associative chains of one level; `stop` rejects a token that only begins like ours ("-" of
  // "->").
  template <typename Next>
  absl::StatusOr<NodePtr> Chain(std::initializer_list<absl::string_view> operators, Next next) {
    absl::StatusOr<NodePtr> left = (this->*next)();
    while (left.ok()) {
      absl::string_view found;
      for (absl::string_view op : operators) {
        SkipSpace();
        if (op == "-" && text_.substr(at_, 2) == "->") continue;
        if (Take(op)) {
          found = op;
          break;
        }
      }
      if (found.empty()) break;
      if (++chained_ > 512) return Error("has too many terms");
      absl::StatusOr<NodePtr> right = (this->*next)();
      if (!right.ok()) return right;
      left = Make(Node::Kind::kBinary, std::string(found), {*left, *right});
    }
    return left;
  }

  absl::StatusOr<NodePtr> Implication() {
    if (++depth_ > kMaxDepth) return Error("is nested too deeply");
    absl::StatusOr<NodePtr> left = Chain({"||"}, &Parser::And);
    if (left.ok() && Take("->")) {
      absl::StatusOr<NodePtr> right = Chain({"||"}, &Parser::And);
      if (!right.ok()) return right;
      left = Make(Node::Kind::kBinary, "->", {*left, *right});
    }
    --depth_;
    return left;
  }

  absl::StatusOr<NodePtr> And() { return Chain({"&&"}, &Parser::Not); }

  absl::StatusOr<NodePtr> Not() {
    SkipSpace();
    if (text_.substr(at_, 2) != "!=" && Take("!")) {
      if (++depth_ > kMaxDepth) return Error("is nested too deeply");
      absl::StatusOr<NodePtr> inner = Not();
      --depth_;
      if (!inner.ok()) return inner;
      return Make(Node::Kind::kNot, "!", {*inner});
    }
    return Comparison();
  }

  absl::StatusOr<NodePtr> Comparison() {
    absl::StatusOr<NodePtr> left = Sum();
    if (!left.ok()) return left;
    for (absl::string_view op : {"==", "!=", "<=", ">=", "<", ">"}) {
      if (!Take(op)) continue;
      absl::StatusOr<NodePtr> right = Sum();
      if (!right.ok()) return right;
      return Make(Node::Kind::kBinary, std::string(op), {*left, *right});
    }
    return left;
  }

  absl::StatusOr<NodePtr> Sum() { return Chain({"+", "-"}, &Parser::Product); }
  absl::StatusOr<NodePtr> Product() { return Chain({"*", "/", "%"}, &Parser::Unary); }

  absl::StatusOr<NodePtr> Unary() {
    SkipSpace();
    if (text_.substr(at_, 2) != "->" && Take("-")) {
      if (++depth_ > kMaxDepth) return Error("is nested too deeply");
      absl::StatusOr<NodePtr> inner = Unary();
      --depth_;
      if (!inner.ok()) return inner;
      return Make(Node::Kind::kNegate, "-", {*inner});
    }
    return Primary();
  }

  absl::StatusOr<NodePtr> Primary() {
    SkipSpace();
    if (at_ == text_.size()) return Error("ends too early");
    const char c = text_[at_];
    if (c == '(') {
      ++at_;
      absl::StatusOr<NodePtr> inner = Implication();
      if (inner.ok() && !Take(")")) return Error("lacks ')'");
      return inner;
    }
    if (c == '\'') return String();
    if (absl::ascii_isdigit(static_cast<unsigned char>(c)) || c == '.') return Number();
    if (IsNameStart(c)) return NameOrCall();
    return Error("has an unexpected character");
  }

  absl::StatusOr<NodePtr> String() {
    const size_t end = text_.find('\'', at_ + 1);
    if (end == absl::string_view::npos) return Error("has an unfinished string");
    std::string value(text_.substr(at_ + 1, end - at_ - 1));
    at_ = end + 1;
    return Make(Node::Kind::kConstant, "", {}, std::move(value));
  }

  absl::StatusOr<NodePtr> Number() {
    const size_t begin = at_;
    bool integral = true;
    while (at_ < text_.size()) {
      const char c = text_[at_];
      const bool exponent_sign =
          (c == '-' || c == '+') && at_ > begin && (text_[at_ - 1] == 'e' || text_[at_ - 1] == 'E');
      if (!absl::ascii_isdigit(static_cast<unsigned char>(c)) && c != '.' && c != 'e' && c != 'E' &&
          !exponent_sign) {
        break;
      }
      if (!absl::ascii_isdigit(static_cast<unsigned char>(c))) integral = false;
      ++at_;
    }
    const absl::string_view digits = text_.substr(begin, at_ - begin);
    int64_t integer;
    double real;
    if (integral && absl::SimpleAtoi(digits, &integer)) {
      return Make(Node::Kind::kConstant, "", {}, integer);
    }
    if (!integral && absl::SimpleAtod(digits, &real) && std::isfinite(real)) {
      return Make(Node::Kind::kConstant, "", {}, real);
    }
    return Error("has a malformed number");
  }

  absl::StatusOr<NodePtr> NameOrCall() {
    const size_t begin = at_;
    while (at_ < text_.size() && IsNamePart(text_[at_])) ++at_;
    std::string name(text_.substr(begin, at_ - begin));
    if (name == "true" || name == "false") {
      return Make(Node::Kind::kConstant, "", {}, name == "true");
    }
    if (!Take("(")) return Make(Node::Kind::kName, std::move(name), {});
    if (name == "has") {
      SkipSpace();
      const size_t start = at_;
      while (at_ < text_.size() && IsNamePart(text_[at_])) ++at_;
      std::string port(text_.substr(start, at_ - start));
      if (port.empty() || !Take(")")) return Error("has a malformed has()");
      return Make(Node::Kind::kHas, std::move(port), {});
    }
    return Arguments(std::move(name));
  }

  absl::StatusOr<NodePtr> Arguments(std::string name) {
    const auto* function =
        std::find_if(std::begin(kFunctions), std::end(kFunctions),
                     [&name](const Function& known) { return known.name == name; });
    if (function == std::end(kFunctions)) return Error(absl::StrCat("calls unknown ", name, "()"));
    std::vector<NodePtr> arguments;
    do {
      absl::StatusOr<NodePtr> argument = Implication();
      if (!argument.ok()) return argument;
      arguments.push_back(*std::move(argument));
    } while (arguments.size() < function->most_arguments && Take(","));
    if (!Take(")")) return Error("lacks ')'");
    if (arguments.size() < function->least_arguments) {
      return Error(absl::StrCat("gives ", name, "() too few arguments"));
    }
    return Make(Node::Kind::kCall, std::move(name), std::move(arguments));
  }

  absl::string_view text_;
  size_t at_ = 0;
  int depth_ = 0;
  int chained_ = 0;
};

absl::Status TypeError(absl::string_view op) {
  return absl::InvalidArgumentError(absl::StrCat("'", op, "' on values of the wrong type"));
}

absl::Status Overflow(absl::string_view op) {
  return absl::OutOfRangeError(absl::StrCat("'", op, "' leaves the range of 64-bit integers"));
}

bool IsNumber(const AttrValue& value) {
  return std::holds_alternative<int64_t>(value) || std::holds_alternative<double>(value);
}

double AsReal(const AttrValue& value) {
  if (const auto* integer = std::get_if<int64_t>(&value)) return static_cast<double>(*integer);
  return std::get<double>(value);
}

absl::StatusOr<AttrValue> Integers(absl::string_view op, int64_t a, int64_t b) {
  int64_t result;
  if (op == "+") {
    if (__builtin_add_overflow(a, b, &result)) return Overflow(op);
    return result;
  }
  if (op == "-") {
    if (__builtin_sub_overflow(a, b, &result)) return Overflow(op);
    return result;
  }
  if (op == "*") {
    if (__builtin_mul_overflow(a, b, &result)) return Overflow(op);
    return result;
  }
  if (op == "max") return std::max(a, b);
  if (op == "min") return std::min(a, b);
  // What is left divides.
  if (b == 0) return absl::OutOfRangeError(absl::StrCat("'", op, "' by zero"));
  if (op == "/") return static_cast<double>(a) / static_cast<double>(b);
  if (b == -1) {  // The one quotient that can overflow.
    if (op == "%") return int64_t{0};
    if (__builtin_sub_overflow(int64_t{0}, a, &result)) return Overflow(op);
    return result;
  }
  if (op == "%") return a % b;
  const int64_t quotient = a / b;  // ceil_div
  return quotient + (a % b != 0 && (a < 0) == (b < 0) ? 1 : 0);
}

absl::StatusOr<AttrValue> Reals(absl::string_view op, double a, double b) {
  if (op == "+") return a + b;
  if (op == "-") return a - b;
  if (op == "*") return a * b;
  if (op == "max") return std::max(a, b);
  if (op == "min") return std::min(a, b);
  if (op == "/") {
    if (b == 0) return absl::OutOfRangeError("'/' by zero");
    return a / b;
  }
  return TypeError(op);
}

absl::StatusOr<AttrValue> Arithmetic(absl::string_view op, const AttrValue& a, const AttrValue& b) {
  if (!IsNumber(a) || !IsNumber(b)) return TypeError(op);
  if (std::holds_alternative<int64_t>(a) && std::holds_alternative<int64_t>(b)) {
    return Integers(op, std::get<int64_t>(a), std::get<int64_t>(b));
  }
  return Reals(op, AsReal(a), AsReal(b));
}

absl::StatusOr<AttrValue> Compare(absl::string_view op, const AttrValue& a, const AttrValue& b) {
  const bool equality = op == "==" || op == "!=";
  if (IsNumber(a) && IsNumber(b)) {
    const double x = AsReal(a), y = AsReal(b);
    if (op == "==") return x == y;
    if (op == "!=") return x != y;
    if (op == "<=") return x <= y;
    if (op == ">=") return x >= y;
    if (op == "<") return x < y;
    return x > y;
  }
  if (!equality || a.index() != b.index()) return TypeError(op);
  return (a == b) == (op == "==");
}

bool IsComparison(absl::string_view op) {
  return op == "==" || op == "!=" || op == "<=" || op == ">=" || op == "<" || op == ">";
}

absl::StatusOr<AttrValue> Evaluate(const Node& node, const Environment& environment);

absl::StatusOr<bool> Truth(const Node& node, const Environment& environment) {
  absl::StatusOr<AttrValue> value = Evaluate(node, environment);
  if (!value.ok()) return value.status();
  if (const bool* truth = std::get_if<bool>(&*value)) return *truth;
  return TypeError("logic");
}

// && || -> look at their right side only if it matters: `has(x) && x > 1` never reads an absent x.
absl::StatusOr<AttrValue> Logic(const Node& node, const Environment& environment) {
  absl::StatusOr<bool> left = Truth(*node.children[0], environment);
  if (!left.ok()) return left.status();
  if (node.name == "&&" && !*left) return AttrValue(false);
  if (node.name == "||" && *left) return AttrValue(true);
  if (node.name == "->" && !*left) return AttrValue(true);
  absl::StatusOr<bool> right = Truth(*node.children[1], environment);
  if (!right.ok()) return right.status();
  return AttrValue(*right);
}

absl::StatusOr<AttrValue> CallFunction(const Node& node, const Environment& environment) {
  if (node.name == "select") {
    const absl::StatusOr<bool> first = Truth(*node.children[0], environment);
    if (!first.ok()) return first.status();
    return Evaluate(*node.children[*first ? 1 : 2], environment);
  }
  std::vector<AttrValue> arguments;
  for (const NodePtr& child : node.children) {
    absl::StatusOr<AttrValue> value = Evaluate(*child, environment);
    if (!value.ok()) return value;
    arguments.push_back(*std::move(value));
  }
  if (node.name == "length") {
    return std::visit(
        [](const auto& value) -> absl::StatusOr<AttrValue> {
          using T = std::decay_t<decltype(value)>;
          if constexpr (std::is_same_v<T, std::vector<int64_t>> ||
                        std::is_same_v<T, std::vector<double>> ||
                        std::is_same_v<T, std::vector<bool>>) {
            return AttrValue(static_cast<int64_t>(value.size()));
          } else {
            return TypeError("length");
          }
        },
        arguments[0]);
  }
  if (node.name == "sqrt") {
    if (!IsNumber(arguments[0]) || AsReal(arguments[0]) < 0) return TypeError("sqrt");
    return AttrValue(std::sqrt(AsReal(arguments[0])));
  }
  if (node.name == "floor") {
    if (!IsNumber(arguments[0])) return TypeError("floor");
    if (std::holds_alternative<int64_t>(arguments[0])) return arguments[0];
    const double floor = std::floor(AsReal(arguments[0]));
    if (!(std::abs(floor) < 0x1p63)) return Overflow("floor");
    return AttrValue(static_cast<int64_t>(floor));
  }
  AttrValue result = arguments[0];
  if (!IsNumber(result)) return TypeError(node.name);
  for (size_t i = 1; i < arguments.size(); ++i) {
    absl::StatusOr<AttrValue> next = Arithmetic(node.name, result, arguments[i]);
    if (!next.ok()) return next;
    result = *std::move(next);
  }
  return result;
}

absl::StatusOr<AttrValue> Evaluate(const Node& node, const Environment& environment) {
  switch (node.kind) {
    case Node::Kind::kConstant:
      return node.constant;
    case Node::Kind::kName: {
      std::optional<AttrValue> value = environment.Lookup(node.name);
      if (!value) return absl::FailedPreconditionError(absl::StrCat(node.name, " has no value"));
      return *std::move(value);
    }
    case Node::Kind::kHas:
      return AttrValue(environment.Has(node.name));
    case Node::Kind::kNot: {
      absl::StatusOr<bool> truth = Truth(*node.children[0], environment);
      if (!truth.ok()) return truth.status();
      return AttrValue(!*truth);
    }
    case Node::Kind::kNegate: {
      absl::StatusOr<AttrValue> value = Evaluate(*node.children[0], environment);
      if (!value.ok()) return value;
      return Arithmetic("-", int64_t{0}, *value);
    }
    case Node::Kind::kCall:
      return CallFunction(node, environment);
    case Node::Kind::kBinary:
      break;
  }
  if (node.name == "&&" || node.name == "||" || node.name == "->") return Logic(node, environment);
  absl::StatusOr<AttrValue> a = Evaluate(*node.children[0], environment);
  if (!a.ok()) return a;
  absl::StatusOr<AttrValue> b = Evaluate(*node.children[1], environment);
  if (!b.ok()) return b;
  return IsComparison(node.name) ? Compare(node.name, *a, *b) : Arithmetic(node.name, *a, *b);
}

void CollectNames(const Node& node, std::vector<std::string>& names) {
  if ((node.kind == Node::Kind::kName || node.kind == Node::Kind::kHas) &&
      std::find(names.begin(), names.end(), node.name) == names.end()) {
    names.push_back(node.name);
  }
  for (const NodePtr& child : node.children) CollectNames(*child, names);
}

}  // namespace

Expression::Expression() = default;
Expression::~Expression() = default;
Expression::Expression(Expression&&) noexcept = default;
Expression& Expression::operator=(Expression&&) noexcept = default;
Expression::Expression(const Expression&) = default;
Expression& Expression::operator=(const Expression&) = default;

absl::StatusOr<Expression> Expression::Parse(absl::string_view text) {
  text = absl::StripAsciiWhitespace(text);
  absl::StatusOr<NodePtr> root = Parser(text).Parse();
  if (!root.ok()) return root.status();
  Expression expression;
  expression.text_ = std::string(text);
  expression.root_ = *std::move(root);
  return expression;
}

std::vector<std::string> Expression::Names() const {
  std::vector<std::string> names;
  if (root_ != nullptr) CollectNames(*root_, names);
  return names;
}

absl::StatusOr<AttrValue> Expression::Evaluate(const Environment& environment) const {
  if (root_ == nullptr) return absl::FailedPreconditionError("empty expression");
  return attnd::Evaluate(*root_, environment);
}

absl::StatusOr<int64_t> Expression::EvaluateInt(const Environment& environment) const {
  absl::StatusOr<AttrValue> value = Evaluate(environment);
  if (!value.ok()) return value.status();
  if (const int64_t* integer = std::get_if<int64_t>(&*value)) return *integer;
  return absl::InvalidArgumentError(absl::StrCat("'", text_, "' is not an integer"));
}

absl::StatusOr<bool> Expression::EvaluateBool(const Environment& environment) const {
  absl::StatusOr<AttrValue> value = Evaluate(environment);
  if (!value.ok()) return value.status();
  if (const bool* truth = std::get_if<bool>(&*value)) return *truth;
  return absl::InvalidArgumentError(absl::StrCat("'", text_, "' is neither true nor false"));
}

std::optional<Expression::Linear> Expression::AsLinear() const {
  if (root_ == nullptr) return std::nullopt;
  if (root_->kind == Node::Kind::kName) return Linear{root_->name, 0};
  if (root_->kind != Node::Kind::kBinary || (root_->name != "+" && root_->name != "-")) {
    return std::nullopt;
  }
  const Node& left = *root_->children[0];
  const Node& right = *root_->children[1];
  if (left.kind != Node::Kind::kName || right.kind != Node::Kind::kConstant) return std::nullopt;
  const int64_t* offset = std::get_if<int64_t>(&right.constant);
  if (offset == nullptr) return std::nullopt;
  return Linear{left.name, root_->name == "+" ? *offset : -*offset};
}

}  // namespace attnd
