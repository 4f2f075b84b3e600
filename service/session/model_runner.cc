#include "service/session/model_runner.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace attnd {

ModelRunner::ModelRunner(const models::LanguageModel& model, const RunnerOptions& options)
    : model_(model), options_(options), thread_([this] { Loop(); }) {}

ModelRunner::~ModelRunner() = default;

void ModelRunner::Stop() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

absl::Status ModelRunner::Start(Task task) {
  absl::MutexLock lock(&mu_);
  if (stopping_) return absl::UnavailableError("the server is stopping: repeat the call");
  if (usage_.tasks >= options_.max_tasks) {
    return absl::ResourceExhaustedError(
        absl::StrCat("sequences: ", usage_.tasks, " wait for the model, at most ",
                     options_.max_tasks, " may: repeat the call later"));
  }
  ++usage_.tasks;
  auto running = std::make_unique<Running>();
  running->task = std::move(task);
  arrived_.push_back(std::move(running));
  return absl::OkStatus();
}

ModelRunner::Usage ModelRunner::usage() const {
  absl::MutexLock lock(&mu_);
  return usage_;
}

void ModelRunner::Loop() {
  std::vector<std::unique_ptr<Running>> running;
  for (;;) {
    bool stopping;
    {
      absl::MutexLock lock(&mu_);
      const auto wanted = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
        return stopping_ || !arrived_.empty();
      };
      if (running.empty()) mu_.Await(absl::Condition(&wanted));
      for (auto& one : arrived_) running.push_back(std::move(one));
      arrived_.clear();
      stopping = stopping_;
    }
    if (stopping) {
      for (auto& one : running) Finish(*one, absl::UnavailableError("the server is stopping"));
      return;
    }
    Step(running);
  }
}

void ModelRunner::Finish(Running& running, const absl::Status& status) {
  std::vector<int32_t> more = running.task.next(status, running.logits);
  running.task.tokens = status.ok() ? std::move(more) : std::vector<int32_t>();
  running.read = 0;
}

void ModelRunner::Step(std::vector<std::unique_ptr<Running>>& running) {
  const absl::Time start = absl::Now();
  // Those that want least first: a decode's one token never waits for a prompt.
  std::stable_sort(running.begin(), running.end(), [](const auto& a, const auto& b) {
    if (a->task.priority != b->task.priority) return a->task.priority > b->task.priority;
    return a->task.tokens.size() - a->read < b->task.tokens.size() - b->read;
  });
  const auto vocab = static_cast<size_t>(model_.config().vocab_size);
  std::vector<models::Feed> feeds;
  std::vector<Running*> fed;
  int64_t rows = 0;
  for (const auto& one : running) {
    const auto left = static_cast<int64_t>(one->task.tokens.size() - one->read);
    const int64_t count = std::min(left, options_.step_rows - rows);
    if (count == 0 || static_cast<int64_t>(feeds.size()) == options_.max_sequences) break;
    const bool last = count == left;
    models::Feed feed;
    feed.state = one->task.state;
    feed.tokens =
        absl::MakeConstSpan(one->task.tokens).subspan(one->read, static_cast<size_t>(count));
    if (one->task.logits_of_all) {
      one->logits.resize((one->read + static_cast<size_t>(count)) * vocab);
      feed.logits = one->logits.data() + one->read * vocab;
      feed.all_logits = true;
    } else if (last) {
      one->logits.resize(vocab);
      feed.logits = one->logits.data();
    }
    feeds.push_back(feed);
    fed.push_back(one.get());
    rows += count;
  }
  const absl::Status status = model_.Run(feeds);
  for (size_t i = 0; i < fed.size(); ++i) {
    if (status.ok()) fed[i]->read += feeds[i].tokens.size();
    if (!status.ok() || fed[i]->read == fed[i]->task.tokens.size()) Finish(*fed[i], status);
  }
  const auto over = std::remove_if(running.begin(), running.end(),
                                   [](const auto& one) { return one->task.tokens.empty(); });
  const auto ended = static_cast<size_t>(running.end() - over);
  running.erase(over, running.end());
  const double seconds = absl::ToDoubleSeconds(absl::Now() - start);
  if (options_.step_seconds != nullptr) options_.step_seconds->Observe(seconds);
  absl::MutexLock lock(&mu_);
  usage_.tasks -= ended;
  ++usage_.steps;
  usage_.rows += static_cast<uint64_t>(rows);
  usage_.step_seconds = usage_.steps == 1 ? seconds : 0.9 * usage_.step_seconds + 0.1 * seconds;
}

}  // namespace attnd
