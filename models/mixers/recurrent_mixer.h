// The frame that all mixers with a recurrent state share:
//
//   [q, k, v, more] = W x;  short convolutions;  features, gates;  the recurrence;
//   RMSNorm of the outputs, by groups of channels, times act(gate);  o = W_o y
//
// A mixer is a function that says which of these there are: the parts of a row, and the operations
// (kernels/decode/row_ops.h) that make features and gates of them.
#ifndef ATTND_MODELS_MIXERS_RECURRENT_MIXER_H_
#define ATTND_MODELS_MIXERS_RECURRENT_MIXER_H_

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cores/replay_recurrence.h"
#include "kernels/decode/step_program.h"
#include "models/config_reader.h"
#include "models/layers/short_convolution.h"
#include "models/layers/weights.h"
#include "models/mixers/mixer.h"

namespace attnd::models {

using decode::RowOp;
using decode::RowOpKind;
using decode::RowSpan;

class RecurrentMixer final : public Mixer {
 public:
  explicit RecurrentMixer(decode::RecurrentProgram program);

  LayerLayout layout() const override;
  void Run(const Step& step, int64_t layer, const float* x, float* y) const override;
  decode::MixerProgram program() const override { return &program_; }

 private:
  void Recur(const Step& step, int64_t layer, const float* rows, float* outputs, float* dots) const;
  // What stands between the recurrence and W_o, of one row.
  void Finish(const float* row, const float* dots, float* y) const;
  void Normalise(float* y) const;
  void ApplyGate(const float* row, float* y) const;

  const decode::RecurrentProgram program_;
  cpu::ReplayShape shape_;
  std::vector<ShortConvolution> convolutions_;
};

// Reads a mixer's weights and writes its program.
class RecurrentBuilder {
 public:
  explicit RecurrentBuilder(const MixerSource& source);

  // Adds a part of the stacked projection: <name>.weight [size, hidden].
  RowSpan AddPart(const std::string& name, int64_t size);
  // Room in the row for what operations compute; after the last part.
  RowSpan AddRoom(int64_t size);
  // The output's norm under one of two names, with use_output_gate (true) its gate g_proj.
  void AddGatedNorm(ConfigReader& config, const std::string& with_gate, const std::string& without);
  // Adds q, k, v by these names.
  void AddStreams(const std::string& q, const std::string& k, const std::string& v);
  // Their convolutions, by the same.
  void AddConvolutions(const std::string& q, const std::string& k, const std::string& v,
                       int64_t taps, bool bias, bool silu_qk, bool silu_v);
  void AddConvolution(const std::string& name, RowSpan at, int64_t taps, bool bias, bool silu);
  // Operations run in the order in which they are added, after the convolutions.
  void AddOp(RowOp op) { program.ops.push_back(std::move(op)); }
  // q times 1 / sqrt(K): after all else that is done with q.
  void AddScale();
  // beta = strength sigmoid(beta).
  void AddStrength(double strength);
  // The stacked projection and W_o, o_proj or the name given. With `bias` both products have one,
  // and what was added is one part. The first weight that was wrong is the error.
  MixerOr Finish(const std::string& projection = "o_proj", bool bias = false);

  decode::RecurrentProgram program;
  WeightReader weights;

 private:
  const int64_t hidden_;
  std::vector<std::pair<std::string, int64_t>> parts_;
  int64_t width_ = 0;  // Of the parts.
  int64_t room_ = 0;   // Behind them.
};

}  // namespace attnd::models

#endif  // ATTND_MODELS_MIXERS_RECURRENT_MIXER_H_
