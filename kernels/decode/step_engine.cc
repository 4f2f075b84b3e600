#include "kernels/decode/step_engine.h"

#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/primitives/cuda_module.h"

namespace attnd::decode {

absl::StatusOr<std::unique_ptr<StepEngine>> CreateCudaStepEngine(Backend& backend,
                                                                 const StepProgram& program) {
  std::string why;
  const CudaModule* module = LoadCudaModule(&why);
  if (module == nullptr) return absl::UnavailableError(absl::StrCat("no CUDA device: ", why));
  return module->create_step_engine(backend, program);
}

}  // namespace attnd::decode
