#include "kernels/decode/cuda/cuda_step_engine.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/numeric/bits.h"
#include "absl/strings/str_cat.h"
#include "kernels/cuda/launch.h"

namespace attnd::decode {
namespace {

// Sequences of the largest graph: larger steps are worth their launches.
constexpr int64_t kMostCaptured = 1024;

int64_t Stride(int64_t size) { return (size + 3) / 4 * 4; }

size_t Aligned(size_t bytes) { return (bytes + 15) / 16 * 16; }

absl::Status Failed(cudaError_t error) {
  return absl::InternalError(absl::StrCat("a step on the device: ", cudaGetErrorString(error)));
}

// The first page that any token of the sequence sees, given its layer's window.
int64_t FirstPage(const StepSequence& sequence, int64_t window) {
  if (window == 0) return 0;
  return std::max<int64_t>(0, sequence.position - window + 1) / kPagePositions;
}

}  // namespace

absl::StatusOr<std::unique_ptr<StepEngine>> CudaStepEngine::Create(Backend& backend,
                                                                   const StepProgram& program) {
  auto& own = static_cast<cuda::CudaBackend&>(backend);
  absl::StatusOr<DeviceProgram> device = UploadProgram(own, program);
  if (!device.ok()) return device.status();
  std::unique_ptr<CudaStepEngine> engine(new CudaStepEngine(own, *std::move(device)));
  if (const cudaError_t error = cudaStreamCreateWithFlags(&engine->capture_, cudaStreamNonBlocking);
      error != cudaSuccess) {
    return Failed(error);
  }
  return engine;
}

CudaStepEngine::~CudaStepEngine() {
  graphs_.clear();
  if (capture_ != nullptr) cudaStreamDestroy(capture_);
}

CudaStepEngine::TableOffsets CudaStepEngine::OffsetsOf(const Shape& shape) const {
  TableOffsets offsets;
  size_t at = 0;
  const auto take = [&](int64_t count, size_t size) {
    return std::exchange(at, at + Aligned(static_cast<size_t>(count) * size));
  };
  offsets.rows = take(shape.rows, sizeof(StepRow));
  offsets.segments = take(shape.segments, sizeof(StepSegment));
  offsets.asked = take(shape.asked, sizeof(int32_t));
  const auto layers = static_cast<int64_t>(program_.blocks.size());
  offsets.fixed = take(layers * shape.segments, sizeof(float*));
  offsets.page_runs = take(program_.paged_layers * shape.segments, sizeof(PageRun));
  offsets.pages = take(shape.page_pointers, sizeof(float*));
  offsets.end = at;
  return offsets;
}

StepTables CudaStepEngine::TablesOf(const Shape& shape) const {
  const TableOffsets offsets = OffsetsOf(shape);
  const char* base = tables_.data<char>();
  return {reinterpret_cast<const StepRow*>(base + offsets.rows),
          reinterpret_cast<const StepSegment*>(base + offsets.segments),
          reinterpret_cast<float* const*>(base + offsets.fixed),
          reinterpret_cast<const PageRun*>(base + offsets.page_runs),
          reinterpret_cast<float* const*>(base + offsets.pages),
          reinterpret_cast<const int32_t*>(base + offsets.asked),
          static_cast<int32_t>(shape.segments)};
}

absl::Status CudaStepEngine::Reserve(const Shape& shape) {
  absl::Status status;
  const auto pinned = [&](size_t bytes) {
    void* memory = nullptr;
    if (cudaMallocHost(&memory, bytes) != cudaSuccess) {
      cudaGetLastError();
      status = absl::ResourceExhaustedError(
          absl::StrCat("no host memory for ", bytes, " bytes that the device reads"));
    }
    return PinnedBytes(static_cast<char*>(memory));
  };
  const auto grow = [&](Tensor& tensor, DType dtype, int64_t count) {
    absl::StatusOr<Tensor> memory = backend_.Allocate(dtype, {count});
    if (memory.ok()) {
      tensor = *std::move(memory);
    } else if (status.ok()) {
      status = memory.status();
    }
  };
  if (shape.rows > room_.rows) {
    graphs_.clear();
    const auto rows = static_cast<int64_t>(absl::bit_ceil(static_cast<uint64_t>(shape.rows)));
    room_.rows = 0;
    const std::pair<Tensor*, int64_t> sizes[] = {
        {&x_, program_.hidden},      {&normed_, program_.hidden}, {&raw_, program_.row_size},
        {&rows_, program_.row_size}, {&y_, program_.y_size},      {&both_, 2 * program_.inner},
        {&inner_, program_.inner}};
    for (const auto& [tensor, size] : sizes) grow(*tensor, DType::kFloat32, rows * Stride(size));
    if (!status.ok()) return status;
    room_.rows = rows;
  }
  if (shape.asked > room_.asked) {
    graphs_.clear();
    const auto asked = static_cast<int64_t>(absl::bit_ceil(static_cast<uint64_t>(shape.asked)));
    room_.asked = 0;
    grow(logits_, DType::kFloat32, asked * program_.vocab);
    host_logits_ = pinned(static_cast<size_t>(asked * program_.vocab) * sizeof(float));
    if (!status.ok()) return status;
    room_.asked = asked;
  }
  if (const size_t bytes = OffsetsOf(shape).end; bytes > table_bytes_) {
    graphs_.clear();
    table_bytes_ = 0;
    const size_t all = absl::bit_ceil(bytes);
    grow(tables_, DType::kInt64, static_cast<int64_t>(all / sizeof(int64_t)));
    host_tables_ = pinned(all);
    if (!status.ok()) return status;
    table_bytes_ = all;
  }
  return status;
}

void CudaStepEngine::FillTables(absl::Span<const StepSequence> sequences, const Shape& shape) {
  const TableOffsets offsets = OffsetsOf(shape);
  char* base = host_tables_.get();
  auto* rows = reinterpret_cast<StepRow*>(base + offsets.rows);
  auto* segments = reinterpret_cast<StepSegment*>(base + offsets.segments);
  auto* asked = reinterpret_cast<int32_t*>(base + offsets.asked);
  auto* fixed = reinterpret_cast<float**>(base + offsets.fixed);
  auto* runs = reinterpret_cast<PageRun*>(base + offsets.page_runs);
  auto* pages = reinterpret_cast<float**>(base + offsets.pages);
  int32_t row = 0, pointer = 0;
  for (size_t s = 0; s < sequences.size(); ++s) {
    const StepSequence& sequence = sequences[s];
    const auto count = static_cast<int32_t>(sequence.tokens.size());
    segments[s] = {row, count};
    for (int32_t t = 0; t < count; ++t) {
      rows[row + t] = {sequence.tokens[static_cast<size_t>(t)], static_cast<int32_t>(s), t,
                       static_cast<int32_t>(sequence.position) + t};
      const bool wanted = sequence.logits != nullptr && (sequence.all_logits || t + 1 == count);
      if (wanted) *asked++ = row + t;
    }
    row += count;
    int64_t paged = 0;
    for (size_t l = 0; l < program_.layouts.size(); ++l) {
      const DeviceLayout& layout = program_.layouts[l];
      const size_t at = l * static_cast<size_t>(shape.segments) + s;
      fixed[at] = layout.fixed > 0 ? sequence.layers[l].fixed.data<float>() : nullptr;
      if (layout.page == 0) continue;
      const int64_t first = FirstPage(sequence, layout.window);
      runs[paged++ * shape.segments + static_cast<int64_t>(s)] = {pointer,
                                                                  static_cast<int32_t>(first)};
      const auto end = static_cast<int64_t>(sequence.layers[l].pages.size());
      for (int64_t p = first; p < end; ++p) {
        const Tensor& page = sequence.layers[l].pages[static_cast<size_t>(p)];
        pages[pointer++] = page.defined() ? page.data<float>() : nullptr;
      }
    }
  }
  for (; row < shape.rows; ++row) rows[row] = StepRow();
  for (auto s = static_cast<int64_t>(sequences.size()); s < shape.segments; ++s) {
    segments[s] = StepSegment();
  }
  const int32_t* end = reinterpret_cast<const int32_t*>(base + offsets.asked) + shape.asked;
  while (asked < end) *asked++ = 0;
}

cudaError_t CudaStepEngine::EnqueueBlock(const StepTables& tables, const Shape& shape,
                                         const DeviceBlock& block, cudaStream_t stream) {
  const int64_t hidden = Stride(program_.hidden), row = Stride(program_.row_size);
  const int64_t wide = Stride(program_.y_size), inner = Stride(program_.inner);
  auto* x = x_.data<float>();
  auto* normed = normed_.data<float>();
  auto* y = y_.data<float>();
  cudaError_t error = cudaSuccess;
  const auto then = [&](cudaError_t next) {
    if (error == cudaSuccess) error = next;
  };
  then(LaunchRmsNorm(x, hidden, nullptr, shape.rows, program_.hidden, program_.norm_eps,
                     block.mixer_norm, normed, hidden, stream));
  then(LaunchMatrixProduct(block.in, normed, hidden, shape.rows, raw_.data<float>(), row, false,
                           stream));
  RowsParams rows = block.rows;
  rows.raw = raw_.data<float>();
  rows.rows = rows_.data<float>();
  rows.stride = row;
  then(LaunchRows(tables, shape.rows, rows, stream));
  if (block.recurrent) {
    RecurrenceParams recurrence = block.recurrence;
    recurrence.raw = rows.raw;
    recurrence.rows = rows.rows;
    recurrence.stride = row;
    recurrence.y = y;
    recurrence.y_stride = wide;
    then(LaunchRecurrence(tables, shape.segments, recurrence, stream));
    FinishParams finish = block.finish;
    finish.rows = rows.rows;
    finish.stride = row;
    finish.y = y;
    finish.y_stride = wide;
    then(LaunchFinish(shape.rows, finish, stream));
  } else {
    AttentionParams attention = block.attention;
    attention.rows = rows.rows;
    attention.stride = row;
    attention.y = y;
    attention.y_stride = wide;
    then(LaunchAttention(tables, shape.rows, attention, stream));
  }
  then(LaunchMatrixProduct(block.out, y, wide, shape.rows, x, hidden, true, stream));
  if (!block.mlp) return error;
  then(LaunchRmsNorm(x, hidden, nullptr, shape.rows, program_.hidden, program_.norm_eps,
                     block.mlp_norm, normed, hidden, stream));
  const int64_t both = Stride(2 * program_.inner);
  then(LaunchMatrixProduct(block.gate_up, normed, hidden, shape.rows, both_.data<float>(), both,
                           false, stream));
  then(LaunchGatedProduct(both_.data<float>(), both, shape.rows, program_.inner,
                          inner_.data<float>(), inner, stream));
  then(LaunchMatrixProduct(block.down, inner_.data<float>(), inner, shape.rows, x, hidden, true,
                           stream));
  return error;
}

cudaError_t CudaStepEngine::Enqueue(const Shape& shape, cudaStream_t stream) {
  const StepTables tables = TablesOf(shape);
  const int64_t hidden = Stride(program_.hidden);
  cudaError_t error = LaunchEmbed(tables, shape.rows, program_.embedding, program_.embedding_type,
                                  program_.hidden, x_.data<float>(), hidden, stream);
  for (const DeviceBlock& block : program_.blocks) {
    if (error != cudaSuccess) return error;
    error = EnqueueBlock(tables, shape, block, stream);
  }
  if (error != cudaSuccess || shape.asked == 0) return error;
  error = LaunchRmsNorm(x_.data<float>(), hidden, tables.asked, shape.asked, program_.hidden,
                        program_.norm_eps, program_.norm, normed_.data<float>(), hidden, stream);
  if (error != cudaSuccess) return error;
  return LaunchMatrixProduct(program_.head, normed_.data<float>(), hidden, shape.asked,
                             logits_.data<float>(), program_.vocab, false, stream);
}

absl::StatusOr<cudaGraphExec_t> CudaStepEngine::GraphOf(const Shape& shape) {
  Graph& own = graphs_[shape.segments];
  if (own != nullptr) return own.get();
  cudaError_t error = cudaStreamBeginCapture(capture_, cudaStreamCaptureModeThreadLocal);
  if (error != cudaSuccess) return Failed(error);
  error = Enqueue(shape, capture_);
  cudaGraph_t graph = nullptr;
  const cudaError_t ended = cudaStreamEndCapture(capture_, &graph);
  const absl::Cleanup destroy = [&] {
    if (graph != nullptr) cudaGraphDestroy(graph);
  };
  if (error != cudaSuccess || ended != cudaSuccess) {
    return Failed(error != cudaSuccess ? error : ended);
  }
  cudaGraphExec_t captured = nullptr;
  error = cudaGraphInstantiate(&captured, graph, 0);
  if (error != cudaSuccess) return Failed(error);
  own.reset(captured);
  return captured;
}

absl::Status CudaStepEngine::Run(absl::Span<const StepSequence> sequences) {
  if (sequences.empty()) return absl::OkStatus();
  cudaSetDevice(backend_.ordinal());
  Shape shape;
  bool decodes = static_cast<int64_t>(sequences.size()) <= kMostCaptured;
  for (const StepSequence& sequence : sequences) {
    const auto count = static_cast<int64_t>(sequence.tokens.size());
    ++shape.segments;
    shape.rows += count;
    if (sequence.logits != nullptr) shape.asked += sequence.all_logits ? count : 1;
    decodes = decodes && count == 1 && sequence.logits != nullptr;
    for (size_t l = 0; l < program_.layouts.size(); ++l) {
      const DeviceLayout& layout = program_.layouts[l];
      if (layout.page == 0) continue;
      shape.page_pointers += static_cast<int64_t>(sequence.layers[l].pages.size()) -
                             FirstPage(sequence, layout.window);
    }
  }
  const int64_t asked = shape.asked;
  if (decodes) {
    shape.rows = shape.segments = shape.asked =
        static_cast<int64_t>(absl::bit_ceil(static_cast<uint64_t>(sequences.size())));
  }
  if (absl::Status s = Reserve(shape); !s.ok()) return s;
  FillTables(sequences, shape);
  cudaStream_t stream = backend_.stream();
  cudaError_t error = cudaMemcpyAsync(tables_.raw(), host_tables_.get(), OffsetsOf(shape).end,
                                      cudaMemcpyHostToDevice, stream);
  if (error != cudaSuccess) return Failed(error);
  if (decodes) {
    absl::StatusOr<cudaGraphExec_t> graph = GraphOf(shape);
    if (!graph.ok()) return graph.status();
    error = cudaGraphLaunch(*graph, stream);
  } else {
    error = Enqueue(shape, stream);
  }
  if (error != cudaSuccess) return Failed(error);
  const auto row = static_cast<size_t>(program_.vocab) * sizeof(float);
  if (asked > 0) {
    error = cudaMemcpyAsync(host_logits_.get(), logits_.raw(), static_cast<size_t>(asked) * row,
                            cudaMemcpyDeviceToHost, stream);
    if (error != cudaSuccess) return Failed(error);
  }
  if (absl::Status s = backend_.Synchronize(); !s.ok()) return s;
  const char* from = host_logits_.get();
  for (const StepSequence& sequence : sequences) {
    if (sequence.logits == nullptr) continue;
    const size_t bytes = (sequence.all_logits ? sequence.tokens.size() : 1) * row;
    std::memcpy(sequence.logits, from, bytes);
    from += bytes;
  }
  return absl::OkStatus();
}

}  // namespace attnd::decode
