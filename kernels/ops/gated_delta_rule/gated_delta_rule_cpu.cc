#include "kernels/cores/delta_operator.h"

namespace attnd {

void RegisterGatedDeltaRuleCpu(Registry& registry);

void RegisterGatedDeltaRuleCpu(Registry& registry) {
  registry.AddKernel("gated_delta_rule", cpu::DeltaKernel());
}

}  // namespace attnd
