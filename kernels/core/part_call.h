// Calls of one operator from the definition of another: how a definition says "the softmax
// attention of these", and gets that operator's kernels where it runs as a kernel itself
// (Registry::AddOfParts).
//
//   PartCall attention(c, "softmax_attention");
//   attention.In("q", q).In("k", k).In("v", v).Set("window_left", c.integer("window") - 1);
//   const Array o = attention.Out("o");
#ifndef ATTND_KERNELS_CORE_PART_CALL_H_
#define ATTND_KERNELS_CORE_PART_CALL_H_

#include "absl/strings/string_view.h"
#include "kernels/core/call.h"
#include "kernels/primitives/composer.h"

namespace attnd {

class PartCall {
 public:
  // Aborts if the composer's registry has no such operator: a bug.
  PartCall(Composer& c, absl::string_view op);

  // An undefined array is an input that is not given.
  PartCall& In(absl::string_view name, const Array& x);
  PartCall& Set(absl::string_view attribute, AttrValue value);
  // The composer's own input of that name, or attribute, handed on as it is; absent where absent.
  PartCall& Pass(absl::string_view name);
  PartCall& PassAttribute(absl::string_view name);

  // An output, in the composer's compute type or an integer's or bool's own; the first asked for
  // runs the call. Undefined if this call does not give it, or failed: the composer has the error,
  // which is INVALID_ARGUMENT if the other operator does not take these inputs.
  Array Out(absl::string_view name);

 private:
  void Run();

  Composer& c_;
  CallRequest request_;
  NamedTensors outputs_;
  bool ran_ = false;
};

}  // namespace attnd

#endif  // ATTND_KERNELS_CORE_PART_CALL_H_
