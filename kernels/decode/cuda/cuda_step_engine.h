// The step engine of a CUDA device. Steps that decode one token of every sequence run as captured
// graphs, one for each power of two of sequences.
#ifndef ATTND_KERNELS_DECODE_CUDA_CUDA_STEP_ENGINE_H_
#define ATTND_KERNELS_DECODE_CUDA_CUDA_STEP_ENGINE_H_

#include <cuda_runtime.h>

#include <map>
#include <memory>
#include <vector>

#include "kernels/decode/cuda/device_program.h"
#include "kernels/decode/cuda/step_tables.h"
#include "kernels/decode/step_engine.h"

namespace attnd::decode {

class CudaStepEngine final : public StepEngine {
 public:
  // `backend` is the CUDA backend.
  static absl::StatusOr<std::unique_ptr<StepEngine>> Create(Backend& backend,
                                                            const StepProgram& program);
  ~CudaStepEngine() override;

  absl::Span<const DeviceLayout> layouts() const override { return program_.layouts; }
  absl::Status Run(absl::Span<const StepSequence> sequences) override;

 private:
  // Sizes of one step. Those of a graph are its bucket's.
  struct Shape {
    int64_t rows = 0;
    int64_t segments = 0;
    int64_t asked = 0;
    int64_t page_pointers = 0;
  };
  // Where the tables of a step of some shape stand in their buffer, in bytes.
  struct TableOffsets {
    size_t rows, segments, asked, fixed, page_runs, pages, end;
  };
  struct FreeHost {
    void operator()(char* p) const { cudaFreeHost(p); }
  };
  using PinnedBytes = std::unique_ptr<char, FreeHost>;
  struct DestroyGraph {
    void operator()(cudaGraphExec_t graph) const { cudaGraphExecDestroy(graph); }
  };
  using Graph = std::unique_ptr<std::remove_pointer_t<cudaGraphExec_t>, DestroyGraph>;

  CudaStepEngine(cuda::CudaBackend& backend, DeviceProgram program)
      : backend_(backend), program_(std::move(program)) {}

  TableOffsets OffsetsOf(const Shape& shape) const;
  StepTables TablesOf(const Shape& shape) const;
  // Room for a step; drops the graphs if memory moved.
  absl::Status Reserve(const Shape& shape);
  void FillTables(absl::Span<const StepSequence> sequences, const Shape& shape);
  // Queues all kernels of a step on `stream`. The first error of a launch.
  cudaError_t Enqueue(const Shape& shape, cudaStream_t stream);
  cudaError_t EnqueueBlock(const StepTables& tables, const Shape& shape, const DeviceBlock& block,
                           cudaStream_t stream);
  absl::StatusOr<cudaGraphExec_t> GraphOf(const Shape& shape);

  cuda::CudaBackend& backend_;
  const DeviceProgram program_;
  // Activations of up to `rows` rows; logits of up to `asked`.
  Shape room_;
  Tensor x_, normed_, raw_, rows_, y_, both_, inner_, logits_;
  size_t table_bytes_ = 0;
  Tensor tables_;
  PinnedBytes host_tables_, host_logits_;
  cudaStream_t capture_ = nullptr;  // Nothing runs on it.
  std::map<int64_t, Graph> graphs_;
};

}  // namespace attnd::decode

#endif  // ATTND_KERNELS_DECODE_CUDA_CUDA_STEP_ENGINE_H_
