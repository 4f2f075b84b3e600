#include "kernels/cores/delta_operator.h"

namespace attnd {

void RegisterDeltaRuleCpu(Registry& registry);

void RegisterDeltaRuleCpu(Registry& registry) {
  registry.AddKernel("delta_rule", cpu::DeltaKernel());
}

}  // namespace attnd
