// A call of an operator, before and after validation.
#ifndef ATTND_KERNELS_CORE_CALL_H_
#define ATTND_KERNELS_CORE_CALL_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "kernels/core/attributes.h"
#include "kernels/core/lazy.h"
#include "kernels/core/op_spec.h"
#include "kernels/core/tensor.h"

namespace attnd {

using NamedTensors = Named<Tensor>;

// What a caller asks for. Tensors are host views in the caller's types.
struct CallRequest {
  std::string op;
  NamedTensors inputs;
  Attributes attributes;
  // Kernel to run: "" lets the registry choose, "composed" or a kernel's name forces it.
  std::string kernel;
};

// One sequence of a call: tokens [begin, begin + length) of batch row `row`; its states sit at
// index `state` of their first axis. A dense batch is B sequences of T tokens each.
struct Sequence {
  int64_t row;
  int64_t begin;
  int64_t length;
  int64_t state;
};

// How calls of a form share a launch; see batch.h.
struct BatchTraits {
  bool possible = false;
  bool packs = false;    // Tokens end to end, instead of batch rows on top of one another.
  bool per_row = false;  // Axes of SchemaText::per_row have an entry for each batch row.
  std::string key;       // Equal for forms that may share.
  std::vector<std::string> shared;  // Inputs whose bytes must be the same, too.
};

// What a call is but for the contents of its tensors: the outcome of validation. Calls of one form
// share it.
struct CallForm {
  // The type that all `float` inputs share.
  DType dtype = DType::kFloat32;
  // Which shape alternative of its port an input took, where it is not the first.
  Named<int> alternatives;
  Attributes attributes;
  Named<int64_t> dims;
  // Type and shape of every output, in order of declaration.
  struct Output {
    std::string name;
    DType dtype;
    Dims shape;
  };
  std::vector<Output> outputs;
  Lazy<BatchTraits> batch;
};

// A validated call: every symbol has its size, every attribute its value, and every input its
// canonical form (contiguous; `float` ports in the call's type, `float32` ports widened to float32,
// or to float64 in a float64 call; `int` ports widened to int64).
class BoundCall {
 public:
  const OpSpec& spec() const { return *spec_; }
  // The type that all `float` inputs share.
  DType dtype() const { return form_->dtype; }

  // An input by its port's name; an undefined tensor if it was not given.
  const Tensor& input(absl::string_view name) const;
  bool has(absl::string_view name) const { return inputs_.contains(name); }
  // Which shape alternative of its port the input took.
  int alternative(absl::string_view name) const;

  // Size of a dimension symbol, bound or derived. Aborts on a symbol that the schema does not have.
  int64_t dim(absl::string_view symbol) const;

  bool flag(absl::string_view attribute) const;
  int64_t integer(absl::string_view attribute) const;
  double real(absl::string_view attribute) const;
  const std::string& choice(absl::string_view attribute) const;
  const std::vector<int64_t>& integers(absl::string_view attribute) const;
  const std::vector<bool>& flags(absl::string_view attribute) const;
  // False for an optional attribute that was not given.
  bool has_attribute(absl::string_view attribute) const {
    return form_->attributes.contains(attribute);
  }

  // The sequences of the call, in order of their states: from cu_seqlens, or one for each batch
  // row.
  const std::vector<Sequence>& sequences() const { return sequences_; }
  bool packed() const { return spec_->packs() && has("cu_seqlens"); }

  // Type and shape of every output this call produces, in order of declaration.
  using OutputSpec = CallForm::Output;
  const std::vector<OutputSpec>& outputs() const { return form_->outputs; }
  const OutputSpec* FindOutput(absl::string_view name) const;

  const NamedTensors& inputs() const { return inputs_; }
  const Attributes& attributes() const { return form_->attributes; }
  const Named<int64_t>& dims() const { return form_->dims; }
  const CallForm& form() const { return *form_; }

  // The same call with its inputs replaced by tensors of the same shapes (copies on a device, say).
  BoundCall WithInputs(NamedTensors inputs) const;

  // The call restricted to one of its sequences, as a dense call with B = M = 1: every input with
  // axes [B,T,...] is cut along T, every state ([M,...]) to its row. Views, no copies.
  BoundCall SequenceCall(const Sequence& sequence) const;

 private:
  friend class Binder;
  friend absl::StatusOr<BoundCall> Bind(const OpSpec& spec, const CallRequest& request);
  const OpSpec* spec_ = nullptr;
  std::shared_ptr<const CallForm> form_;
  NamedTensors inputs_;
  std::vector<Sequence> sequences_;
};

// Checks a request against the schema and puts it in canonical form. Nothing runs and no output is
// allocated. Errors are INVALID_ARGUMENT and read "<op>: <tensor or attribute>: given ..., expected
// ...". `spec` must outlive the result; tensors that need no conversion are shared, not copied.
absl::StatusOr<BoundCall> Bind(const OpSpec& spec, const CallRequest& request);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORE_CALL_H_
