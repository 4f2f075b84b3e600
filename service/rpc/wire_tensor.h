// Tensors and names as they come from a client, whatever the protocol: what is checked before any
// memory is taken, with one text for each mistake.
#ifndef ATTND_SERVICE_RPC_WIRE_TENSOR_H_
#define ATTND_SERVICE_RPC_WIRE_TENSOR_H_

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "kernels/core/tensor.h"

namespace attnd {

inline constexpr int kMaxInputs = 32;
inline constexpr int kMaxOutputs = 32;
inline constexpr int kMaxAttributes = 64;
inline constexpr size_t kMaxNameLength = 256;

// INVALID_ARGUMENT "<op>: <subject>: given <given>, expected <expected>".
absl::Status Refusal(absl::string_view op, absl::string_view subject, absl::string_view given,
                     absl::string_view expected);

// A client's text as it may appear in a message: printable, and cut.
std::string Quoted(absl::string_view text);

// Names consist of letters, digits, '_', '-' and '.'. `kind` says what is named: "operator",
// "input".
absl::Status CheckName(absl::string_view op, absl::string_view kind, absl::string_view name);

// Free text that is handed back or compared: request ids, kernels.
absl::Status CheckText(absl::string_view op, absl::string_view subject, absl::string_view text);

// How many of something are given.
absl::Status CheckCount(absl::string_view op, absl::string_view what, int64_t given, int64_t limit);

// Bytes of a tensor of that shape: rank at most 8, sizes within [0, 2^31), at most 2^40 elements.
absl::StatusOr<int64_t> CheckedTensorBytes(absl::string_view op, absl::string_view name,
                                           DType dtype, absl::Span<const int64_t> shape);

// A tensor on `bytes`, which `owner` keeps alive and nobody writes; their number must be what the
// shape needs, and bools must be 0 or 1.
absl::StatusOr<Tensor> ViewTensor(absl::string_view op, absl::string_view name, DType dtype,
                                  absl::Span<const int64_t> shape, absl::string_view bytes,
                                  std::shared_ptr<const void> owner);

// INVALID_ARGUMENT if a bool tensor holds bytes other than 0 and 1; OK for other types.
absl::Status CheckBools(absl::string_view op, absl::string_view name, const Tensor& tensor);

// The tensor itself, or a copy whose elements lie in row-major order.
absl::StatusOr<Tensor> Contiguous(const Tensor& tensor);

}  // namespace attnd

#endif  // ATTND_SERVICE_RPC_WIRE_TENSOR_H_
