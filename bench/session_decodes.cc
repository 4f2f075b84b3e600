#include "bench/session_decodes.h"

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <thread>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/barrier.h"
#include "absl/synchronization/blocking_counter.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "attnd/client.h"
#include "attnd/sessions.h"
#include "models/language_model.h"
#include "service/session/model_runner.h"

namespace attnd::bench {
namespace {

using nlohmann::json;

template <typename T>
T OrThrow(absl::StatusOr<T> value) {
  if (!value.ok()) throw std::runtime_error(value.status().ToString());
  return *std::move(value);
}

void OrThrow(const absl::Status& status) {
  if (!status.ok()) throw std::runtime_error(status.ToString());
}

// Sequences on one runner that read the most probable token again and again.
class Sequences {
 public:
  Sequences(const models::LanguageModel& model, int count) : model_(model), runner_(model, {}) {
    for (int i = 0; i < count; ++i) {
      states_.push_back(OrThrow(model.NewState()));
    }
    tokens_.resize(states_.size());
  }
  ~Sequences() { runner_.Stop(); }

  // Reads the tokens of feed(i) on sequence i, then goes on for `steps` tokens; the seconds of
  // the steps.
  template <typename Feed>
  double Run(const Feed& feed, int steps) {
    const int64_t vocab = model_.config().vocab_size;
    absl::BlockingCounter done(static_cast<int>(states_.size()));
    absl::Time begin = absl::InfiniteFuture(), end = absl::InfinitePast();
    absl::Status failed;
    for (size_t i = 0; i < states_.size(); ++i) {
      ModelRunner::Task task;
      task.state = &states_[i];
      task.tokens = feed(static_cast<int>(i));
      task.next = [&, i, left = steps](const absl::Status& status,
                                       absl::Span<const float> logits) mutable {
        // All calls come from the runner's thread.
        const absl::Time now = absl::Now();
        begin = std::min(begin, now);
        end = std::max(end, now);
        failed.Update(status);
        if (!status.ok() || left-- == 0) {
          done.DecrementCount();
          return std::vector<int32_t>();
        }
        const auto best = std::max_element(logits.begin(), logits.begin() + vocab);
        tokens_[i].push_back(static_cast<int32_t>(best - logits.begin()));
        return std::vector<int32_t>{tokens_[i].back()};
      };
      OrThrow(runner_.Start(std::move(task)));
    }
    done.Wait();
    OrThrow(failed);
    return absl::ToDoubleSeconds(end - begin);
  }

  const std::vector<int32_t>& tokens(int sequence) const {
    return tokens_[static_cast<size_t>(sequence)];
  }

 private:
  const models::LanguageModel& model_;
  ModelRunner runner_;
  std::vector<models::SequenceState> states_;
  std::vector<std::vector<int32_t>> tokens_;
};

}  // namespace

std::vector<int32_t> Prompt(int index, int length, int64_t vocab) {
  std::vector<int32_t> tokens;
  tokens.reserve(static_cast<size_t>(length));
  for (int i = 0; i < length; ++i) {
    tokens.push_back(static_cast<int32_t>((97 + 7 * i + index) % vocab));
  }
  return tokens;
}

json Decodes(const DecodeLoad& load) {
  const auto model = OrThrow(models::LanguageModel::Load(load.model));
  Sequences sequences(*model, load.sessions);
  // The prompts, but for their last tokens, are read before the time counts: others' figures are of
  // decoding alone.
  const auto prompt = [&](int i) { return Prompt(i, load.prompt, model->config().vocab_size); };
  if (load.prompt > 1) {
    sequences.Run(
        [&](int i) {
          std::vector<int32_t> tokens = prompt(i);
          tokens.pop_back();
          return tokens;
        },
        0);
  }
  const double seconds =
      sequences.Run([&](int i) { return std::vector<int32_t>{prompt(i).back()}; }, load.tokens);
  return {{"tokens_per_second", load.sessions * load.tokens / seconds},
          {"tokens", sequences.tokens(0)}};
}

json Positions(const DecodeLoad& load) {
  // Multiples of the chunk: each window does the same work.
  constexpr int kAround = 2048, kSteps = kAround / 4 - 1;
  const auto model = OrThrow(models::LanguageModel::Load(load.model));
  Sequences sequences(*model, load.sessions);
  json report;
  int position = 0;
  for (const int at : {1024, 10240, 102400}) {
    const int ahead = at - kAround / 2 - position;
    if (ahead > 0) {
      sequences.Run([&](int i) { return Prompt(i, ahead, model->config().vocab_size); }, 0);
      position += ahead;
    }
    // The least of four runs, so that what else the machine does counts little.
    double least = 1e9;
    for (int run = 0; run < 4; ++run) {
      const double seconds = sequences.Run([](int) { return std::vector<int32_t>{1}; }, kSteps);
      least = std::min(least, seconds / kSteps);
    }
    position += kAround;
    report.push_back({{"position", at}, {"token_us", 1e6 * least / load.sessions}});
  }
  return report;
}

json Moves(const std::string& target, const DecodeLoad& load) {
  const client::Sessions sessions(OrThrow(client::Client::Connect(target)));
  const std::string id = absl::StrCat("moves", absl::ToUnixNanos(absl::Now()));
  v1::CreateSessionRequest create;
  create.set_session(id);
  create.set_model(load.model);
  OrThrow(sessions.Create(create).status());
  const auto milliseconds = [](absl::Time begin) {
    return absl::ToDoubleMilliseconds(absl::Now() - begin);
  };
  const auto median = [](std::vector<double> values) {
    std::nth_element(values.begin(), values.begin() + static_cast<int64_t>(values.size() / 2),
                     values.end());
    return values[values.size() / 2];
  };
  json report;
  uint64_t position = 0;
  for (const uint64_t at : {1024, 10240, 102400}) {
    v1::AppendRequest append;
    append.set_session(id);
    for (; position < at; ++position) append.add_tokens(static_cast<uint32_t>(position % 61 + 1));
    OrThrow(sessions.Append(append).status());
    constexpr int kRepeats = 15;
    std::vector<double> forks, rewinds;
    for (int i = 0; i < kRepeats; ++i) {
      v1::ForkRequest fork;
      fork.set_session(id);
      fork.set_new_session(absl::StrCat(id, "-", at, "-", i));
      absl::Time begin = absl::Now();
      OrThrow(sessions.Fork(fork).status());
      forks.push_back(milliseconds(begin));
      v1::RewindRequest rewind;
      rewind.set_session(fork.new_session());
      rewind.set_position(at - at * static_cast<uint64_t>(i + 1) / (kRepeats + 1));
      v1::DecodeRequest decode;
      decode.set_session(fork.new_session());
      decode.set_max_new_tokens(1);
      begin = absl::Now();
      OrThrow(sessions.Rewind(rewind).status());
      OrThrow(sessions.Decode(decode, [](const v1::DecodeEvent&) { return true; }));
      rewinds.push_back(milliseconds(begin));
      OrThrow(sessions.Delete(fork.new_session()));
    }
    const double most = *std::max_element(rewinds.begin(), rewinds.end());
    report.push_back({{"position", at},
                      {"fork_ms", median(std::move(forks))},
                      {"rewind_ms", median(std::move(rewinds))},
                      {"rewind_most_ms", most}});
  }
  OrThrow(sessions.Delete(id));
  return report;
}

json ServedDecodes(const std::string& target, const DecodeLoad& load) {
  const client::Sessions sessions(OrThrow(client::Client::Connect(target)));
  std::vector<std::thread> threads;
  threads.reserve(static_cast<size_t>(load.sessions));
  std::vector<absl::Status> failed(static_cast<size_t>(load.sessions));
  std::vector<uint32_t> tokens;
  absl::Mutex mutex;
  absl::Time begin = absl::InfiniteFuture(), end = absl::InfinitePast();
  const std::string run = absl::StrCat("bench", absl::ToUnixNanos(absl::Now()), "-");
  auto* const ready = new absl::Barrier(load.sessions);
  for (int i = 0; i < load.sessions; ++i) {
    threads.emplace_back([&, i] {
      absl::Status& status = failed[static_cast<size_t>(i)];
      const std::string id = absl::StrCat(run, i);
      v1::CreateSessionRequest create;
      create.set_session(id);
      create.set_model(load.model);
      status.Update(sessions.Create(create).status());
      v1::AppendRequest append;
      append.set_session(id);
      for (const int32_t token : Prompt(i, load.prompt, 256)) {
        append.add_tokens(static_cast<uint32_t>(token));
      }
      if (status.ok()) status.Update(sessions.Append(append).status());
      if (ready->Block()) delete ready;
      if (!status.ok()) return;
      const absl::Time started = absl::Now();
      v1::DecodeRequest decode;
      decode.set_session(id);
      decode.set_max_new_tokens(static_cast<uint32_t>(load.tokens));
      decode.mutable_stop()->set_ignore_eos(true);
      status.Update(sessions.Decode(decode, [&](const v1::DecodeEvent& event) {
        for (const v1::SampledToken& token : event.tokens()) {
          if (i == 0) tokens.push_back(token.token());
        }
        return true;
      }));
      const absl::Time over = absl::Now();
      absl::MutexLock lock(&mutex);
      begin = std::min(begin, started);
      end = std::max(end, over);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const absl::Status& status : failed) OrThrow(status);
  for (int i = 0; i < load.sessions; ++i) OrThrow(sessions.Delete(absl::StrCat(run, i)));
  const double seconds = absl::ToDoubleSeconds(end - begin);
  return {{"tokens_per_second", load.sessions * load.tokens / seconds}, {"tokens", tokens}};
}

}  // namespace attnd::bench
