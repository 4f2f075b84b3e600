// A language model as numerics: what one step computes for a row of each token, layer by layer,
// with its weights. Models build it once from their checkpoint; the CPU's mixers run its parts, and
// a GPU's step engine (step_engine.h) runs it whole.
#ifndef ATTND_KERNELS_DECODE_STEP_PROGRAM_H_
#define ATTND_KERNELS_DECODE_STEP_PROGRAM_H_

#include <cstdint>
#include <variant>
#include <vector>

#include "kernels/core/tensor.h"
#include "kernels/cores/recurrent_tiles.h"
#include "kernels/decode/row_ops.h"
#include "kernels/primitives/cpu/ordered_product.h"

namespace attnd::decode {

// y_t = act(bias + sum_j weight_j x_{t-(W-1)+j}) on `at` of a row, act silu or nothing.
struct RowConvolution {
  RowSpan at;
  int64_t taps = 1;  // W
  bool silu = false;
  std::vector<float> weight;  // [W, at.size]
  std::vector<float> bias;    // [at.size], or empty.
};

// A mixer with a recurrent state, of equations in kernels/cores/linear_recurrent.h and delta.h:
//
//   row = W_in x + b_in; convolutions; ops; y = the recurrence of q, k, v, g, beta;
//   y = y / (q·z + dots_eps) with a normaliser; y += skip * the row's skipped part;
//   RMSNorm of y, then times act(gate), or the other way round; W_out y + b_out
struct RecurrentProgram {
  cpu::PackedMatrix in;        // [parts of a row, hidden]
  std::vector<float> in_bias;  // [parts of a row], or empty.
  int64_t row_size = 0;        // Floats of a row: in's outputs, and room behind them.
  std::vector<RowConvolution> convolutions;
  std::vector<RowOp> ops;
  // Head counts of q, k and v divide `heads`, the number of states.
  int64_t heads = 1, query_heads = 1, key_heads = 1, value_heads = 1;
  int64_t key_size = 0, value_size = 0;  // K, V
  Decay decay = Decay::kNone;            // kScalar: g [heads]; kVector: g [heads,K].
  bool delta = false;
  bool normalise = false;
  double dots_eps = 0;
  RowSpan q, k, v, g, beta, gate;
  enum class Gate : uint8_t { kNone, kSilu, kSigmoid } gate_kind = Gate::kNone;
  bool gate_first = false;
  // Channels of one norm, 0: there is none; norm [group] or [heads * V], empty: ones.
  int64_t norm_group = 0;
  std::vector<float> norm;
  double norm_eps = 0;
  RowSpan skipped;          // [heads * V]
  std::vector<float> skip;  // [heads * V], or empty.
  cpu::PackedMatrix out;    // [hidden, heads * V]
  std::vector<float> out_bias;
};

// Softmax attention over pages: row = [q | k | v] = W_in x; ops (bias, norms, positions, q's
// scale); attention over the last `window` positions (0: all); W_out.
struct AttentionProgram {
  cpu::PackedMatrix in;
  std::vector<RowOp> ops;
  int64_t heads = 1, kv_heads = 1, head_size = 0;
  int64_t window = 0;
  cpu::PackedMatrix out;
};

// Of a mixer: std::monostate, there is none for it yet.
using MixerProgram = std::variant<std::monostate, const RecurrentProgram*, const AttentionProgram*>;

// x += mixer(RMSNorm(x)); x += W_down (silu(gate) * up) of RMSNorm(x), [gate | up] = W_gate_up;
// null where a block has no MLP.
struct BlockProgram {
  std::vector<float> mixer_norm, mlp_norm;
  MixerProgram mixer;
  const cpu::PackedMatrix* gate_up;
  const cpu::PackedMatrix* down;
};

// Views on a model's parts, which must outlive whoever holds them.
struct StepProgram {
  int64_t hidden = 0, vocab = 0, inner = 0;  // inner: of the MLPs.
  double norm_eps = 1e-6;
  Tensor embedding;  // [vocab, hidden] of float32, float16 or bfloat16, on the host.
  std::vector<BlockProgram> blocks;
  std::vector<float> norm;
  const cpu::PackedMatrix* head;  // logits = W_head RMSNorm(x)
};

}  // namespace attnd::decode

#endif  // ATTND_KERNELS_DECODE_STEP_PROGRAM_H_
