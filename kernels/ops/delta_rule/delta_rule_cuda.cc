#include "kernels/cores/recurrent_operator_cuda.h"

namespace attnd {

void RegisterDeltaRuleCuda(Registry& registry);

void RegisterDeltaRuleCuda(Registry& registry) {
  registry.AddKernel("delta_rule", cuda::DeltaCudaKernel());
}

}  // namespace attnd
