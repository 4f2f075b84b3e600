// A step program in the device's memory: weights, and the parameters of every launch but where
// activations stand.
#ifndef ATTND_KERNELS_DECODE_CUDA_DEVICE_PROGRAM_H_
#define ATTND_KERNELS_DECODE_CUDA_DEVICE_PROGRAM_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/decode/cuda/step_kernels.h"
#include "kernels/decode/step_engine.h"
#include "kernels/decode/step_program.h"
#include "kernels/primitives/cuda/cuda_backend.h"

namespace attnd::decode {

struct DeviceBlock {
  const float* mixer_norm = nullptr;
  const float* mlp_norm = nullptr;
  DeviceMatrix in, out, gate_up, down;
  bool mlp = false;  // Whether there is one.
  RowsParams rows = {};
  bool recurrent = false;
  RecurrenceParams recurrence = {};  // If it is; then finish.
  FinishParams finish = {};
  AttentionParams attention = {};
};

struct DeviceProgram {
  int64_t hidden = 0, vocab = 0, inner = 0;
  double norm_eps = 0;
  const void* embedding = nullptr;
  DType embedding_type = DType::kFloat32;
  std::vector<DeviceBlock> blocks;
  const float* norm = nullptr;
  DeviceMatrix head;
  std::vector<DeviceLayout> layouts;
  int64_t paged_layers = 0;
  // The widest of all blocks, in floats.
  int64_t row_size = 0, y_size = 0;
  std::vector<Tensor> memory;  // All that the pointers point to.
};

// Errors as CreateCudaStepEngine's.
absl::StatusOr<DeviceProgram> UploadProgram(cuda::CudaBackend& backend, const StepProgram& program);

}  // namespace attnd::decode

#endif  // ATTND_KERNELS_DECODE_CUDA_DEVICE_PROGRAM_H_
