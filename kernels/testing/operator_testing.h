// What tests of operators share: one registry, the backends of this machine, comparisons, and the
// cutting of calls along T.
#ifndef ATTND_KERNELS_TESTING_OPERATOR_TESTING_H_
#define ATTND_KERNELS_TESTING_OPERATOR_TESTING_H_

#include <cstdint>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "kernels/core/call.h"
#include "kernels/core/evaluate.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/primitives/primitives.h"

namespace attnd::testing {

// Every operator, with the CUDA kernels where a device is there.
const Registry& Operators();
const Operator& Find(absl::string_view op);
Backend& Cpu();
// Null where there is no device.
Backend* Cuda();
// The backend of a device, or null; a test that gets null must skip.
Backend* BackendOf(Device device);

// A seed that changes from run to run unless ATTND_TEST_SEED fixes it; printed once.
uint64_t BaseSeed();

// A random request; fails the test if the options contradict the schema.
CallRequest Random(absl::string_view op, const RandomOptions& options);

// Evaluates and fails the test on an error. The device's default kernel unless the request forces
// one.
Evaluation RunCall(const CallRequest& request, Backend& backend = Cpu());
Evaluation RunReference(const CallRequest& request);

const Tensor& Output(const Evaluation& evaluation, absl::string_view name);
// The output that the schema names first.
inline const Tensor& MainOutput(const Evaluation& evaluation) {
  return evaluation.outputs.begin()->second;
}

// ‖a - b‖ / ‖b‖ over elements in float64 (‖a‖ if b is all zeros); infinity if they differ in shape
// or in being NaN or infinite anywhere.
double RelativeError(const Tensor& a, const Tensor& b);
bool BitEqual(const Tensor& a, const Tensor& b);

// Every output of `result` is within the operator's tolerance for `dtype` of `reference`.
::testing::AssertionResult Close(const OpSpec& spec, DType dtype, const Evaluation& result,
                                 const Evaluation& reference);
// Every output has the same bits.
::testing::AssertionResult SameBits(const Evaluation& a, const Evaluation& b);

// Makes / reads host tensors as float64, for properties written by hand.
Tensor FromDoubles(DType dtype, Dims shape, absl::Span<const double> values);
std::vector<double> ToDoubles(const Tensor& tensor);

// Tokens [begin, begin + length) of a dense request with S = T: every axis T or S cut; of an axis
// P+S all that comes before the end of the cut; states left as they are.
CallRequest CutTokens(const Operator& op, const CallRequest& request, int64_t begin,
                      int64_t length);

// The request with its initial states replaced by an evaluation's final ones.
CallRequest WithStates(const Operator& op, CallRequest request, const Evaluation& previous);

// A deep copy of a host tensor, and one whose memory is laid out with its axes reversed (a view).
Tensor CopyOf(const Tensor& tensor);
Tensor AsStridedView(const Tensor& tensor);

}  // namespace attnd::testing

#endif  // ATTND_KERNELS_TESTING_OPERATOR_TESTING_H_
