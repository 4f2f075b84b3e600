// Continuous batching: one thread that runs a model's steps for all sequences that want one.
//
// Every step takes from each sequence that waits as many tokens as the step has room for (a decode
// has one, a prompt is cut), runs them together, and hands each its logits. Sequences join and
// leave between steps. What shares a step changes no bit of a sequence (language_model.h).
#ifndef ATTND_SERVICE_SESSION_MODEL_RUNNER_H_
#define ATTND_SERVICE_SESSION_MODEL_RUNNER_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "models/language_model.h"
#include "prometheus/histogram.h"

namespace attnd {

struct RunnerOptions {
  // Rows of one step, over all sequences: bounds how long a decode waits for others' prompts.
  int64_t step_rows = 256;
  // Sequences of one step.
  int64_t max_sequences = 256;
  // Tasks that wait or run; more are refused.
  size_t max_tasks = 4096;
  // Takes the time of each step; null: nobody does.
  prometheus::Histogram* step_seconds = nullptr;
};

class ModelRunner {
 public:
  // Tokens for one state, in order. Between two calls of `next` for a task nothing else touches the
  // state.
  struct Task {
    models::SequenceState* state = nullptr;
    std::vector<int32_t> tokens;
    bool logits_of_all = false;
    // Called on the runner's thread when all tokens were read, with the logits of the last (or of
    // all, [tokens, vocab]), or with an error: then some tokens may have been read, and
    // state->position() says how many. Returns the tokens to go on with; none: the task is over.
    absl::AnyInvocable<std::vector<int32_t>(absl::Status, absl::Span<const float>)> next;
    uint32_t priority = 0;  // Higher first.
  };

  // `model` must outlive the runner.
  ModelRunner(const models::LanguageModel& model, const RunnerOptions& options);
  // Stop must have been called.
  ~ModelRunner();

  // Ends tasks that are not over with UNAVAILABLE; later ones are refused. Not from the runner's
  // thread.
  void Stop() ABSL_LOCKS_EXCLUDED(mu_);

  // RESOURCE_EXHAUSTED if too many wait; then `next` is not called.
  absl::Status Start(Task task) ABSL_LOCKS_EXCLUDED(mu_);

  struct Usage {
    size_t tasks;
    uint64_t steps;
    uint64_t rows;        // Tokens read since the start.
    double step_seconds;  // Of the last steps, smoothed.
  };
  Usage usage() const ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Running {
    Task task;
    size_t read = 0;
    std::vector<float> logits;
  };

  void Loop() ABSL_LOCKS_EXCLUDED(mu_);
  // Runs one step of the tasks that fit, and removes those that are over.
  void Step(std::vector<std::unique_ptr<Running>>& running) ABSL_LOCKS_EXCLUDED(mu_);
  void Finish(Running& running, const absl::Status& status);

  const models::LanguageModel& model_;
  const RunnerOptions options_;
  mutable absl::Mutex mu_;
  std::deque<std::unique_ptr<Running>> arrived_ ABSL_GUARDED_BY(mu_);
  Usage usage_ ABSL_GUARDED_BY(mu_) = {};
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_MODEL_RUNNER_H_
