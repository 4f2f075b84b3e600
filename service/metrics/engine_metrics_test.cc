#include "service/metrics/engine_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <prometheus/text_serializer.h>

#include <utility>

#include "service/metrics/snapshot_metrics.h"
#include "service/router/router_engine.h"
#include "service/testing/answers.h"
#include "service/testing/fake_worker.h"

namespace attnd {
namespace {

using testing::DoubleRequest;
using testing::FakeControl;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::PendingResult;
using testing::Submit;
using testing::SubmitMany;

class EngineMetricsTest : public ::testing::Test {
 protected:
  EngineMetricsTest() {
    testing::RegisterDouble(operators_);
    metrics_ = std::make_unique<EngineMetrics>(*registry_, operators_);
  }

  void Start(EngineOptions options = {}, std::vector<Lane> lanes = {Lane::kFast}) {
    options.light_work = 0;  // A held call must not hold the test.
    std::vector<std::unique_ptr<WorkerLink>> workers;
    workers.push_back(testing::MakeFakeWorker(control_, std::move(lanes)));
    engine_ = std::make_unique<RouterEngine>(operators_, options, *metrics_, std::move(workers));
    engine_->Start();
  }

  static EngineCall Call(const std::vector<float>& values = {1, 2, 3}) {
    return {.request = DoubleRequest(values)};
  }

  // Occupies the only slot until the worker is released.
  PendingResult Occupy(EngineCall call = Call({0})) {
    control_->Hold();
    PendingResult first = Submit(*engine_, std::move(call));
    control_->AwaitHeld(1);
    return first;
  }

  std::string Scrape(const SequenceStore* sequences = nullptr) const {
    std::vector<prometheus::MetricFamily> families = registry_->Collect();
    for (prometheus::MetricFamily& family : SnapshotMetrics(*engine_, sequences).Collect()) {
      families.push_back(std::move(family));
    }
    return prometheus::TextSerializer().Serialize(families);
  }

  Registry operators_;
  const std::shared_ptr<prometheus::Registry> registry_ = std::make_shared<prometheus::Registry>();
  std::unique_ptr<EngineMetrics> metrics_;
  const std::shared_ptr<FakeControl> control_ = std::make_shared<FakeControl>();
  std::unique_ptr<RouterEngine> engine_;
};

TEST_F(EngineMetricsTest, WhatEndedABatch) {
  Start({.queue = {.max_batch_calls = 2, .max_batch_bytes = 1 << 10}});
  const PendingResult first = Occupy();
  EXPECT_EQ(metrics_->fired_no_more.Value(), 1);
  const std::vector<PendingResult> pending = SubmitMany(*engine_, 3, [](int) { return Call(); });
  control_->Release();
  for (const PendingResult& answer : pending) ASSERT_TRUE(answer->Get().ok());
  EXPECT_EQ(metrics_->fired_max_calls.Value(), 1);
  EXPECT_EQ(metrics_->fired_no_more.Value(), 2);
  EXPECT_EQ(metrics_->fired_max_bytes.Value(), 0);
}

TEST_F(EngineMetricsTest, BatchesThatEndForTheirBytes) {
  // A call has 12 bytes of inputs and as many of outputs.
  Start({.queue = {.max_batch_calls = 64, .max_batch_bytes = 50}});
  const PendingResult first = Occupy();
  const std::vector<PendingResult> pending = SubmitMany(*engine_, 4, [](int) { return Call(); });
  control_->Release();
  for (const PendingResult& answer : pending) ASSERT_TRUE(answer->Get().ok());
  EXPECT_EQ(metrics_->fired_max_bytes.Value(), 1);
  EXPECT_EQ(metrics_->fired_max_calls.Value(), 0);
  EXPECT_EQ(metrics_->fired_no_more.Value(), 2);
}

TEST_F(EngineMetricsTest, ClientsThatLeaveAndDeadlinesThatPassByStage) {
  Start();
  EngineCall running = Call();
  running.cancel = std::make_shared<CancelToken>();
  const auto left = running.cancel;
  const PendingResult first = Occupy(std::move(running));
  EngineCall queued = Call();
  queued.cancel = std::make_shared<CancelToken>();
  queued.cancel->Cancel();
  ASSERT_TRUE(absl::IsCancelled(Submit(*engine_, std::move(queued))->Get().status()));
  EXPECT_EQ(metrics_->cancelled_queued.Value(), 1);
  left->Cancel();
  control_->Release();
  ASSERT_TRUE(first->Get().ok());
  EXPECT_EQ(metrics_->cancelled_running.Value(), 1);
  EXPECT_EQ(metrics_->late_running.Value(), 0);

  EngineCall late = Call();
  late.deadline = absl::Now() + absl::Seconds(1);
  const PendingResult slow = Occupy(std::move(late));
  absl::SleepFor(absl::Milliseconds(1100));
  control_->Release();
  ASSERT_TRUE(slow->Get().ok());
  EXPECT_EQ(metrics_->late_running.Value(), 1);
  EXPECT_EQ(metrics_->cancelled_running.Value(), 1);
}

TEST_F(EngineMetricsTest, ACallThatIsLateAndCancelledIsLate) {
  Start();
  EngineCall call = Call();
  call.deadline = absl::Now() - absl::Seconds(1);
  call.cancel = std::make_shared<CancelToken>();
  call.cancel->Cancel();
  EXPECT_TRUE(absl::IsDeadlineExceeded(Submit(*engine_, std::move(call))->Get().status()));
  EXPECT_EQ(metrics_->late_queued.Value(), 1);
  EXPECT_EQ(metrics_->cancelled_queued.Value(), 0);
}

TEST_F(EngineMetricsTest, FallbacksToTheDefinition) {
  Start();
  ASSERT_TRUE(Submit(*engine_, Call())->Get().ok());
  EXPECT_THAT(Scrape(), Not(HasSubstr("attnd_kernel_fallback_total{")));
  control_->SetKernel("composed");
  ASSERT_TRUE(Submit(*engine_, Call())->Get().ok());
  EngineCall asked = Call();
  asked.request.kernel = "composed";
  ASSERT_TRUE(Submit(*engine_, std::move(asked))->Get().ok());
  const std::string page = Scrape();
  for (const char* part : {"from=\"twice\"", "to=\"composed\"", "cause=\"declined\""}) {
    EXPECT_THAT(page, HasSubstr(part));
  }
  EXPECT_THAT(page, ::testing::ContainsRegex("attnd_kernel_fallback_total\\{[^}]*\\} 1\n"));
}

TEST_F(EngineMetricsTest, WhatNumericsReportsFound) {
  Start({}, {Lane::kReference});
  NumericsReport report{.kernel = "twice"};
  report.outputs.push_back({.output = "y", .max_abs = 0.5, .relative = 0.25});
  report.outputs.push_back({.output = "z", .max_abs = 0.125, .nonfinite_mismatch = 3});
  control_->SetReport(report);
  ASSERT_TRUE(testing::SubmitCompare(*engine_, Call(), nullptr)->Get().ok());
  const std::string page = Scrape();
  const auto sample = [&page](const std::string& name) {
    const size_t at = page.find("\n" + name + "{");
    if (at == std::string::npos) return std::string("none");
    const size_t value = page.find("} ", at) + 2;
    return page.substr(value, page.find('\n', value) - value);
  };
  EXPECT_EQ(sample("attnd_op_nonfinite_total"), "3");
  EXPECT_EQ(sample("attnd_op_max_abs_error_sum"), "0.5");
  EXPECT_EQ(sample("attnd_op_relative_error_sum"), "0.25");
}

TEST_F(EngineMetricsTest, TheWaitIsPredictedFromWhatCallsTookAndHowManyWait) {
  Start({.queue = {.max_batch_calls = 1}}, {Lane::kFast, Lane::kReference});
  const PendingResult first = Occupy();
  const PendingResult second = Submit(*engine_, Call({1}));
  absl::SleepFor(absl::Milliseconds(200));
  control_->Release();
  ASSERT_TRUE(first->Get().ok());
  ASSERT_TRUE(second->Get().ok());
  // The first call took 200 ms of the slot; of the second's almost nothing a tenth counts.
  const PendingResult third = Occupy();
  EXPECT_EQ(engine_->snapshot().predicted_wait, absl::ZeroDuration());
  const PendingResult a = Submit(*engine_, Call({1}));
  const absl::Duration one = engine_->snapshot().predicted_wait;
  const PendingResult b = Submit(*engine_, Call({1}));
  const absl::Duration two = engine_->snapshot().predicted_wait;
  EXPECT_GE(one, absl::Milliseconds(150));
  EXPECT_NEAR(absl::FDivDuration(two, one), 2, 1e-6);
  control_->Release();
  ASSERT_TRUE(a->Get().ok());
  ASSERT_TRUE(b->Get().ok());
}

TEST_F(EngineMetricsTest, CallsThatEndInTheirHandler) {
  Start();
  for (const Engine::Dropped what :
       {Engine::Dropped::kInvalid, Engine::Dropped::kTooLarge, Engine::Dropped::kBufferFull,
        Engine::Dropped::kCancelled, Engine::Dropped::kLate}) {
    engine_->NoteDropped(what);
  }
  EXPECT_EQ(metrics_->rejected_invalid.Value(), 1);
  EXPECT_EQ(metrics_->rejected_too_large.Value(), 1);
  EXPECT_EQ(metrics_->rejected_buffer_full.Value(), 1);
  EXPECT_EQ(metrics_->cancelled_receiving.Value(), 1);
  EXPECT_EQ(metrics_->late_receiving.Value(), 1);
}

TEST_F(EngineMetricsTest, SequencesWhereTheyAreKept) {
  Start();
  EXPECT_THAT(Scrape(), Not(HasSubstr("attnd_sequence")));
  SequenceStore sequences({.idle = absl::Milliseconds(200)});
  const std::vector<float> state = {1, 2, 3};
  sequences.Enter("op", "1", /*start=*/true, [&](absl::StatusOr<SequenceStore::Turn> turn) {
    ASSERT_TRUE(turn.ok());
    NamedTensors states;
    states.Set("s", HostTensor<float>({3}, state));
    ASSERT_TRUE(turn->Commit(states, /*end=*/false).ok());
    const std::string page = Scrape(&sequences);
    EXPECT_THAT(page, HasSubstr("attnd_sequences 1\n"));
    EXPECT_THAT(page, HasSubstr("attnd_sequence_bytes 12\n"));
    EXPECT_THAT(page, HasSubstr("attnd_sequences_expired_total 0\n"));
  });
  while (sequences.usage().sequences > 0) absl::SleepFor(absl::Milliseconds(10));
  const std::string page = Scrape(&sequences);
  EXPECT_THAT(page, HasSubstr("attnd_sequences 0\n"));
  EXPECT_THAT(page, HasSubstr("attnd_sequence_bytes 0\n"));
  EXPECT_THAT(page, HasSubstr("attnd_sequences_expired_total 1\n"));
}

TEST_F(EngineMetricsTest, DevicesOfThisProcess) {
  Start();
  // A worker in another process tells of its own.
  EXPECT_THAT(Scrape(), Not(HasSubstr("memory_bytes")));
  control_->SetUses({{.device = Device::kCpu, .bytes_in_use = 5, .bytes_peak = 6},
                     {.device = Device::kCuda,
                      .bytes_in_use = 7,
                      .bytes_peak = 8,
                      .out_of_memory = 9,
                      .faults = 10}});
  const std::string page = Scrape();
  for (const char* sample :
       {"attnd_cpu_memory_bytes{kind=\"in_use\"} 5\n", "attnd_cpu_memory_bytes{kind=\"peak\"} 6\n",
        "attnd_gpu_memory_bytes{kind=\"in_use\"} 7\n", "attnd_gpu_memory_bytes{kind=\"peak\"} 8\n",
        "attnd_gpu_errors_total{kind=\"memory\"} 9\n",
        "attnd_gpu_errors_total{kind=\"fault\"} 10\n"}) {
    EXPECT_THAT(page, HasSubstr(sample));
  }
}

TEST_F(EngineMetricsTest, RestartsByWhatWentBefore) {
  Start();
  for (const WorkerState state :
       {WorkerState::kDraining, WorkerState::kDown, WorkerState::kUp, WorkerState::kDown,
        WorkerState::kUp, WorkerState::kDown, WorkerState::kUp, WorkerState::kDown}) {
    control_->SetState(state);
  }
  const std::string page = Scrape();
  EXPECT_THAT(page,
              HasSubstr("attnd_worker_restarts_total{worker=\"fake\",cause=\"drained\"} 1\n"));
  EXPECT_THAT(page, HasSubstr("attnd_worker_restarts_total{worker=\"fake\",cause=\"lost\"} 2\n"));
}

}  // namespace
}  // namespace attnd
