// The schema of an operator: one text from which validation, output allocation, descriptions,
// protocol metadata, documentation and random test inputs follow.
//
// Ports, one string each; an output of several shapes takes that of the place which the first given
// input with as many took, and without such an input the first whose sizes the call has:
//   name: type[dims] (| [dims])* ?? (if expression)? (~ distribution)? (# documentation)?
//     "q: float[B,T,H,K]"                      required
//     "g: float32[B,T,HG,K]|[B,T,HG]? ~logdecay"   optional, one of two shapes
//     "A_log: float32[HO] if gate == 'softplus'"   required under the condition, refused otherwise
//     "dt_bias: float32[HO]? if gate != 'log'"     optional under the condition, refused otherwise
//   types: float    any floating type; all `float` inputs of one call share it: the call's type
//          float32  gates, states, log-sums: half types are widened; float64 in a float64 call
//          int      int32 or int64; int32, int64, bool: exactly that
//   dims: sizes as expressions. A bare symbol binds to the size on first use and must agree after
//     that; `W-1` solves for W; anything else is computed and must agree.
//     B is the batch. M is the number of sequences: len(cu_seqlens) - 1 if that input is given,
//     else B. LT, in derived symbols, is the length of the longest of them.
//   distributions (random inputs only):
//     normal       default for floating types
//     unit         normal, l2-normalised over the last axis
//     logdecay     log sigmoid of a normal: <= 0
//     probability  uniform in (0,1)
//     positive     uniform in (0.1,1)
//     small        0.1 * normal
//     bernoulli    default for bool
//     slopes       negative
//
// Attributes:
//   name: type (= default)? (comparison)*  (# documentation)?
//     "scale: float = 1/sqrt(K)"
//     "eps: float = 1e-10 >= 0"
//     "window: int[] >= 1"              a single number is a list of one
//     "feature_map: {identity, elu1, relu, relu2} = identity"
//     "causal: bool = true"
//     "height: int? >= 1"               without a default and with `?`: may be absent
//   types: bool, int, float, string, {choice, ...}, bool[], int[], float[]. Floats must be
//   finite, or not NaN where a bound is infinite ("dt_max: float? <= inf").
//     "stride: int[axes] = [1]": a list of so many entries, an expression of attributes; one number
//     alone, or a default of one entry, stands for all of them.
//
// Derived symbols: "HO = max(H,HK,HV)", in order.
// Rules: "expression" or "expression # sentence"; each must hold for a call. A violated rule is
//   reported with its sentence (or text) and the values of the names that it reads.
#ifndef ATTND_KERNELS_CORE_OP_SPEC_H_
#define ATTND_KERNELS_CORE_OP_SPEC_H_

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/core/attributes.h"
#include "kernels/core/dtype.h"
#include "kernels/core/expression.h"

namespace attnd {

// What an operator's author writes. All strings in the grammar above.
struct SchemaText {
  std::string id;
  std::string paper;    // Title and year.
  std::string summary;  // One line: what it is for.
  std::string
      core;  // softmax | linear_recurrent | delta | linear_global | block_sparse | short_conv
  std::string definition;  // Its equations, as they stand on its page: lines of text.
  std::vector<std::string> inputs;
  std::vector<std::string> attributes;
  std::vector<std::string> outputs;
  std::vector<std::string> derived;
  std::vector<std::string> rules;
  // Symbols whose size may be zero, beside T: "S P E". Zero too if no given input has them.
  std::string may_be_zero;
  // Symbol of first axes with an entry for each batch row, or one for all rows: "BM".
  std::string per_row;
  // False where the packed layout is more than a cut along T (the operator handles it itself).
  bool packed_by_sequence = true;
  // False where cu_seqlens is an input like others, which all rows of the batch share.
  bool packs_sequences = true;
  // Worst relative error, ‖out - ref‖ / ‖ref‖, that float32 inputs may show.
  double float32_tolerance = 1e-5;
};

enum class PortType : uint8_t { kFloat, kFloat32, kInt, kInt32, kInt64, kBool };

// "float", "float32", "int", ...
absl::string_view Name(PortType type);

struct Port {
  std::string name;
  PortType type = PortType::kFloat;
  std::vector<std::vector<Expression>> shapes;  // Alternatives, at least one.
  bool optional = false;
  std::optional<Expression> condition;
  std::string distribution;
  std::string doc;
  std::string text;  // As the author wrote it, without the distribution: "q: float[B,T,H,K]".

  // Axis of the given bare symbol in shape alternative `alternative`, or -1.
  int AxisOf(absl::string_view symbol, int alternative = 0) const;
};

enum class AttrType : uint8_t { kBool, kInt, kFloat, kString, kBoolList, kIntList, kFloatList };

// "bool", "int", "float", "string", "bool[]", ...
absl::string_view Name(AttrType type);

struct AttrSpec {
  std::string name;
  AttrType type = AttrType::kFloat;
  bool optional = false;                    // No default and not required.
  std::optional<Expression> default_value;  // Scalars and strings.
  std::optional<AttrValue> default_list;    // Lists.
  std::optional<Expression> length;         // Lists of a given length.
  std::vector<std::string> choices;         // Non-empty: the string must be one of them.
  struct Bound {
    std::string comparison;  // ">=", ">", "<=", "<"
    double value;
  };
  std::vector<Bound> bounds;  // For lists: of every entry.
  std::string doc;
  std::string text;

  bool required() const { return !optional && !default_value && !default_list; }
};

struct Derived {
  std::string symbol;
  Expression value;
};

struct Rule {
  Expression condition;
  std::string sentence;  // May be empty.
};

class FormCache;

class OpSpec {
 public:
  // INVALID_ARGUMENT naming the operator, the line and what is wrong with it.
  static absl::StatusOr<OpSpec> Parse(const SchemaText& text);

  const std::string& id() const { return text_.id; }
  const SchemaText& text() const { return text_; }
  const std::vector<Port>& inputs() const { return inputs_; }
  const std::vector<Port>& outputs() const { return outputs_; }
  const std::vector<AttrSpec>& attributes() const { return attributes_; }
  const std::vector<Derived>& derived() const { return derived_; }
  const std::vector<Rule>& rules() const { return rules_; }
  bool MayBeZero(absl::string_view symbol) const;

  const Port* FindInput(absl::string_view name) const;
  const Port* FindOutput(absl::string_view name) const;
  const AttrSpec* FindAttribute(absl::string_view name) const;

  // Whether the operator takes packed sequences, cut by cu_seqlens.
  bool packs() const { return text_.packs_sequences && FindInput("cu_seqlens") != nullptr; }
  // Whether a derived symbol reads LT, so that sizes hang on the contents of cu_seqlens.
  bool reads_longest() const { return reads_longest_; }
  // Whether the operator hands a state on: it has an input named initial_state or initial_state_*.
  bool has_state() const;

  // Forms that calls had lately, so that the next of the same form need not be validated anew.
  FormCache& forms() const { return *forms_; }

 private:
  SchemaText text_;
  std::vector<Port> inputs_;
  std::vector<Port> outputs_;
  std::vector<AttrSpec> attributes_;
  std::vector<Derived> derived_;
  std::vector<Rule> rules_;
  bool reads_longest_ = false;
  std::shared_ptr<FormCache> forms_;
};

// "initial_state_k" -> "final_state_k"; empty if `input` is not the name of an initial state.
std::string FinalStateName(absl::string_view input);

// Tolerance on ‖out - ref‖ / ‖ref‖ for calls of type `dtype` (float64 1e-9, float16 2e-3, bfloat16
// 1e-2).
double Tolerance(const OpSpec& spec, DType dtype);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORE_OP_SPEC_H_
