#include "service/router/router_engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>
#include <thread>
#include <utility>

#include "prometheus/registry.h"
#include "service/overload.h"
#include "service/testing/answers.h"
#include "service/testing/fake_worker.h"

namespace attnd {
namespace {

using testing::DoubleRequest;
using ::testing::ElementsAre;
using testing::FakeControl;
using ::testing::HasSubstr;
using testing::PendingResult;
using testing::Submit;
using testing::SubmitMany;
using testing::ToFloats;

class RouterEngineTest : public ::testing::Test {
 protected:
  RouterEngineTest() {
    testing::RegisterDouble(operators_);
    metrics_ = std::make_unique<EngineMetrics>(metrics_registry_, operators_);
  }

  RouterEngine& Start(EngineOptions options = {}, std::vector<Lane> lanes = {Lane::kFast}) {
    options.light_work = 0;  // A held call must not hold the test.
    return StartWithLightCalls(options, std::move(lanes));
  }

  RouterEngine& StartWithLightCalls(EngineOptions options = {},
                                    std::vector<Lane> lanes = {Lane::kFast}) {
    std::vector<std::unique_ptr<WorkerLink>> workers;
    workers.push_back(testing::MakeFakeWorker(control_, std::move(lanes)));
    engine_ = std::make_unique<RouterEngine>(operators_, options, *metrics_, std::move(workers));
    engine_->Start();
    return *engine_;
  }

  static EngineCall Call(const std::vector<float>& values = {1, 2, 3}) {
    return {.request = DoubleRequest(values)};
  }

  // Occupies the only slot until the worker is released.
  PendingResult Occupy() {
    control_->Hold();
    PendingResult first = Submit(*engine_, Call({0}));
    control_->AwaitHeld(1);
    return first;
  }

  Registry operators_;
  prometheus::Registry metrics_registry_;
  std::unique_ptr<EngineMetrics> metrics_;
  const std::shared_ptr<FakeControl> control_ = std::make_shared<FakeControl>();
  std::unique_ptr<RouterEngine> engine_;
};

TEST_F(RouterEngineTest, AnswersACall) {
  Start();
  const auto result = Submit(*engine_, Call())->Get();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(ToFloats(*result->evaluation.outputs.Find("y")), ElementsAre(2, 4, 6));
  EXPECT_EQ(result->batch_size, 1);
  EXPECT_EQ(result->evaluation.kernel, "twice");
  const Engine::OpStatistics statistics = engine_->Statistics(testing::kDouble);
  EXPECT_EQ(statistics.success_count, 1);
  EXPECT_EQ(statistics.inference_count, 1);
  EXPECT_EQ(statistics.execution_count, 1);
}

TEST_F(RouterEngineTest, LightCallsRunWhereTheyArriveWhileASlotIsFree) {
  StartWithLightCalls({.light_work = 100});
  const auto thread_of = [this](const std::vector<float>& values) {
    testing::Answer<EngineResult> answer;
    std::thread::id id;
    engine_->Evaluate(Call(values), [&](absl::StatusOr<EngineResult> result) {
      id = std::this_thread::get_id();
      answer.Give(std::move(result));
    });
    EXPECT_TRUE(answer.Get().ok());
    return id;
  };
  EXPECT_EQ(thread_of({1, 2, 3}), std::this_thread::get_id());
  // Ten elements in a row of ten: as much work as the limit, so not less.
  EXPECT_NE(thread_of(std::vector<float>(10)), std::this_thread::get_id());

  // Definitions are never light.
  EngineCall definition = Call();
  definition.request.kernel = "composed";
  testing::Answer<EngineResult> answer;
  std::thread::id id;
  engine_->Evaluate(std::move(definition), [&](absl::StatusOr<EngineResult> result) {
    id = std::this_thread::get_id();
    answer.Give(std::move(result));
  });
  EXPECT_TRUE(answer.Get().ok());
  EXPECT_NE(id, std::this_thread::get_id());

  // With the slot taken a light call waits like any other, and shares a launch.
  control_->Hold();
  const PendingResult held = Submit(*engine_, Call(std::vector<float>(10)));
  control_->AwaitHeld(1);
  const PendingResult a = Submit(*engine_, Call()), b = Submit(*engine_, Call());
  EXPECT_FALSE(a->given());
  control_->Release();
  EXPECT_EQ(a->Get()->batch_size, 2);
  EXPECT_EQ(b->Get()->batch_size, 2);
  EXPECT_TRUE(held->Get().ok());
}

TEST_F(RouterEngineTest, BadInputIsAnsweredAtOnce) {
  Start();
  const PendingResult occupied = Occupy();
  EngineCall wrong = Call();
  wrong.request.inputs.Set("z", *wrong.request.inputs.Find("x"));
  const PendingResult answer = Submit(*engine_, std::move(wrong));
  ASSERT_TRUE(answer->given());
  EXPECT_TRUE(absl::IsInvalidArgument(answer->Get().status()));

  EngineCall unknown = Call();
  unknown.request.op = "doubel";
  EXPECT_TRUE(absl::IsNotFound(Submit(*engine_, std::move(unknown))->Get().status()));

  EngineCall priority = Call();
  priority.priority = 3;
  const absl::Status status = Submit(*engine_, std::move(priority))->Get().status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(status.message(), HasSubstr("priority: given 3"));
  control_->Release();
}

TEST_F(RouterEngineTest, WaitingCallsShareALaunchAndFreeSlotsNeverWait) {
  Start();
  const PendingResult first = Occupy();
  const std::vector<PendingResult> pending = SubmitMany(*engine_, 10, [](int i) {
    return Call({static_cast<float>(i), 1, 1});
  });
  control_->Release();
  for (int i = 0; i < 10; ++i) {
    const auto result = pending[i]->Get();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->batch_size, 10);
    EXPECT_THAT(ToFloats(*result->evaluation.outputs.Find("y")), ElementsAre(2 * i, 2, 2));
  }
  ASSERT_TRUE(first->Get().ok());
  EXPECT_THAT(control_->launches(), ElementsAre(1, 10));
  const Engine::OpStatistics statistics = engine_->Statistics(testing::kDouble);
  EXPECT_EQ(statistics.inference_count, 11);
  EXPECT_EQ(statistics.execution_count, 2);
  ASSERT_EQ(statistics.launches.size(), 2u);
  const auto& [alone, together] = std::pair(statistics.launches.at(1), statistics.launches.at(10));
  EXPECT_EQ(alone.count, 1u);
  EXPECT_EQ(together.count, 1u);
  EXPECT_GT(together.compute_ns, 0u);
  EXPECT_EQ(statistics.compute_ns, alone.compute_ns + 10 * together.compute_ns);
}

TEST_F(RouterEngineTest, CallsOfOtherSizesOrTypesDoNotShare) {
  Start();
  const PendingResult first = Occupy();
  const PendingResult a = Submit(*engine_, Call({1, 2}));
  const PendingResult b = Submit(*engine_, Call({1, 2, 3}));
  control_->Release();
  ASSERT_TRUE(a->Get().ok());
  ASSERT_TRUE(b->Get().ok());
  EXPECT_THAT(control_->launches(), ElementsAre(1, 1, 1));
}

TEST_F(RouterEngineTest, AFailedBatchIsAskedAgainOneByOne) {
  Start();
  const PendingResult first = Occupy();
  const std::vector<PendingResult> pending = SubmitMany(*engine_, 3, [](int) { return Call(); });
  control_->SetBatchError(absl::ResourceExhaustedError("too much at once"));
  control_->Release();
  for (const PendingResult& answer : pending) {
    const auto result = answer->Get();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->batch_size, 1);
  }
}

TEST_F(RouterEngineTest, ALostWorkerAnswersItsBatchUnavailable) {
  Start();
  const PendingResult first = Occupy();
  const std::vector<PendingResult> pending = SubmitMany(*engine_, 3, [](int) { return Call(); });
  control_->SetError(absl::UnavailableError("worker was lost"));
  control_->Release();
  EXPECT_TRUE(absl::IsUnavailable(first->Get().status()));
  for (const PendingResult& answer : pending) {
    EXPECT_TRUE(absl::IsUnavailable(answer->Get().status()));
  }
  EXPECT_EQ(engine_->Statistics(testing::kDouble).fail_count, 4);
}

TEST_F(RouterEngineTest, WithoutAWorkerCallsAreRefusedAndQueuedOnesAnswered) {
  Start();
  EXPECT_TRUE(engine_->ready());
  const PendingResult first = Occupy();
  const PendingResult queued = Submit(*engine_, Call());
  control_->SetState(WorkerState::kDown);
  EXPECT_TRUE(absl::IsUnavailable(queued->Get().status()));
  EXPECT_FALSE(engine_->ready());
  EXPECT_TRUE(absl::IsUnavailable(Submit(*engine_, Call())->Get().status()));
  control_->SetState(WorkerState::kUp);
  EXPECT_TRUE(engine_->ready());
  const PendingResult later = Submit(*engine_, Call());
  control_->Release();
  EXPECT_TRUE(later->Get().ok());
  EXPECT_EQ(engine_->snapshot().workers[0].restarts, 1);
  EXPECT_EQ(engine_->snapshot().workers[0].drained, 0);
}

TEST_F(RouterEngineTest, ADrainingWorkerFinishesWhatItHas) {
  Start();
  const PendingResult first = Occupy();
  control_->SetState(WorkerState::kDraining);
  EXPECT_FALSE(engine_->ready());
  control_->Release();
  EXPECT_TRUE(first->Get().ok());
  control_->SetState(WorkerState::kDown);
  control_->SetState(WorkerState::kUp);
  EXPECT_EQ(engine_->snapshot().workers[0].restarts, 1);
  EXPECT_EQ(engine_->snapshot().workers[0].drained, 1);
  // Lost, the time after that.
  control_->SetState(WorkerState::kDown);
  control_->SetState(WorkerState::kUp);
  EXPECT_EQ(engine_->snapshot().workers[0].restarts, 2);
  EXPECT_EQ(engine_->snapshot().workers[0].drained, 1);
}

TEST_F(RouterEngineTest, DeadlinesEndTheWaitWhileTheWorkerIsBusy) {
  Start();
  const PendingResult first = Occupy();
  EngineCall call = Call();
  call.deadline = absl::Now() + absl::Milliseconds(30);
  const PendingResult late = Submit(*engine_, std::move(call));
  const PendingResult patient = Submit(*engine_, Call());
  EXPECT_TRUE(absl::IsDeadlineExceeded(late->Get().status()));
  EXPECT_THAT(late->Get().status().message(), HasSubstr("queued"));
  EXPECT_FALSE(first->given());
  EXPECT_FALSE(patient->given());
  EXPECT_EQ(metrics_->late_queued.Value(), 1);

  EngineCall past = Call();
  past.deadline = absl::Now() - absl::Seconds(1);
  EXPECT_TRUE(absl::IsDeadlineExceeded(Submit(*engine_, std::move(past))->Get().status()));
  control_->Release();
  EXPECT_TRUE(patient->Get().ok());
}

TEST_F(RouterEngineTest, CancelledCallsLeaveTheQueue) {
  Start();
  const PendingResult first = Occupy();
  EngineCall call = Call();
  call.cancel = std::make_shared<CancelToken>();
  const auto token = call.cancel;
  const PendingResult cancelled = Submit(*engine_, std::move(call));
  token->Cancel();
  EXPECT_TRUE(absl::IsCancelled(cancelled->Get().status()));
  EXPECT_EQ(engine_->snapshot().waiting[0], 0);
  control_->Release();
  EXPECT_TRUE(first->Get().ok());
  EXPECT_THAT(control_->launches(), ElementsAre(1));
}

TEST_F(RouterEngineTest, ALaunchEndsWhenTheLastOfItsCallersHasLeft) {
  Start();
  control_->HeedLife();
  const PendingResult first = Occupy();
  std::vector<std::shared_ptr<CancelToken>> tokens;
  const std::vector<PendingResult> pending = SubmitMany(*engine_, 4, [&](int i) {
    EngineCall call = Call();
    if (i == 0) {
      call.deadline = absl::Now() + absl::Milliseconds(200);
    } else {
      tokens.push_back(call.cancel = std::make_shared<CancelToken>());
    }
    return call;
  });
  control_->LetPass();
  ASSERT_TRUE(first->Get().ok());
  control_->AwaitHeld(1);
  for (const auto& token : tokens) token->Cancel();
  const absl::Status late = pending[0]->Get().status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(late)) << late;
  EXPECT_THAT(late.message(), HasSubstr("while the call ran"));
  for (size_t i = 1; i < pending.size(); ++i) {
    EXPECT_TRUE(absl::IsCancelled(pending[i]->Get().status())) << pending[i]->Get().status();
  }
  EXPECT_EQ(metrics_->late_running.Value(), 1);
  EXPECT_EQ(metrics_->cancelled_running.Value(), 3);
  EXPECT_EQ(metrics_->launches_ended_early.Value(), 1);
  EXPECT_THAT(control_->launches(), ElementsAre(1));
  control_->Release();
  EXPECT_TRUE(Submit(*engine_, Call())->Get().ok());
}

TEST_F(RouterEngineTest, WhoStillWaitsHasTheAnswerWhereOthersLeft) {
  Start();
  control_->HeedLife();
  const PendingResult first = Occupy();
  std::vector<std::shared_ptr<CancelToken>> tokens;
  const std::vector<PendingResult> pending = SubmitMany(*engine_, 4, [&](int i) {
    EngineCall call = Call({static_cast<float>(i)});
    if (i != 2) tokens.push_back(call.cancel = std::make_shared<CancelToken>());
    return call;
  });
  control_->LetPass();
  ASSERT_TRUE(first->Get().ok());
  control_->AwaitHeld(1);
  for (const auto& token : tokens) token->Cancel();
  // Longer than a held launch takes to see whether its life is over.
  absl::SleepFor(absl::Milliseconds(50));
  EXPECT_FALSE(pending[2]->given());
  control_->Release();
  const auto result = pending[2]->Get();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->batch_size, 4);
  EXPECT_THAT(ToFloats(*result->evaluation.outputs.Find("y")), ElementsAre(4));
  EXPECT_EQ(metrics_->launches_ended_early.Value(), 0);
}

TEST_F(RouterEngineTest, ACancelledReportEndsEarly) {
  Start({}, {Lane::kReference});
  control_->HeedLife();
  control_->Hold();
  EngineCall call = Call();
  call.cancel = std::make_shared<CancelToken>();
  const auto token = call.cancel;
  const auto report = testing::SubmitCompare(*engine_, std::move(call), nullptr);
  control_->AwaitHeld(1);
  token->Cancel();
  EXPECT_TRUE(absl::IsCancelled(report->Get().status()));
  EXPECT_EQ(metrics_->launches_ended_early.Value(), 1);
}

TEST_F(RouterEngineTest, AFullQueueSaysWhenToComeBack) {
  Start({.queue = {.max_calls = 2}});
  const PendingResult first = Occupy();
  const PendingResult a = Submit(*engine_, Call());
  const PendingResult b = Submit(*engine_, Call());
  const PendingResult refused = Submit(*engine_, Call());
  ASSERT_TRUE(refused->given());
  EXPECT_TRUE(absl::IsResourceExhausted(refused->Get().status()));
  EXPECT_TRUE(IsOverload(refused->Get().status()));
  EXPECT_THAT(refused->Get().status().message(), HasSubstr("retry in about"));
  EXPECT_EQ(metrics_->rejected_queue_full.Value(), 1);
  control_->Release();
  EXPECT_TRUE(a->Get().ok());
  EXPECT_TRUE(b->Get().ok());
  EXPECT_TRUE(Submit(*engine_, Call())->Get().ok());
}

TEST_F(RouterEngineTest, CallsBeyondTheSizeLimitAreRefused) {
  Start({.max_call_bytes = 23});
  const absl::Status status = Submit(*engine_, Call({1, 2, 3}))->Get().status();
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_FALSE(IsOverload(status));
  EXPECT_THAT(status.message(), HasSubstr("need 24 bytes, the limit is 23"));
}

TEST_F(RouterEngineTest, AnswersThatNobodyHasReadYetCountInTheMemoryLimit) {
  // Two outputs of three floats each.
  Start({.memory_limit_bytes = 24});
  const PendingResult first = Occupy();
  const PendingResult second = Submit(*engine_, Call({1, 2, 3}));
  EXPECT_EQ(engine_->snapshot().answer_bytes, 4 + 12);
  const absl::Status refused = Submit(*engine_, Call({1, 2, 3}))->Get().status();
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_TRUE(IsOverload(refused));
  EXPECT_THAT(refused.message(), HasSubstr("outputs need 12 bytes"));
  EXPECT_THAT(refused.message(), HasSubstr("hold 16 of 24 (--memory-limit)"));
  EXPECT_EQ(metrics_->rejected_memory_full.Value(), 1);
  control_->Release();
  // Answered, and still held by whoever asked.
  ASSERT_TRUE(first->Get().ok());
  ASSERT_TRUE(second->Get().ok());
  EXPECT_TRUE(engine_->Drain(absl::Seconds(20)));
  EXPECT_EQ(engine_->snapshot().answer_bytes, 4 + 12);
}

TEST_F(RouterEngineTest, RoomIsThereAgainWhenAnswersAreRead) {
  Start({.memory_limit_bytes = 24});
  for (int i = 0; i < 10; ++i) {
    testing::Answer<bool> answered;
    std::optional<Tensor> part;
    engine_->Evaluate(Call({1, 2, 3, 4}), [&](absl::StatusOr<EngineResult> result) {
      // A view is as good as the whole.
      if (result.ok()) part = result->evaluation.outputs.Find("y")->Slice(1, 0, 1);
      result = absl::UnknownError("gone");
      answered.Give(part.has_value());
    });
    ASSERT_EQ(answered.Get().value(), true);
    EXPECT_EQ(engine_->snapshot().answer_bytes, 16);
    part.reset();
    EXPECT_EQ(engine_->snapshot().answer_bytes, 0);
  }
  control_->SetError(absl::InvalidArgumentError("no"));
  EXPECT_FALSE(Submit(*engine_, Call({1, 2, 3, 4}))->Get().ok());
  EXPECT_EQ(engine_->snapshot().answer_bytes, 0);
}

TEST_F(RouterEngineTest, WhatNeverFitsIntoTheMemoryLimitIsNoOverload) {
  Start({.memory_limit_bytes = 11});
  const absl::Status status = Submit(*engine_, Call({1, 2, 3}))->Get().status();
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_FALSE(IsOverload(status));
  EXPECT_THAT(status.message(), HasSubstr("outputs need 12 bytes, the limit is 11"));
}

TEST_F(RouterEngineTest, ReferenceCallsDoNotHoldUpFastOnes) {
  Start({}, {Lane::kFast, Lane::kReference});
  control_->Hold();
  EngineCall exact;
  exact.request.op = testing::kDouble;
  exact.request.inputs.Set("x", HostTensor<double>({1, 2}, std::vector<double>{1, 2}));
  const PendingResult slow = Submit(*engine_, std::move(exact));
  control_->AwaitHeld(1);
  const PendingResult fast = Submit(*engine_, Call());
  control_->AwaitHeld(2);  // Both lanes run at a time.
  control_->Release();
  EXPECT_TRUE(fast->Get().ok());
  const auto result = slow->Get();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->evaluation.outputs.Find("y")->dtype(), DType::kFloat64);
}

TEST_F(RouterEngineTest, ComparesInTheReferenceLane) {
  Start({}, {Lane::kFast, Lane::kReference});
  const auto report = testing::SubmitCompare(*engine_, Call(), nullptr)->Get();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(report->within_tolerance);
  const RandomCompare random;
  EngineCall none;
  none.request.op = testing::kDouble;
  EXPECT_TRUE(testing::SubmitCompare(*engine_, std::move(none), &random)->Get().ok());
  EngineCall wrong;
  wrong.request.op = testing::kDouble;
  EXPECT_TRUE(absl::IsInvalidArgument(
      testing::SubmitCompare(*engine_, std::move(wrong), nullptr)->Get().status()));
}

TEST_F(RouterEngineTest, DrainRefusesNewCallsAndFinishesOldOnes) {
  Start();
  const PendingResult first = Occupy();
  const PendingResult queued = Submit(*engine_, Call());
  EXPECT_FALSE(engine_->Drain(absl::Milliseconds(10)));
  EXPECT_FALSE(engine_->ready());
  EXPECT_TRUE(absl::IsUnavailable(Submit(*engine_, Call())->Get().status()));
  control_->Release();
  EXPECT_TRUE(engine_->Drain(absl::Seconds(20)));
  EXPECT_TRUE(first->given());
  EXPECT_TRUE(queued->given());
  EXPECT_TRUE(queued->Get().ok());
}

TEST_F(RouterEngineTest, DestructionAnswersEveryCall) {
  Start();
  const PendingResult first = Occupy();
  const PendingResult queued = Submit(*engine_, Call());
  engine_.reset();
  EXPECT_TRUE(first->Get().ok());
  EXPECT_TRUE(absl::IsUnavailable(queued->Get().status()));
}

TEST_F(RouterEngineTest, KernelsComeFromTheWorkers) {
  Start();
  const auto kernels = engine_->KernelsOf(testing::kDouble);
  ASSERT_EQ(kernels.size(), 1);
  EXPECT_EQ(kernels[0].name, "twice");
  EXPECT_TRUE(engine_->KernelsOf("nothing").empty());
}

TEST_F(RouterEngineTest, EveryCallOfAStormIsAnsweredOnce) {
  Start({.queue = {.max_calls = 64, .max_batch_calls = 8}, .sweep_period = absl::Milliseconds(1)},
        {Lane::kFast, Lane::kFast, Lane::kReference});
  constexpr int kThreads = 4;
  constexpr int kCalls = 500;
  std::vector<std::vector<PendingResult>> pending(kThreads);
  std::vector<std::thread> threads;
  threads.reserve(kThreads);
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < kCalls; ++i) {
        EngineCall call = Call({static_cast<float>(i), static_cast<float>(t)});
        call.priority = i % 3;
        const int fate = i % 7;
        if (fate == 0) call.deadline = absl::Now() + absl::Microseconds(50);
        if (fate == 1) call.cancel = std::make_shared<CancelToken>();
        const auto token = call.cancel;
        pending[t].push_back(Submit(*engine_, std::move(call)));
        if (token != nullptr) token->Cancel();
        if (t == 0 && i % 100 == 50) {
          control_->SetState(i % 200 == 50 ? WorkerState::kDown : WorkerState::kUp);
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  control_->SetState(WorkerState::kUp);
  for (int t = 0; t < kThreads; ++t) {
    for (int i = 0; i < kCalls; ++i) {
      const auto result = pending[t][i]->Get();
      if (result.ok()) {
        ASSERT_THAT(ToFloats(*result->evaluation.outputs.Find("y")), ElementsAre(2 * i, 2 * t));
      } else {
        ASSERT_NE(result.status().message(), "no answer came");
        ASSERT_FALSE(absl::IsInternal(result.status())) << result.status();
      }
    }
  }
  // How many of the storm got through is chance; after it the engine works as before.
  EXPECT_TRUE(Submit(*engine_, Call())->Get().ok());
  EXPECT_TRUE(engine_->Drain(absl::Seconds(20)));
}

}  // namespace
}  // namespace attnd
