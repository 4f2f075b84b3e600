// Packing of compatible calls into one, and the way back.
#ifndef ATTND_KERNELS_CORE_BATCH_H_
#define ATTND_KERNELS_CORE_BATCH_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/core/call.h"

namespace attnd {

// Calls with equal keys may be packed: same operator, kernel, type, attributes, given inputs and
// static sizes (all but B and M; T too where the operator takes cu_seqlens) and equal bytes in
// every input that has no batch axis (weights, sinks). Empty: this call is not to be packed with
// others.
std::string BatchKey(const BoundCall& call, absl::string_view kernel);

// One call that computes all of `calls` (same key). Where the operator takes cu_seqlens the tokens
// are laid end to end with B = 1; otherwise the calls are stacked along B. Copies every input once.
absl::StatusOr<BoundCall> Pack(absl::Span<const BoundCall* const> calls);

// The outputs of each of `calls`, as views on the packed call's outputs where layout allows.
absl::StatusOr<std::vector<NamedTensors>> Unpack(absl::Span<const BoundCall* const> calls,
                                                 const NamedTensors& packed_outputs);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORE_BATCH_H_
