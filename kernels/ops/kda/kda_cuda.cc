#include "kernels/cores/recurrent_operator_cuda.h"

namespace attnd {

void RegisterKdaCuda(Registry& registry);

void RegisterKdaCuda(Registry& registry) { registry.AddKernel("kda", cuda::DeltaCudaKernel()); }

}  // namespace attnd
