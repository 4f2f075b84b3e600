// Random calls from a schema: the inputs of tests, fuzzing, benchmarks and `attndctl eval
// --random`.
#ifndef ATTND_KERNELS_CORE_RANDOM_CALL_H_
#define ATTND_KERNELS_CORE_RANDOM_CALL_H_

#include <cstdint>
#include <initializer_list>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "kernels/core/call.h"
#include "kernels/core/registry.h"

namespace attnd {

struct RandomOptions {
  uint64_t seed = 0;
  DType dtype = DType::kFloat32;
  // Sizes that the caller fixes: {{"T", 4096}, {"H", 4}}. Others are drawn: small, often odd, head
  // counts such that the rules hold.
  Named<int64_t> dims;
  // Attributes that the caller fixes. Others keep their default, or are drawn if random_attributes.
  Attributes attributes;
  bool random_attributes = false;
  // Chance that an optional input is given. Conditional inputs follow their condition.
  double optional_inputs = 0.5;
  // Inputs that must be given / must be absent, whatever the chance says.
  std::vector<std::string> with;
  std::vector<std::string> without;
  // Give cu_seqlens (B = 1, random cuts, an empty sequence now and then).
  bool packed = false;
  // Most bytes that the inputs may take together; 0: no limit. More is RESOURCE_EXHAUSTED, before
  // anything is allocated.
  int64_t max_bytes = 0;
};

// What an operator's RandomHook sees and may change.
class RandomSource {
 public:
  RandomSource(const OpSpec& spec, const RandomOptions& options);

  const OpSpec& spec() const { return spec_; }
  const RandomOptions& options() const { return options_; }
  CallRequest& request() { return request_; }
  Named<int64_t>& dims() { return dims_; }

  int64_t Uniform(int64_t low, int64_t high);  // Both inclusive.
  double Uniform01();
  double Gaussian();
  // Whether an optional input of that name is to be given in this draw: asked again, the same
  // answer.
  bool Wants(absl::string_view input);
  // Optional inputs of which a call gives those of one group and no other: the index of the group,
  // the one that the caller asks for or any that it does not forbid.
  size_t OneOf(std::initializer_list<std::initializer_list<absl::string_view>> groups);
  // Optional inputs that are given all or not at all; whether they are.
  bool Together(std::initializer_list<absl::string_view> group);

  // Sets an attribute unless the caller fixed it.
  void Attribute(absl::string_view name, AttrValue value);
  // Sets a size unless the caller fixed it; returns the size in force.
  int64_t Dim(absl::string_view symbol, int64_t value);

 private:
  const OpSpec& spec_;
  const RandomOptions& options_;
  uint64_t state_;
  CallRequest request_;
  Named<int64_t> dims_;
  bool Give(absl::Span<const absl::string_view> group, bool wanted);

  Named<bool> wanted_;
};

// OK if every size that the caller fixes is that of an axis, and everything in `with` and `without`
// an input, of the operator. RandomCall passes over those that are not: options may serve many
// operators.
absl::Status CheckRandomOptions(const OpSpec& spec, const RandomOptions& options);

// A request that Bind accepts; a function of the options alone (same seed, same bytes on every
// machine). INVALID_ARGUMENT if the fixed sizes and attributes contradict the schema.
absl::StatusOr<CallRequest> RandomCall(const Operator& op, const RandomOptions& options);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORE_RANDOM_CALL_H_
