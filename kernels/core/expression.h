// The small expression language of schemas: sizes ("W-1", "max(H,HK,HV)",
// "ceil_div(T,block_size_q)"), defaults ("1/sqrt(K)") and rules ("causal -> S == T",
// "gate == 'softplus' -> has(A_log)").
//
// Grammar, loosest binding first:
//   implication := or ( "->" or )?
//   or          := and ( "||" and )*
//   and         := not ( "&&" not )*
//   not         := "!" not | comparison
//   comparison  := sum ( ("==" | "!=" | "<=" | ">=" | "<" | ">") sum )?
//   sum         := product ( ("+" | "-") product )*
//   product     := unary ( ("*" | "/" | "%") unary )*
//   unary       := "-" unary | primary
//   primary     := number | 'string' | true | false | name
//                | function "(" arguments ")" | "(" implication ")"
//   functions: max, min, ceil_div, sqrt, floor (an integer), has(port), length(list attribute),
//     select(condition, a, b): a or b, and the other is not looked at
// "/" is real division; integers stay integers under + - * % max min ceil_div. Names are dimension
// symbols and attributes; a name without a value (an optional attribute that was not given) makes
// any expression that reads it undefined, except has(name).
#ifndef ATTND_KERNELS_CORE_EXPRESSION_H_
#define ATTND_KERNELS_CORE_EXPRESSION_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/core/attributes.h"

namespace attnd {

// What names mean while an expression is evaluated.
class Environment {
 public:
  virtual ~Environment() = default;
  // The value of a symbol or attribute; nullopt if it has none.
  virtual std::optional<AttrValue> Lookup(absl::string_view name) const = 0;
  // Whether an input of that name was given, or an attribute has a value.
  virtual bool Has(absl::string_view name) const = 0;
};

class Expression {
 public:
  // INVALID_ARGUMENT naming the text and the place. Nesting is limited to 64 levels.
  static absl::StatusOr<Expression> Parse(absl::string_view text);

  Expression();
  ~Expression();
  Expression(Expression&&) noexcept;
  Expression& operator=(Expression&&) noexcept;
  Expression(const Expression&);
  Expression& operator=(const Expression&);

  const std::string& text() const { return text_; }

  // Names of symbols and attributes that the expression reads, has() arguments included.
  std::vector<std::string> Names() const;

  // FAILED_PRECONDITION if a name has no value; OUT_OF_RANGE on integer overflow or division by
  // zero; INVALID_ARGUMENT on a type error.
  absl::StatusOr<AttrValue> Evaluate(const Environment& environment) const;
  absl::StatusOr<int64_t> EvaluateInt(const Environment& environment) const;
  absl::StatusOr<bool> EvaluateBool(const Environment& environment) const;

  // If the expression is `symbol` or `symbol + constant` or `symbol - constant`, that symbol and
  // constant: the form that can be solved for the symbol when a size is known.
  struct Linear {
    std::string symbol;
    int64_t offset;
  };
  std::optional<Linear> AsLinear() const;

  struct Node;  // Defined in expression.cc.

 private:
  std::string text_;
  std::shared_ptr<const Node> root_;
};

}  // namespace attnd

#endif  // ATTND_KERNELS_CORE_EXPRESSION_H_
