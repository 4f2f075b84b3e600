// Checks of an attribute's value against its specification.
#ifndef ATTND_KERNELS_CORE_COERCE_H_
#define ATTND_KERNELS_CORE_COERCE_H_

#include "absl/status/statusor.h"
#include "kernels/core/op_spec.h"

namespace attnd {

// `given` in the attribute's own type: integers widen to floats, a single value becomes a list of
// one. INVALID_ARGUMENT
// "<op>: <attribute>: given ..., expected ..." for another type, a choice that is none, a number
// that is not finite or out of bounds.
absl::StatusOr<AttrValue> CoerceAttribute(const OpSpec& spec, const AttrSpec& attribute,
                                          const AttrValue& given);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORE_COERCE_H_
