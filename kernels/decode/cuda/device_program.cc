#include "kernels/decode/cuda/device_program.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/cuda/launch.h"
#include "kernels/primitives/cpu/vector_math.h"

namespace attnd::decode {
namespace {

int64_t RoundUp(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Copies to the device, one after the other, and remembers the first error.
class Uploader {
 public:
  Uploader(cuda::CudaBackend& backend, DeviceProgram& program)
      : backend_(backend), program_(program) {}

  const absl::Status& status() const { return status_; }
  void Fail(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
  }
  void Expect(bool holds, absl::string_view what, int64_t given, absl::string_view expected) {
    if (holds) return;
    Fail(absl::InvalidArgumentError(
        absl::StrCat(what, ": given ", given, ", expected ", expected, " on a CUDA device")));
  }

  const void* Put(const Tensor& host) {
    if (!status_.ok() || host.num_elements() == 0) return nullptr;
    absl::StatusOr<Tensor> device = backend_.Allocate(host.dtype(), host.shape());
    if (!device.ok()) return Fail(device.status()), nullptr;
    Fail(backend_.Upload(host, *device));
    program_.memory.push_back(*device);
    return device->raw();
  }
  template <typename T>
  const T* Put(const std::vector<T>& values, DType dtype) {
    const auto count = static_cast<int64_t>(values.size() * sizeof(T) / SizeOf(dtype));
    return static_cast<const T*>(Put(Tensor(const_cast<T*>(values.data()), dtype, {count})));
  }
  const float* Floats(const std::vector<float>& values) { return Put(values, DType::kFloat32); }
  // Ones where there are none.
  const float* Weight(const std::vector<float>& values, int64_t size) {
    return Floats(values.empty() ? std::vector<float>(static_cast<size_t>(size), 1.0f) : values);
  }

  DeviceMatrix Matrix(const cpu::PackedMatrix& packed) {
    DeviceMatrix matrix;
    absl::StatusOr<Tensor> dense = packed.Unpack();
    if (!dense.ok()) return Fail(dense.status()), matrix;
    matrix.outputs = packed.outputs();
    matrix.inputs = packed.inputs();
    matrix.bfloat16 = dense->dtype() == DType::kBFloat16;
    matrix.stride = RoundUp(matrix.inputs, kMatrixColumns);
    absl::StatusOr<Tensor> padded =
        AllocateHost(dense->dtype(), {RoundUp(matrix.outputs, kMatrixRows), matrix.stride});
    if (!padded.ok()) return Fail(padded.status()), matrix;
    std::memset(padded->raw(), 0, static_cast<size_t>(padded->byte_size()));
    const size_t size = SizeOf(dense->dtype());
    for (int64_t r = 0; r < matrix.outputs; ++r) {
      std::memcpy(padded->data<char>() + static_cast<size_t>(r * matrix.stride) * size,
                  dense->data<char>() + static_cast<size_t>(r * matrix.inputs) * size,
                  static_cast<size_t>(matrix.inputs) * size);
    }
    matrix.data = Put(*padded);
    return matrix;
  }

  // W^T as float32.
  const float* Transposed(const cpu::PackedMatrix& packed) {
    absl::StatusOr<Tensor> dense = packed.Unpack();
    if (!dense.ok()) return Fail(dense.status()), nullptr;
    const int64_t outputs = packed.outputs(), inputs = packed.inputs();
    std::vector<float> rows(static_cast<size_t>(outputs * inputs)), values(rows.size());
    cpu::LoadRow(dense->raw(), dense->dtype(), rows.data(), outputs * inputs);
    for (int64_t o = 0; o < outputs; ++o) {
      for (int64_t i = 0; i < inputs; ++i) {
        values[static_cast<size_t>(i * outputs + o)] = rows[static_cast<size_t>(o * inputs + i)];
      }
    }
    return Floats(values);
  }

  const DeviceRowOp* Ops(const std::vector<RowOp>& ops) {
    std::vector<DeviceRowOp> device;
    for (const RowOp& op : ops) {
      DeviceRowOp to = {};
      to.kind = op.kind;
      to.map = op.map;
      to.at = static_cast<int32_t>(op.at.offset);
      to.size = static_cast<int32_t>(op.at.size);
      to.to = static_cast<int32_t>(op.to.offset);
      to.parts = static_cast<int32_t>(op.parts);
      to.a = op.a;
      to.b = op.b;
      to.v = Floats(op.v);
      to.w = Floats(op.w);
      to.frequencies = Put(op.frequencies, DType::kFloat64);
      if (op.matrix != nullptr) {
        to.matrix = Transposed(*op.matrix);
        to.outputs = static_cast<int32_t>(op.matrix->outputs());
      } else {
        to.outputs = static_cast<int32_t>(op.to.size / op.parts);
      }
      device.push_back(to);
    }
    return PutBytes(device);
  }

  const DeviceConvolution* Convolutions(const std::vector<RowConvolution>& convolutions,
                                        int64_t state) {
    std::vector<DeviceConvolution> device;
    for (const RowConvolution& one : convolutions) {
      device.push_back({static_cast<int32_t>(one.at.offset), static_cast<int32_t>(one.at.size),
                        static_cast<int32_t>(one.taps), one.silu, Floats(one.weight),
                        Floats(one.bias), state});
      state += (one.taps - 1) * one.at.size;
    }
    return PutBytes(device);
  }

 private:
  template <typename T>
  const T* PutBytes(const std::vector<T>& values) {
    static_assert(sizeof(T) % sizeof(int64_t) == 0);
    return Put(values, DType::kInt64);
  }

  cuda::CudaBackend& backend_;
  DeviceProgram& program_;
  absl::Status status_;
};

DeviceLayout AddRecurrent(const RecurrentProgram& from, int32_t layer, Uploader& upload,
                          DeviceBlock& block) {
  upload.Expect(from.key_size <= kMostKeys, "head size of keys", from.key_size,
                absl::StrCat("at most ", kMostKeys));
  const int64_t pad = RoundUp(from.key_size, kKeyPad);
  const int64_t columns = from.value_size + (from.normalise ? 1 : 0);
  int64_t convolved = 0, kept = 0;
  for (const RowConvolution& one : from.convolutions) {
    convolved += one.at.size;
    kept += (one.taps - 1) * one.at.size;
  }
  const int64_t state = from.heads * columns * pad;
  block.recurrent = true;
  block.rows.width = static_cast<int32_t>(from.in.outputs());
  block.rows.row_size = static_cast<int32_t>(from.row_size);
  block.rows.layer = layer;
  block.rows.convolutions = upload.Convolutions(from.convolutions, state);
  block.rows.convolution_count = static_cast<int32_t>(from.convolutions.size());
  block.rows.ops = upload.Ops(from.ops);
  block.rows.op_count = static_cast<int32_t>(from.ops.size());

  RecurrenceParams& r = block.recurrence;
  r.layer = layer;
  r.heads = static_cast<int32_t>(from.heads);
  r.query_heads = static_cast<int32_t>(from.query_heads);
  r.key_heads = static_cast<int32_t>(from.key_heads);
  r.value_heads = static_cast<int32_t>(from.value_heads);
  r.key_size = static_cast<int32_t>(from.key_size);
  r.key_pad = static_cast<int32_t>(pad);
  r.value_size = static_cast<int32_t>(from.value_size);
  r.q = static_cast<int32_t>(from.q.offset);
  r.k = static_cast<int32_t>(from.k.offset);
  r.v = static_cast<int32_t>(from.v.offset);
  r.g = static_cast<int32_t>(from.g.offset);
  r.beta = static_cast<int32_t>(from.beta.offset);
  r.decay = from.decay;
  r.delta = from.delta;
  r.normalise = from.normalise;
  r.convolutions = block.rows.convolutions;
  r.convolution_count = block.rows.convolution_count;
  r.convolved = convolved;

  FinishParams& f = block.finish;
  f.heads = r.heads;
  f.value_size = r.value_size;
  f.normalise = from.normalise;
  f.dots_eps = static_cast<float>(from.dots_eps);
  f.norm = from.norm_group > 0;
  f.group = static_cast<int32_t>(f.norm ? from.norm_group : from.value_size);
  f.norm_eps = from.norm_eps;
  // One norm's weights for every group.
  std::vector<float> weights = from.norm;
  while (!weights.empty() && static_cast<int64_t>(weights.size()) < from.heads * from.value_size) {
    weights.insert(weights.end(), from.norm.begin(), from.norm.end());
  }
  f.norm_weight = upload.Floats(weights);
  f.gate = static_cast<int32_t>(from.gate.offset);
  f.gate_kind = from.gate_kind;
  f.gate_first = from.gate_first;
  f.skipped = static_cast<int32_t>(from.skipped.offset);
  f.skip = upload.Floats(from.skip);
  return {.fixed = state + kept};
}

DeviceLayout AddAttention(const AttentionProgram& from, int32_t paged_layer, Uploader& upload,
                          DeviceBlock& block) {
  upload.Expect(from.head_size <= kMostHeadSize && from.head_size % 4 == 0, "head size",
                from.head_size, absl::StrCat("a multiple of 4, at most ", kMostHeadSize));
  block.rows.width = block.rows.row_size = static_cast<int32_t>(from.in.outputs());
  block.rows.ops = upload.Ops(from.ops);
  block.rows.op_count = static_cast<int32_t>(from.ops.size());
  block.rows.paged_layer = paged_layer;
  block.rows.kv_heads = static_cast<int32_t>(from.kv_heads);
  block.rows.head_size = static_cast<int32_t>(from.head_size);
  block.rows.keys = static_cast<int32_t>(from.heads * from.head_size);
  AttentionParams& a = block.attention;
  a.paged_layer = paged_layer;
  a.heads = static_cast<int32_t>(from.heads);
  a.kv_heads = block.rows.kv_heads;
  a.head_size = block.rows.head_size;
  a.window = static_cast<int32_t>(from.window);
  return {.page = 2 * from.kv_heads * kPagePositions * from.head_size, .window = from.window};
}

}  // namespace

absl::StatusOr<DeviceProgram> UploadProgram(cuda::CudaBackend& backend,
                                            const StepProgram& program) {
  DeviceProgram device;
  Uploader upload(backend, device);
  device.hidden = program.hidden;
  device.vocab = program.vocab;
  device.inner = program.inner;
  device.norm_eps = program.norm_eps;
  device.embedding = upload.Put(program.embedding);
  device.embedding_type = program.embedding.dtype();
  device.norm = upload.Weight(program.norm, program.hidden);
  device.head = upload.Matrix(*program.head);
  // A row in shared memory, beside its operations.
  const int row_bytes =
      cuda::SharedMemoryLimit() - static_cast<int>(kMostRowOps * sizeof(DeviceRowOp));
  for (const BlockProgram& from : program.blocks) {
    DeviceBlock block;
    block.mixer_norm = upload.Weight(from.mixer_norm, program.hidden);
    block.mlp = from.gate_up != nullptr;
    if (block.mlp) {
      block.mlp_norm = upload.Weight(from.mlp_norm, program.hidden);
      block.gate_up = upload.Matrix(*from.gate_up);
      block.down = upload.Matrix(*from.down);
    }
    if (const auto* const* recurrent = std::get_if<const RecurrentProgram*>(&from.mixer)) {
      const auto layer = static_cast<int32_t>(device.blocks.size());
      device.layouts.push_back(AddRecurrent(**recurrent, layer, upload, block));
      block.in = upload.Matrix((*recurrent)->in);
      block.in.bias = upload.Floats((*recurrent)->in_bias);
      block.out = upload.Matrix((*recurrent)->out);
      block.out.bias = upload.Floats((*recurrent)->out_bias);
      device.y_size = std::max(device.y_size, block.out.inputs + (*recurrent)->heads);
    } else {
      const AttentionProgram& attention = *std::get<const AttentionProgram*>(from.mixer);
      const auto layer = static_cast<int32_t>(device.paged_layers++);
      device.layouts.push_back(AddAttention(attention, layer, upload, block));
      block.in = upload.Matrix(attention.in);
      block.out = upload.Matrix(attention.out);
      device.y_size = std::max(device.y_size, block.out.inputs);
    }
    upload.Expect(block.rows.row_size * static_cast<int>(sizeof(float)) <= row_bytes,
                  "projections of a token", block.rows.row_size,
                  absl::StrCat("at most ", row_bytes / sizeof(float), " values"));
    device.row_size = std::max<int64_t>(device.row_size, block.rows.row_size);
    device.blocks.push_back(block);
  }
  if (!upload.status().ok()) return upload.status();
  // Host copies are gone when this returns.
  if (absl::Status s = backend.Synchronize(); !s.ok()) return s;
  return device;
}

}  // namespace attnd::decode
