// The frame that all mixers with a recurrent state share:
//
//   [q, k, v, more] = W x;  short convolutions;  features, gates;  the recurrence;
//   RMSNorm of the outputs, by groups of channels, times act(gate);  o = W_o y
//
// A mixer is a constructor that says which of these there are, and overrides of what only it does.
#ifndef ATTND_MODELS_MIXERS_RECURRENT_MIXER_H_
#define ATTND_MODELS_MIXERS_RECURRENT_MIXER_H_

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "kernels/cores/replay_recurrence.h"
#include "models/config_reader.h"
#include "models/layers/short_convolution.h"
#include "models/layers/weights.h"
#include "models/mixers/mixer.h"

namespace attnd::models {

// Head counts of q, k and v divide `heads`, the number of states.
struct RecurrentSizes {
  int64_t hidden = 0;
  int64_t heads = 1;
  int64_t query_heads = 1, key_heads = 1, value_heads = 1;
  int64_t key_size = 0, value_size = 0;  // K, V
};

class RecurrentMixer : public Mixer {
 public:
  LayerLayout layout() const final;
  void Run(const Step& step, int64_t layer, const float* x, float* y) const final;

 protected:
  // Where the parts of one projected row lie.
  struct Part {
    int64_t offset = 0;
    int64_t size = 0;
  };

  struct Output {
    Floats norm;                   // [group], or [heads * V]; empty: ones.
    double eps = 0;                // 0: the config's norm_eps.
    std::optional<int64_t> group;  // Channels of one norm: V if not said; 0: no norm.
    enum class Gate : uint8_t { kNone, kSilu, kSigmoid } gate = Gate::kNone;  // By part `gate`.
    bool gate_first = false;  // The norm is of what was gated.
  };

  // Per row: the log decay [heads, 1 or K] and the write strength [heads].
  struct Gates {
    float* g;
    float* beta;
  };

  explicit RecurrentMixer(const MixerSource& source)
      : weights_(source.checkpoint, source.prefix), eps_(source.config.norm_eps) {
    sizes_.hidden = source.config.hidden_size;
  }

  // Adds a part of the stacked projection: <name>.weight [size, hidden].
  Part AddPart(const std::string& name, int64_t size);
  // Room in the row for what a mixer computes itself; after the last part.
  Part AddRoom(int64_t size);
  // The norm under one of two names, with use_output_gate (true) its gate g_proj.
  absl::StatusOr<Output> AddGatedNorm(ConfigReader& config, const std::string& with_gate,
                                      const std::string& without);
  // Adds q, k, v by these names, and their convolutions.
  void AddStreams(const std::string& q, const std::string& k, const std::string& v);
  void AddConvolution(const std::string& name, Part part, int64_t taps, bool bias, bool silu);
  void AddConvolutions(const std::string& q, const std::string& k, const std::string& v,
                       int64_t taps, bool bias, bool silu_qk, bool silu_v);
  // Reads what was added, and the output's weights: of o_proj, or the name given. With `bias`, both
  // products have one, and what was added is one part. The mixer is complete unless this is an
  // error.
  absl::Status Finish(Output output, const std::string& projection = "o_proj", bool bias = false);

  // Changes q [query_heads,K], k and v of one projected row after the convolutions. `x` is the
  // layer's input row.
  virtual void Features(int64_t position, const float* x, float* row) const {}
  // Fills the gates that the shape has, from the projected row.
  virtual void FillGates(const float* x, float* row, const Gates& gates) const {}
  // Adds to the recurrence's outputs y [heads, V] what goes around it.
  virtual void Skip(const float* row, float* y) const {}

  RecurrentSizes sizes_;
  cpu::ReplayShape shape_;  // Sizes, decay, delta, normaliser.
  double scale_ = 1;        // Of q.
  double dots_eps_ = 0;     // With a normaliser: y / (q·z + eps).
  Part q_, k_, v_, gate_;
  WeightReader weights_;
  const double eps_;

 private:
  void Recur(const Step& step, int64_t layer, const float* rows, const float* g, const float* beta,
             float* outputs, float* dots) const;
  void Divide(const float* dots, float* y) const;
  void Normalise(float* y) const;
  void ApplyGate(const float* row, float* y) const;
  int64_t gate_width() const { return shape_.decay == Decay::kVector ? shape_.key_size : 1; }

  std::vector<std::pair<std::string, int64_t>> parts_;
  int64_t stride() const { return width_ + room_; }

  int64_t width_ = 0;  // Of a projected row.
  int64_t room_ = 0;   // Behind it.
  cpu::PackedMatrix in_, out_;
  Floats in_bias_, out_bias_;  // Or empty.
  Output output_;
  std::vector<std::pair<ShortConvolution, Part>> convolutions_;
};

}  // namespace attnd::models

#endif  // ATTND_MODELS_MIXERS_RECURRENT_MIXER_H_
