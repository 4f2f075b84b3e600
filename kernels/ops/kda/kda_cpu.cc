#include "kernels/cores/delta_operator.h"

namespace attnd {

void RegisterKdaCpu(Registry& registry);

void RegisterKdaCpu(Registry& registry) { registry.AddKernel("kda", cpu::DeltaKernel()); }

}  // namespace attnd
