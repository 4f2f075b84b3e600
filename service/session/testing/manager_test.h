// For tests of the manager: one on a store that outlives it, and what clients do.
#ifndef ATTND_SERVICE_SESSION_TESTING_MANAGER_TEST_H_
#define ATTND_SERVICE_SESSION_TESTING_MANAGER_TEST_H_

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <cstdio>
#include <future>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/optional.h"
#include "prometheus/registry.h"
#include "service/session/memory_store.h"
#include "service/session/session_manager.h"

namespace attnd {

// Collects what a decode streams; may pause or leave after some events.
class Collector final : public DecodeSink {
 public:
  Answer Event(v1::DecodeEvent event) override {
    absl::MutexLock lock(&mu_);
    events_.push_back(std::move(event));
    if (events_.size() == stop_after_) return Answer::kStop;
    if (events_.size() == pause_after_) return Answer::kPause;
    return Answer::kGoOn;
  }
  Answer Wish() override { return wish_.load(); }
  bool Paused(absl::AnyInvocable<void()> resume) override {
    absl::MutexLock lock(&mu_);
    pause_after_ = 0;
    resume_ = std::move(resume);
    return true;
  }
  void Done(absl::Status status) override { done_.set_value(std::move(status)); }

  void Resume() {
    absl::AnyInvocable<void()> resume;
    {
      absl::MutexLock lock(&mu_);
      const auto paused = [this]()
                              ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return resume_ != nullptr; };
      mu_.Await(absl::Condition(&paused));
      resume = std::exchange(resume_, nullptr);
    }
    resume();
  }
  void Cancel() { wish_ = Answer::kCancel; }
  void Leave() { wish_ = Answer::kStop; }

  absl::Status Wait() { return done_.get_future().get(); }
  void StopAfter(size_t events) { stop_after_ = events; }
  void PauseAfter(size_t events) { pause_after_ = events; }
  size_t size() const {
    absl::MutexLock lock(&mu_);
    return events_.size();
  }

  std::vector<uint32_t> tokens() const {
    absl::MutexLock lock(&mu_);
    std::vector<uint32_t> tokens;
    for (const auto& event : events_) {
      for (const auto& token : event.tokens()) tokens.push_back(token.token());
    }
    return tokens;
  }
  std::vector<v1::SampledToken> samples() const {
    absl::MutexLock lock(&mu_);
    std::vector<v1::SampledToken> samples;
    for (const auto& event : events_) {
      samples.insert(samples.end(), event.tokens().begin(), event.tokens().end());
    }
    return samples;
  }
  v1::DecodeEvent last() const {
    absl::MutexLock lock(&mu_);
    return events_.back();
  }

 private:
  mutable absl::Mutex mu_;
  std::vector<v1::DecodeEvent> events_;
  absl::AnyInvocable<void()> resume_;
  std::atomic<Answer> wish_ = Answer::kGoOn;
  size_t stop_after_ = 0, pause_after_ = 0;
  std::promise<absl::Status> done_;
};

class ManagerTest : public ::testing::Test {
 protected:
  ManagerTest() {
    std::printf("seed %u\n", seed_);
    limits_.anchor_every = 64;
    limits_.least_stored_tokens = 1;
    Restart();
  }

  // A new manager on the same store, as after the end of a process.
  void Restart() {
    manager_.reset();
    table_ = std::make_unique<ModelTable>(ATTND_MODEL_DATA, RunnerOptions{.step_rows = 48});
    manager_ = std::make_unique<SessionManager>(*table_, *kept_, metrics_, limits_, engine_);
  }

  template <typename Out, typename Call>
  absl::StatusOr<Out> Await(Call call) {
    std::promise<absl::StatusOr<Out>> answer;
    call([&](absl::StatusOr<Out> out) { answer.set_value(std::move(out)); });
    return answer.get_future().get();
  }

  absl::StatusOr<v1::Session> Create(const std::string& id, uint64_t seed = 1,
                                     v1::SessionDurability durability = v1::ASYNC,
                                     const std::string& model = "gla") {
    v1::CreateSessionRequest request;
    request.set_session(id);
    request.set_model(model);
    request.set_seed(seed);
    request.set_durability(durability);
    return Await<v1::Session>([&](auto done) { manager_->Create(request, std::move(done)); });
  }

  absl::StatusOr<v1::Session> Get(const std::string& id) {
    v1::GetSessionRequest request;
    request.set_session(id);
    return Await<v1::Session>([&](auto done) { manager_->Get(request, std::move(done)); });
  }

  absl::StatusOr<v1::AppendResponse> Append(const std::string& id,
                                            const std::vector<uint32_t>& tokens,
                                            absl::optional<uint64_t> expected = absl::nullopt,
                                            const std::string& key = "") {
    v1::AppendRequest request;
    request.set_session(id);
    request.mutable_tokens()->Assign(tokens.begin(), tokens.end());
    if (expected.has_value()) request.set_expected_position(*expected);
    request.set_idempotency_key(key);
    return Await<v1::AppendResponse>(
        [&](auto done) { manager_->Append(request, std::move(done)); });
  }

  absl::StatusOr<v1::Session> Rewind(const std::string& id, uint64_t position,
                                     absl::optional<uint64_t> expected = absl::nullopt) {
    v1::RewindRequest request;
    request.set_session(id);
    request.set_position(position);
    if (expected.has_value()) request.set_expected_position(*expected);
    return Await<v1::Session>([&](auto done) { manager_->Rewind(request, std::move(done)); });
  }

  // The value of a counter with these labels, 0 where it is not.
  double Counted(const std::string& name, const std::map<std::string, std::string>& labels) {
    for (const prometheus::MetricFamily& family : registry_.Collect()) {
      if (family.name != name) continue;
      for (const prometheus::ClientMetric& metric : family.metric) {
        std::map<std::string, std::string> own;
        for (const auto& label : metric.label) own[label.name] = label.value;
        if (own == labels) return metric.counter.value;
      }
    }
    return 0;
  }
  double RestoredFromStore() {
    return Counted("attnd_session_restores_total", {{"from_tier", "store"}, {"result", "ok"}});
  }

  // Waits until the states of all sessions are in the store.
  void AwaitEviction() {
    const absl::Time end = absl::Now() + absl::Seconds(20);
    while (manager_->usage().states > 0 && absl::Now() < end) {
      absl::SleepFor(absl::Milliseconds(20));
    }
    EXPECT_EQ(manager_->usage().states, 0u);
  }

  double Replayed() { return Counted("attnd_session_replayed_tokens_total", {}); }

  v1::DecodeRequest DecodeOf(const std::string& id, uint32_t count) {
    v1::DecodeRequest request;
    request.set_session(id);
    request.set_max_new_tokens(count);
    request.mutable_sampling()->set_temperature(1);
    request.mutable_stop()->set_ignore_eos(true);
    return request;
  }

  std::vector<uint32_t> Decode(const std::string& id, uint32_t count) {
    return Decode(DecodeOf(id, count));
  }
  std::vector<uint32_t> Decode(const v1::DecodeRequest& request) {
    auto sink = std::make_shared<Collector>();
    manager_->Decode(request, sink);
    const absl::Status status = sink->Wait();
    EXPECT_TRUE(status.ok()) << status;
    return sink->tokens();
  }

  // What a session of these tokens and nothing else samples.
  std::vector<uint32_t> Straight(const std::vector<uint32_t>& tokens, uint32_t count) {
    const std::string id = "straight" + std::to_string(straight_++);
    EXPECT_TRUE(Create(id).ok());
    EXPECT_TRUE(Append(id, tokens).ok());
    return Decode(id, count);
  }

  std::vector<uint32_t> Tokens(size_t count) {
    std::vector<uint32_t> tokens(count);
    for (uint32_t& token : tokens) token = static_cast<uint32_t>(random_() % 96);
    return tokens;
  }

  const unsigned seed_ = std::random_device()();
  std::mt19937 random_{seed_};
  int straight_ = 0;
  Engine* engine_ = nullptr;
  SessionLimits limits_;
  MemoryStore store_;
  SessionStore* kept_ = &store_;  // Where sessions are.
  prometheus::Registry registry_;
  SessionMetrics metrics_{registry_};
  std::unique_ptr<ModelTable> table_;
  std::unique_ptr<SessionManager> manager_;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_TESTING_MANAGER_TEST_H_
