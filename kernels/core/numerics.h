// How far a result is from its float64 definition.
#ifndef ATTND_KERNELS_CORE_NUMERICS_H_
#define ATTND_KERNELS_CORE_NUMERICS_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/core/registry.h"

namespace attnd {

struct ErrorReport {
  std::string output;
  double max_abs = 0;   // max |out - ref|
  double max_rel = 0;   // max |out - ref| / |ref| where ref != 0
  double relative = 0;  // ‖out - ref‖ / ‖ref‖; ‖out‖ if ref is all zeros
  double rmse = 0;
  double cosine = 1;     // 1 if both are zero
  uint64_t ulp_p50 = 0;  // Distance in units in the last place of the output's type.
  uint64_t ulp_p99 = 0;
  uint64_t ulp_max = 0;
  int64_t nan_count = 0;  // In the result.
  int64_t inf_count = 0;
  int64_t nonfinite_mismatch =
      0;             // Elements where result and reference differ in being NaN or ±inf.
  Dims worst_index;  // Of max_abs.
};

// Both tensors on the host, contiguous, equal shapes; `reference` float64 (or integer, compared
// exactly).
ErrorReport CompareTensors(absl::string_view output, const Tensor& result, const Tensor& reference);

struct NumericsReport {
  std::string kernel;
  std::string device;
  std::string reference;  // "composed float64 on cpu"
  std::vector<ErrorReport> outputs;
  bool bitwise_repeatable = false;  // A second run gave the same bits.
  double compute_seconds = 0;
  double reference_seconds = 0;
  double tolerance = 0;
  bool within_tolerance =
      false;  // Every output's relative error is, and no mismatch of NaN or inf.
};

// Runs `request` twice on `backend` and once as the float64 definition on `cpu`.
absl::StatusOr<NumericsReport> Compare(const Operator& op, Backend& backend, Backend& cpu,
                                       const CallRequest& request);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORE_NUMERICS_H_
