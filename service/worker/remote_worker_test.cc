#include "service/worker/remote_worker.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <random>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "prometheus/registry.h"
#include "service/grpc_server.h"
#include "service/router/router_engine.h"
#include "service/testing/answers.h"
#include "service/testing/fake_worker.h"
#include "service/worker/worker_service.h"

namespace attnd {
namespace {

using testing::DoubleRequest;
using ::testing::ElementsAre;
using testing::FakeControl;
using ::testing::HasSubstr;
using testing::PendingResult;
using testing::Submit;
using testing::ToFloats;

// An engine with its metrics around some workers.
struct Node {
  Node(const Registry& operators, std::vector<std::unique_ptr<WorkerLink>> workers)
      : metrics(registry, operators), engine(operators, {}, metrics, std::move(workers)) {
    engine.Start();
  }
  prometheus::Registry registry;
  EngineMetrics metrics;
  RouterEngine engine;
};

std::vector<std::unique_ptr<WorkerLink>> One(std::unique_ptr<WorkerLink> worker) {
  std::vector<std::unique_ptr<WorkerLink>> workers;
  workers.push_back(std::move(worker));
  return workers;
}

// What `attnd worker` is, in this process.
class WorkerProcess {
 public:
  WorkerProcess(const Registry& operators, std::shared_ptr<FakeControl> control, int port,
                std::string socket = "")
      : node_(operators, One(testing::MakeFakeWorker(
                             std::move(control), {Lane::kFast, Lane::kFast, Lane::kReference}))),
        rpc_metrics_(node_.registry),
        service_(node_.engine, "fake", int64_t{1} << 30) {
    absl::StatusOr<std::unique_ptr<GrpcServer>> server =
        GrpcServer::Start({.address = "127.0.0.1", .port = port, .socket = std::move(socket)},
                          rpc_metrics_, {&service_}, {"attnd.v1.Worker"});
    EXPECT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  int port() const { return server_->port(); }
  void SetDraining() { service_.SetDraining(); }
  void Detach() { service_.Detach(); }
  size_t waiting() const { return node_.engine.snapshot().waiting[0]; }
  std::vector<prometheus::MetricFamily> Metrics() const { return node_.registry.Collect(); }

 private:
  Node node_;
  RpcMetrics rpc_metrics_;
  WorkerService service_;
  std::unique_ptr<GrpcServer> server_;
};

class RemoteWorkerTest : public ::testing::Test {
 protected:
  RemoteWorkerTest() {
    testing::RegisterDouble(operators_);
    worker_ = std::make_unique<WorkerProcess>(operators_, control_, 0);
    port_ = worker_->port();
    router_ = std::make_unique<Node>(
        operators_, One(std::make_unique<RemoteWorker>(RemoteWorkerOptions{
                        .target = absl::StrCat("127.0.0.1:", port_), .streams = 2})));
    EXPECT_TRUE(Await([this] { return engine().ready(); }));
  }

  RouterEngine& engine() { return router_->engine; }

  // Of small launches, as the worker counts them.
  struct Streams {
    double open = 0, ended = 0;
  };
  Streams SmallStreams() const {
    Streams streams;
    for (const prometheus::MetricFamily& family : worker_->Metrics()) {
      for (const prometheus::ClientMetric& metric : family.metric) {
        const bool small = std::any_of(
            metric.label.begin(), metric.label.end(),
            [](const auto& label) { return label.value == "attnd.v1.Worker/ExecuteSmall"; });
        if (small && family.name == "attnd_rpc_in_flight") streams.open += metric.gauge.value;
        if (small && family.name == "attnd_rpc_requests_total") {
          streams.ended += metric.counter.value;
        }
      }
    }
    return streams;
  }

  static bool Await(absl::FunctionRef<bool()> condition) {
    const absl::Time end = absl::Now() + absl::Seconds(20);
    while (!condition()) {
      if (absl::Now() > end) return false;
      absl::SleepFor(absl::Milliseconds(2));
    }
    return true;
  }

  Registry operators_;
  const std::shared_ptr<FakeControl> control_ = std::make_shared<FakeControl>();
  std::unique_ptr<WorkerProcess> worker_;
  int port_ = 0;
  std::unique_ptr<Node> router_;
};

TEST_F(RemoteWorkerTest, RunsCallsOfAnySize) {
  for (const size_t count : {size_t{0}, size_t{3}, size_t{262144}, size_t{3000001}}) {
    std::vector<float> values(count);
    for (size_t i = 0; i < count; ++i) values[i] = static_cast<float>(i % 1000);
    const auto result = Submit(engine(), {.request = DoubleRequest(values)})->Get();
    ASSERT_TRUE(result.ok()) << result.status();
    const std::vector<float> doubled = ToFloats(*result->evaluation.outputs.Find("y"));
    ASSERT_EQ(doubled.size(), count);
    for (size_t i = 0; i < count; ++i) ASSERT_EQ(doubled[i], 2 * values[i]) << i;
    EXPECT_EQ(result->evaluation.device, "fake");
    EXPECT_EQ(result->evaluation.kernel, "twice");
  }
}

TEST_F(RemoteWorkerTest, TellsDeviceAndKernels) {
  EXPECT_EQ(engine().snapshot().workers[0].device, "fake");
  ASSERT_EQ(engine().KernelsOf(testing::kDouble).size(), 1);
  EXPECT_EQ(engine().KernelsOf(testing::kDouble)[0].name, "twice");
}

TEST_F(RemoteWorkerTest, ErrorsOfTheWorkerComeBackAsTheyAre) {
  control_->SetError(absl::InvalidArgumentError("double: kernel: given x"));
  const absl::Status status = Submit(engine(), {.request = DoubleRequest({1})})->Get().status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_EQ(status.message(), "double: kernel: given x");
  EXPECT_TRUE(engine().ready());
}

TEST_F(RemoteWorkerTest, ComparesThere) {
  const auto given =
      testing::SubmitCompare(engine(), {.request = DoubleRequest({1})}, nullptr)->Get();
  ASSERT_TRUE(given.ok()) << given.status();
  EXPECT_TRUE(given->within_tolerance);
  EXPECT_EQ(given->kernel, "twice");
  RandomCompare random;
  random.dims.Set("T", 5);
  EngineCall none;
  none.request.op = testing::kDouble;
  EXPECT_TRUE(testing::SubmitCompare(engine(), std::move(none), &random)->Get().ok());
}

// A launch that fits into a frame, and one that is streamed.
constexpr size_t kLaunchSizes[] = {1, 3000001};

TEST_F(RemoteWorkerTest, ADeathAnswersAtOnceAndTheRestartIsFound) {
  for (const size_t count : kLaunchSizes) {
    control_->Hold();
    const PendingResult running =
        Submit(engine(), {.request = DoubleRequest(std::vector<float>(count, 1))});
    control_->AwaitHeld(1);
    // The server closes its connections before its engine can answer.
    std::thread death([this] { worker_.reset(); });
    const absl::Time start = absl::Now();
    const absl::Status lost = running->Get().status();
    EXPECT_TRUE(absl::IsUnavailable(lost)) << lost;
    EXPECT_THAT(lost.message(), HasSubstr("lost"));
    // Sooner than pings that nobody answers would tell.
    EXPECT_LT(absl::Now() - start, absl::Seconds(5));
    EXPECT_TRUE(Await([this] { return !engine().ready(); }));
    EXPECT_TRUE(
        absl::IsUnavailable(Submit(engine(), {.request = DoubleRequest({1})})->Get().status()));
    control_->Release();
    death.join();

    worker_ = std::make_unique<WorkerProcess>(operators_, control_, port_);
    ASSERT_TRUE(Await([this] { return engine().ready(); }));
    const auto result = Submit(engine(), {.request = DoubleRequest({4})})->Get();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_THAT(ToFloats(*result->evaluation.outputs.Find("y")), ElementsAre(8));
  }
  EXPECT_EQ(engine().snapshot().workers[0].restarts, std::size(kLaunchSizes));
}

TEST_F(RemoteWorkerTest, SmallLaunchesKeepTheirStreamThroughErrors) {
  for (int round = 0; round < 20; ++round) {
    const bool fails = round % 3 == 1;
    control_->SetError(fails ? absl::InvalidArgumentError("no") : absl::OkStatus());
    const auto result =
        Submit(engine(), {.request = DoubleRequest({static_cast<float>(round)})})->Get();
    ASSERT_EQ(result.ok(), !fails) << result.status();
    if (!fails) {
      EXPECT_THAT(ToFloats(*result->evaluation.outputs.Find("y")), ElementsAre(2 * round));
    }
  }
  const Streams streams = SmallStreams();
  EXPECT_GE(streams.open, 1);
  EXPECT_LE(streams.open, 2);  // One for each slot of the lane.
  EXPECT_EQ(streams.ended, 0);
}

// Elements of a launch that fits into a frame and is not run where it arrives.
constexpr size_t kHeavy = 2000;

TEST_F(RemoteWorkerTest, ALaunchThatNobodyWaitsForEndsAtTheWorker) {
  control_->HeedLife();
  int ended = 0;
  for (const size_t count : {kHeavy, size_t{3000001}}) {
    for (const bool by_deadline : {false, true}) {
      control_->Hold();
      EngineCall call{.request = DoubleRequest(std::vector<float>(count, 1))};
      const auto token = std::make_shared<CancelToken>();
      if (by_deadline) {
        call.deadline = absl::Now() + absl::Milliseconds(500);
      } else {
        call.cancel = token;
      }
      const PendingResult gone = Submit(engine(), std::move(call));
      control_->AwaitHeld(1);
      if (!by_deadline) token->Cancel();
      EXPECT_TRUE(control_->AwaitEndedEarly(++ended)) << count << (by_deadline ? " deadline" : "");
      const absl::Status status = gone->Get().status();
      EXPECT_TRUE(by_deadline ? absl::IsDeadlineExceeded(status) : absl::IsCancelled(status))
          << status;
      control_->Release();
      // The worker is none the worse for it.
      const auto result = Submit(engine(), {.request = DoubleRequest({4})})->Get();
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_THAT(ToFloats(*result->evaluation.outputs.Find("y")), ElementsAre(8));
    }
  }
  EXPECT_EQ(router_->metrics.launches_ended_early.Value(), ended);
  // Nobody else's stream was touched.
  EXPECT_EQ(SmallStreams().ended, 0);
}

TEST_F(RemoteWorkerTest, ALaunchThatWaitsForItsTurnAtTheWorkerIsNeverRun) {
  // More at a time than the worker has slots.
  router_ = std::make_unique<Node>(
      operators_, One(std::make_unique<RemoteWorker>(RemoteWorkerOptions{
                      .target = absl::StrCat("127.0.0.1:", port_), .streams = 4})));
  ASSERT_TRUE(Await([this] { return engine().ready(); }));
  control_->Hold();
  std::vector<PendingResult> held;
  for (int i = 1; i <= 2; ++i) {
    held.push_back(Submit(engine(), {.request = DoubleRequest(std::vector<float>(kHeavy))}));
    control_->AwaitHeld(i);
  }
  EngineCall call{.request = DoubleRequest(std::vector<float>(kHeavy + 1))};
  call.cancel = std::make_shared<CancelToken>();
  const auto token = call.cancel;
  const PendingResult gone = Submit(engine(), std::move(call));
  EngineCall late{.request = DoubleRequest(std::vector<float>(kHeavy + 2))};
  late.deadline = absl::Now() + absl::Milliseconds(500);
  const PendingResult passed = Submit(engine(), std::move(late));
  ASSERT_TRUE(Await([this] { return worker_->waiting() == 2; }));
  token->Cancel();
  EXPECT_TRUE(absl::IsCancelled(gone->Get().status())) << gone->Get().status();
  EXPECT_TRUE(absl::IsDeadlineExceeded(passed->Get().status())) << passed->Get().status();
  control_->Release();
  for (const PendingResult& answer : held) EXPECT_TRUE(answer->Get().ok());
  EXPECT_THAT(control_->launches(), ElementsAre(1, 1));
  EXPECT_EQ(SmallStreams().ended, 0);
}

TEST_F(RemoteWorkerTest, ACancelledReportEndsAtTheWorker) {
  control_->HeedLife();
  control_->Hold();
  EngineCall call{.request = DoubleRequest(std::vector<float>(kHeavy))};
  call.cancel = std::make_shared<CancelToken>();
  const auto token = call.cancel;
  const auto report = testing::SubmitCompare(engine(), std::move(call), nullptr);
  control_->AwaitHeld(1);
  token->Cancel();
  EXPECT_TRUE(control_->AwaitEndedEarly(1));
  EXPECT_TRUE(absl::IsCancelled(report->Get().status())) << report->Get().status();
}

// Cancellations that meet answers, and the next launches, on the streams.
TEST_F(RemoteWorkerTest, CancellationsInAStormTouchNobodyElse) {
  constexpr int kCallers = 6, kCalls = 300;
  std::vector<std::thread> callers;
  std::atomic<int> wrong = 0, answered = 0;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([this, caller, &wrong, &answered] {
      std::mt19937 random(static_cast<unsigned>(caller) +
                          static_cast<unsigned>(absl::ToUnixNanos(absl::Now())));
      for (int i = 0; i < kCalls; ++i) {
        const auto value = static_cast<float>(caller * kCalls + i);
        const bool leaves = random() % 2 == 0;
        EngineCall call{.request = DoubleRequest({value})};
        const auto token = std::make_shared<CancelToken>();
        call.cancel = token;
        const PendingResult pending = Submit(engine(), std::move(call));
        if (leaves) {
          const absl::Time until = absl::Now() + absl::Microseconds(random() % 300);
          while (absl::Now() < until) continue;
          token->Cancel();
        }
        const auto result = pending->Get();
        if (result.ok()) {
          ++answered;
          const std::vector<float> y = ToFloats(*result->evaluation.outputs.Find("y"));
          if (y != std::vector<float>{2 * value}) ++wrong;
        } else if (!leaves || !absl::IsCancelled(result.status())) {
          ++wrong;
        }
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_GE(answered, kCallers * kCalls / 3);
  EXPECT_EQ(SmallStreams().ended, 0);
}

TEST_F(RemoteWorkerTest, ManyCallersShareTheStreams) {
  constexpr int kCallers = 8, kCalls = 200;
  std::vector<std::thread> callers;
  callers.reserve(kCallers);
  std::atomic<int> wrong = 0;
  for (int caller = 0; caller < kCallers; ++caller) {
    callers.emplace_back([this, caller, &wrong] {
      for (int i = 0; i < kCalls; ++i) {
        const auto value = static_cast<float>(caller * kCalls + i);
        const auto result = Submit(engine(), {.request = DoubleRequest({value})})->Get();
        if (!result.ok() ||
            ToFloats(*result->evaluation.outputs.Find("y")) != std::vector<float>{2 * value}) {
          ++wrong;
        }
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(wrong, 0);
}

TEST_F(RemoteWorkerTest, AWorkerThatGoesStillAnswersWhatItRuns) {
  for (const size_t count : kLaunchSizes) {
    control_->Hold();
    const PendingResult running =
        Submit(engine(), {.request = DoubleRequest(std::vector<float>(count, 1))});
    control_->AwaitHeld(1);
    worker_->Detach();
    EXPECT_TRUE(Await([this] { return !engine().ready(); }));
    control_->Release();
    const auto result = running->Get();
    EXPECT_TRUE(result.ok()) << result.status();
    worker_.reset();
    worker_ = std::make_unique<WorkerProcess>(operators_, control_, port_);
    ASSERT_TRUE(Await([this] { return engine().ready(); }));
  }
}

TEST_F(RemoteWorkerTest, AUnixSocketServesAsWellAndIsFoundAgain) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/worker-", getpid(), ".sock");
  worker_.reset();
  worker_ = std::make_unique<WorkerProcess>(operators_, control_, port_, path);
  Node near(operators_, One(std::make_unique<RemoteWorker>(
                            RemoteWorkerOptions{.target = absl::StrCat("unix:", path)})));
  for (int life = 0; life < 2; ++life) {
    ASSERT_TRUE(Await([&near] { return near.engine.ready(); }));
    for (const size_t count : kLaunchSizes) {
      const std::vector<float> ones(count, 1);
      const auto result = Submit(near.engine, {.request = DoubleRequest(ones)})->Get();
      ASSERT_TRUE(result.ok()) << result.status();
      EXPECT_EQ(ToFloats(*result->evaluation.outputs.Find("y")), std::vector<float>(count, 2));
    }
    // Those who come by TCP have the same worker.
    ASSERT_TRUE(Await([this] { return engine().ready(); }));
    EXPECT_TRUE(Submit(engine(), {.request = DoubleRequest({1})})->Get().ok());
    worker_.reset();
    EXPECT_TRUE(Await([&near] { return !near.engine.ready(); }));
    worker_ = std::make_unique<WorkerProcess>(operators_, control_, port_, path);
  }
}

TEST_F(RemoteWorkerTest, TwoServersNeverShareASocket) {
  const std::string path = absl::StrCat(::testing::TempDir(), "/shared-", getpid(), ".sock");
  worker_ = nullptr;
  const WorkerProcess first(operators_, control_, 0, path);
  prometheus::Registry registry;
  RpcMetrics metrics(registry, [](absl::string_view) { return false; });
  const auto second =
      GrpcServer::Start({.address = "127.0.0.1", .port = 0, .socket = path}, metrics, {}, {});
  EXPECT_TRUE(absl::IsUnavailable(second.status())) << second.status();
  EXPECT_THAT(second.status().message(), HasSubstr(path));
}

TEST_F(RemoteWorkerTest, WhatIsNoWorkerIsAskedMoreAndMoreSeldomAndToldOnce) {
  worker_ = nullptr;
  prometheus::Registry registry;
  RpcMetrics metrics(registry, [](absl::string_view) { return false; });
  auto other = GrpcServer::Start({.address = "127.0.0.1", .port = 0}, metrics, {}, {});
  ASSERT_TRUE(other.ok()) << other.status();
  const int port = (*other)->port();
  ::testing::internal::CaptureStderr();
  const absl::Time start = absl::Now();
  router_ =
      std::make_unique<Node>(operators_, One(std::make_unique<RemoteWorker>(RemoteWorkerOptions{
                                             .target = absl::StrCat("127.0.0.1:", port),
                                             .min_backoff = absl::Milliseconds(10),
                                             .max_attach_backoff = absl::Milliseconds(320)})));
  const auto attempts = [&] {
    double count = 0;
    for (const prometheus::MetricFamily& family : registry.Collect()) {
      if (family.name != "attnd_rpc_requests_total") continue;
      for (const prometheus::ClientMetric& metric : family.metric) count += metric.counter.value;
    }
    return count;
  };
  // After waits of 10, 20, ... 320 ms, and then 320 each.
  EXPECT_TRUE(Await([&] { return attempts() >= 8; }));
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(10 + 20 + 40 + 80 + 160 + 320 + 320));
  (*other)->Shutdown();
  other->reset();
  // A worker in its place is found.
  worker_ = std::make_unique<WorkerProcess>(operators_, control_, port);
  EXPECT_TRUE(Await([this] { return engine().ready(); }));
  const std::string log = ::testing::internal::GetCapturedStderr();
  const std::string told = "not an attnd worker";
  EXPECT_NE(log.find(told), std::string::npos) << log;
  EXPECT_EQ(log.find(told), log.rfind(told)) << log;
}

TEST_F(RemoteWorkerTest, DrainingIsHeardAndRunningCallsFinish) {
  control_->Hold();
  const PendingResult running = Submit(engine(), {.request = DoubleRequest({1})});
  control_->AwaitHeld(1);
  worker_->SetDraining();
  EXPECT_TRUE(
      Await([this] { return engine().snapshot().workers[0].state == WorkerState::kDraining; }));
  EXPECT_FALSE(engine().ready());
  control_->Release();
  EXPECT_TRUE(running->Get().ok());
}

TEST_F(RemoteWorkerTest, TheRouterStopsWhileItsWorkerIsStuck) {
  control_->Hold();
  const PendingResult running = Submit(engine(), {.request = DoubleRequest({1})});
  control_->AwaitHeld(1);
  router_.reset();
  EXPECT_TRUE(absl::IsUnavailable(running->Get().status()));
  control_->Release();
}

}  // namespace
}  // namespace attnd
