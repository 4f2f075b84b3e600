#include "kernels/cores/recurrent_operator_cuda.h"

namespace attnd {

void RegisterGatedDeltaRuleCuda(Registry& registry);

void RegisterGatedDeltaRuleCuda(Registry& registry) {
  registry.AddKernel("gated_delta_rule", cuda::DeltaCudaKernel());
}

}  // namespace attnd
