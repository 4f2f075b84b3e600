// What a language model's steps cost on a device, without a service: most probable tokens of
// sequences side by side, from prompts of 64 tokens. Prints one JSON object a line for each number
// of sequences. bench/decode_fla.py measures the same in flash-linear-attention.
//
//   model_decode models/weights/attnd-text-small --device cuda --sessions 1 64 512
#include <CLI/CLI.hpp>
#include <algorithm>
#include <exception>
#include <iostream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "kernels/core/registry.h"
#include "kernels/primitives/cuda_module.h"
#include "models/language_model.h"

namespace attnd::bench {
namespace {

using models::Feed;
using models::LanguageModel;
using models::SequenceState;
using nlohmann::json;

struct Load {
  std::string folder;
  std::string device = "cpu";
  std::vector<int> sessions = {1};
  int prompt = 64;
  int tokens = 256;
};

double Microseconds(absl::Duration duration) { return absl::ToDoubleMicroseconds(duration); }

// Sequences that read their most probable token again and again.
class Sequences {
 public:
  Sequences(const LanguageModel& model, int count, int prompt)
      : model_(model), vocab_(model.config().vocab_size) {
    const auto n = static_cast<size_t>(count);
    logits_.resize(n * static_cast<size_t>(vocab_));
    tokens_.resize(n);
    for (size_t i = 0; i < n; ++i) {
      for (int t = 0; t < prompt; ++t) {
        tokens_[i].push_back(static_cast<int32_t>((97 + 7 * t + static_cast<int>(i)) % vocab_));
      }
    }
  }

  absl::Status Create() {
    for (size_t i = 0; i < tokens_.size(); ++i) {
      absl::StatusOr<SequenceState> state = model_.NewState();
      if (!state.ok()) return state.status();
      states_.push_back(*std::move(state));
    }
    return absl::OkStatus();
  }

  absl::Status Step() {
    feeds_.clear();
    for (size_t i = 0; i < states_.size(); ++i) {
      feeds_.push_back({&states_[i], tokens_[i], logits_.data() + i * static_cast<size_t>(vocab_)});
    }
    if (absl::Status s = model_.Run(feeds_); !s.ok()) return s;
    for (size_t i = 0; i < states_.size(); ++i) {
      const auto begin = logits_.begin() + static_cast<int64_t>(i) * vocab_;
      tokens_[i] = {static_cast<int32_t>(std::max_element(begin, begin + vocab_) - begin)};
    }
    return absl::OkStatus();
  }

  const SequenceState& state() const { return states_.front(); }
  int32_t token() const { return tokens_.front().front(); }

 private:
  const LanguageModel& model_;
  const int64_t vocab_;
  std::vector<SequenceState> states_;
  std::vector<std::vector<int32_t>> tokens_;
  std::vector<float> logits_;
  std::vector<Feed> feeds_;
};

// Until a copy is there: the least of ten.
double CopyMicroseconds(const SequenceState& state, Backend* device) {
  double least = 1e9;
  for (int run = 0; run < 10; ++run) {
    const absl::Time begin = absl::Now();
    const absl::StatusOr<SequenceState> copy = state.Copy();
    if (device != nullptr && !device->Synchronize().ok()) return -1;
    if (copy.ok()) least = std::min(least, Microseconds(absl::Now() - begin));
  }
  return least;
}

absl::Status Measure(const LanguageModel& model, Backend* device, const Load& load, int sessions) {
  Sequences sequences(model, sessions, load.prompt);
  if (absl::Status s = sequences.Create(); !s.ok()) return s;
  const absl::Time begin = absl::Now();
  if (absl::Status s = sequences.Step(); !s.ok()) return s;
  const double prefill = Microseconds(absl::Now() - begin);
  // The first step of a number of sequences captures its graph.
  if (absl::Status s = sequences.Step(); !s.ok()) return s;
  json first = json::array();
  const absl::Time start = absl::Now();
  for (int t = 0; t < load.tokens; ++t) {
    if (t < 16) first.push_back(sequences.token());
    if (absl::Status s = sequences.Step(); !s.ok()) return s;
  }
  const double step = Microseconds(absl::Now() - start) / load.tokens;
  std::cout << json{{"sessions", sessions},
                    {"tokens_per_second", 1e6 * sessions / step},
                    {"step_us", step},
                    {"prefill_us", prefill},
                    {"state_bytes", sequences.state().byte_size()},
                    {"copy_us", CopyMicroseconds(sequences.state(), device)},
                    {"tokens", first}}
            << "\n";
  return absl::OkStatus();
}

absl::Status Run(const Load& load) {
  Registry registry;
  RegisterAllOperators(registry);
  std::shared_ptr<Backend> device;
  if (load.device == "cuda") {
    absl::StatusOr<std::unique_ptr<Backend>> opened = CreateCudaBackend({}, registry);
    if (!opened.ok()) return opened.status();
    device = *std::move(opened);
  }
  const auto model = LanguageModel::Load(load.folder, device);
  if (!model.ok()) return model.status();
  for (const int sessions : load.sessions) {
    if (absl::Status s = Measure(**model, device.get(), load, sessions); !s.ok()) return s;
  }
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  Load load;
  CLI::App app("Steps of a language model");
  app.add_option("model", load.folder, "Folder of a model")->required();
  app.add_option("--device", load.device)->check(CLI::IsMember({"cpu", "cuda"}));
  app.add_option("--sessions", load.sessions)->check(CLI::Range(1, 65536));
  app.add_option("--prompt", load.prompt)->check(CLI::Range(1, 1 << 20));
  app.add_option("--tokens", load.tokens)->check(CLI::Range(1, 1 << 20));
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = Run(load);
  if (!status.ok()) std::cerr << "model_decode: " << status << "\n";
  return status.ok() ? 0 : 1;
}

}  // namespace
}  // namespace attnd::bench

int main(int argc, char** argv) {
  try {
    return attnd::bench::Main(argc, argv);
  } catch (const std::exception& error) {
    std::cerr << "model_decode: " << error.what() << "\n";
    return 1;
  }
}
