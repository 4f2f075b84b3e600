// Validation of a request against its schema, step by step. Internal to bind*.cc and call.cc.
#ifndef ATTND_KERNELS_CORE_BINDER_H_
#define ATTND_KERNELS_CORE_BINDER_H_

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/core/call.h"

namespace attnd {

class Binder final : public Environment {
 public:
  Binder(const OpSpec& spec, const CallRequest& request);

  absl::StatusOr<BoundCall> Run();
  // The same for a request that is known to have the form.
  absl::StatusOr<BoundCall> RunWith(std::shared_ptr<const CallForm> form);

  // Gives `call` a form whose derived sizes and outputs follow from its other sizes.
  static absl::Status Recompute(CallForm form, BoundCall& call);

  std::optional<AttrValue> Lookup(absl::string_view name) const override;
  bool Has(absl::string_view name) const override;

 private:
  Binder(CallForm form, BoundCall call);

  absl::Status CheckNames() const;
  absl::Status BindAttributes();
  absl::Status FillDefaults(bool final_round);
  absl::Status SpreadLists();
  absl::Status CheckPresence() const;
  absl::Status BindTypes();
  absl::Status BindSizes();
  absl::Status BindPort(const Port& port, const Tensor& tensor);
  absl::Status Unify(const Port& port, const Tensor& tensor, const std::vector<Expression>& shape,
                     bool complete);
  absl::Status BindDerived();
  absl::Status CheckComputedSizes();
  absl::Status CheckZeroSizes() const;
  absl::Status CheckRules() const;
  absl::Status DescribeOutputs();
  // Which of its shapes an output has by the inputs' (see op_spec.h), if they say.
  size_t PlaceOf(const Port& output) const;
  // FAILED_PRECONDITION if a size hangs on something that this call does not have.
  absl::StatusOr<Dims> SizesOf(const std::vector<Expression>& shape) const;
  // What hangs on the contents of tensors.
  absl::Status BindSequences(const CallForm& form);
  absl::Status Canonicalise(const CallForm& form);

  // Null if the symbol is no derived one.
  const Derived* FindDerived(absl::string_view symbol) const;
  absl::Status Error(absl::string_view subject, absl::string_view what) const;
  // "H=2 (q), causal=true": what the names stand for, and for a derived size what it follows from.
  std::string Values(std::vector<std::string> names) const;

  const OpSpec& spec_;
  const CallRequest* request_ = nullptr;
  CallForm form_;
  BoundCall call_;
  Named<std::string> bound_by_;  // Which input a symbol got its size from.
};

// Tokens of the longest sequence that a request's cu_seqlens, legal or not, cuts; -1 without them.
int64_t LongestSequence(const CallRequest& request);

// "float[B,T,H,K]" of "q: float[B,T,H,K]".
absl::string_view AfterColon(absl::string_view text);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORE_BINDER_H_
