// Launches of a step's kernels, all asynchronous on `stream`. Activations are float32 rows in the
// device's memory, `stride` floats apart. Every error is the launch's own (cudaGetLastError).
#ifndef ATTND_KERNELS_DECODE_CUDA_STEP_KERNELS_H_
#define ATTND_KERNELS_DECODE_CUDA_STEP_KERNELS_H_

#include <cuda_runtime.h>

#include <cstdint>

#include "kernels/core/dtype.h"
#include "kernels/decode/cuda/step_tables.h"
#include "kernels/decode/row_ops.h"
#include "kernels/decode/step_program.h"

namespace attnd::decode {

// A weight matrix W [outputs, inputs], zeros up to multiples of kMatrixRows and kMatrixColumns;
// bfloat16, or float32 for all other types.
inline constexpr int64_t kMatrixRows = 64;
inline constexpr int64_t kMatrixColumns = 32;
struct DeviceMatrix {
  const void* data = nullptr;
  bool bfloat16 = false;
  int64_t outputs = 0, inputs = 0;
  int64_t stride = 0;           // Elements of a padded row.
  const float* bias = nullptr;  // [outputs], added to every row.
};

// y = W x + bias, or y += with `accumulate`, for `rows` rows; x_stride a multiple of 4 and x
// aligned to 16 bytes. Each element is one chain of tensor core products over the inner index:
// bfloat16 weights times x in two bfloat16 parts (16 bits), or three products in TF32.
cudaError_t LaunchMatrixProduct(const DeviceMatrix& w, const float* x, int64_t x_stride,
                                int64_t rows, float* y, int64_t y_stride, bool accumulate,
                                cudaStream_t stream);

// x_r = embedding[token of row r].
cudaError_t LaunchEmbed(const StepTables& tables, int64_t rows, const void* embedding, DType dtype,
                        int64_t hidden, float* x, int64_t x_stride, cudaStream_t stream);

// out_i = RMSNorm(x_i) * weight, or of row index[i] where there is an index.
cudaError_t LaunchRmsNorm(const float* x, int64_t x_stride, const int32_t* index, int64_t rows,
                          int64_t size, double eps, const float* weight, float* out,
                          int64_t out_stride, cudaStream_t stream);

// inner = silu(both[0, size)) * both[size, 2 size).
cudaError_t LaunchGatedProduct(const float* both, int64_t both_stride, int64_t rows, int64_t size,
                               float* inner, int64_t inner_stride, cudaStream_t stream);

// Row operations with their arrays in the device's memory.
struct DeviceRowOp {
  RowOpKind kind;
  FeatureMap map;
  int32_t at, size, to, parts;
  double a, b;
  const float* v;
  const float* w;
  const double* frequencies;
  const float* matrix;  // [inputs, outputs]: W transposed.
  int32_t outputs;      // Of a part: W's, or features.
};
inline constexpr int64_t kMostRowOps = 32;
struct DeviceConvolution {
  int32_t at, channels, taps;
  bool silu;
  const float* weight;
  const float* bias;
  int64_t state;  // Where its last W - 1 inputs stand in a layer's fixed part, oldest first.
};

struct RowsParams {
  const float* raw;  // Projected rows; kept for later rows' convolutions.
  float* rows;       // Results.
  int64_t stride;    // Of both.
  int32_t width;     // Projected floats of a row.
  int32_t row_size;  // And room behind them.
  int32_t layer;
  const DeviceConvolution* convolutions;
  int32_t convolution_count;
  const DeviceRowOp* ops;
  int32_t op_count;
  // Softmax layers: a row's keys and values go into its page. -1: there are none.
  int32_t paged_layer = -1;
  int32_t kv_heads = 0, head_size = 0, keys = 0;  // keys: their offset; values follow.
};
// Convolutions (of raw rows and a sequence's last inputs), operations, pages.
cudaError_t LaunchRows(const StepTables& tables, int64_t rows, const RowsParams& params,
                       cudaStream_t stream);

// A head's state is S transposed, [V, Kp] with K padded to Kp, a multiple of kKeyPad; with a
// normaliser z is one column of values more, whose values are ones.
inline constexpr int64_t kKeyPad = 16;
inline constexpr int64_t kMostKeys = 320;
struct RecurrenceParams {
  const float* raw;  // For the convolutions' last inputs.
  const float* rows;
  int64_t stride;
  int32_t layer;
  int32_t heads, query_heads, key_heads, value_heads;
  int32_t key_size, key_pad, value_size;
  int32_t q, k, v, g, beta;  // Offsets.
  Decay decay;
  bool delta, normalise;
  const DeviceConvolution* convolutions;
  int32_t convolution_count;
  int64_t convolved;  // Channels of all convolutions.
  float* y;           // [rows][heads, V], then [heads] q·z with a normaliser.
  int64_t y_stride;
};
cudaError_t LaunchRecurrence(const StepTables& tables, int64_t segments,
                             const RecurrenceParams& params, cudaStream_t stream);

struct FinishParams {
  const float* rows;
  int64_t stride;
  float* y;
  int64_t y_stride;
  int32_t heads, value_size;
  bool normalise;
  float dots_eps;
  int32_t group;  // Channels of one norm.
  bool norm;      // Whether there is one.
  double norm_eps;
  const float* norm_weight;  // [heads * V], or null: ones.
  int32_t gate, skipped;     // Offsets.
  RecurrentProgram::Gate gate_kind;
  bool gate_first;
  const float* skip;  // Or null.
};
// What stands between the recurrence and W_out, in place.
cudaError_t LaunchFinish(int64_t rows, const FinishParams& params, cudaStream_t stream);

// Softmax attention of every row over its sequence's pages. A page holds [kv_heads][64] keys, then
// [kv_heads][64] values, of head_size floats each.
struct AttentionParams {
  const float* rows;
  int64_t stride;
  int32_t paged_layer;
  int32_t heads, kv_heads, head_size;
  int32_t window;  // 0: all.
  float* y;
  int64_t y_stride;
};
inline constexpr int64_t kMostHeadSize = 256;
cudaError_t LaunchAttention(const StepTables& tables, int64_t rows, const AttentionParams& params,
                            cudaStream_t stream);

}  // namespace attnd::decode

#endif  // ATTND_KERNELS_DECODE_CUDA_STEP_KERNELS_H_
