// Real operators through the engine: an answer has the same bits whatever ran beside it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <set>
#include <string>
#include <utility>

#include "kernels/core/batch.h"
#include "kernels/core/evaluate.h"
#include "kernels/core/random_call.h"
#include "prometheus/registry.h"
#include "service/router/router_engine.h"
#include "service/testing/answers.h"
#include "service/worker/local_worker.h"

namespace attnd {
namespace {

using testing::PendingResult;
using testing::Submit;

Registry& Operators() {
  static Registry registry;
  static const bool registered = (RegisterAllOperators(registry), true);
  (void)registered;
  return registry;
}

std::vector<std::string> OperatorIds() {
  std::vector<std::string> ids;
  for (const Operator* op : Operators().operators()) ids.push_back(op->spec.id());
  return ids;
}

// A worker whose launches wait at a gate while it is shut.
class Gated final : public WorkerLink {
 public:
  explicit Gated(std::unique_ptr<WorkerLink> worker) : worker_(std::move(worker)) {}

  void Shut() { Set(true); }
  void Open() { Set(false); }
  void AwaitHeld() {
    absl::MutexLock lock(&mu_);
    const auto waiting = [this] { return waiting_ > 0; };
    mu_.Await(absl::Condition(&waiting));
  }

  std::string name() const override { return worker_->name(); }
  std::string device() const override { return worker_->device(); }
  KernelTable kernels() const override { return worker_->kernels(); }
  std::vector<Lane> slots() const override { return worker_->slots(); }
  void Start(StateObserver observer) override { worker_->Start(std::move(observer)); }
  void Stop() override { Open(); }
  void Execute(int slot, const Operator& op, const BoundCall& call, const std::string& kernel,
               LaunchLife& life, Executed done) override {
    {
      absl::MutexLock lock(&mu_);
      ++waiting_;
      const auto open = [this] { return !shut_; };
      mu_.Await(absl::Condition(&open));
      --waiting_;
    }
    worker_->Execute(slot, op, call, kernel, life, std::move(done));
  }
  absl::StatusOr<NumericsReport> Compare(int slot, const Operator& op, const CompareJob& job,
                                         LaunchLife& life) override {
    return worker_->Compare(slot, op, job, life);
  }

 private:
  void Set(bool shut) {
    absl::MutexLock lock(&mu_);
    shut_ = shut;
  }

  const std::unique_ptr<WorkerLink> worker_;
  absl::Mutex mu_;
  bool shut_ = false;
  int waiting_ = 0;
};

class BatchInvarianceTest : public ::testing::TestWithParam<std::string> {
 protected:
  BatchInvarianceTest() : metrics_(metrics_registry_, Operators()) {
    absl::StatusOr<std::unique_ptr<LocalWorker>> local =
        LocalWorker::Create({.device = "cpu", .executors = 1}, Operators());
    EXPECT_TRUE(local.ok()) << local.status();
    auto gated = std::make_unique<Gated>(*std::move(local));
    gate_ = gated.get();
    std::vector<std::unique_ptr<WorkerLink>> workers;
    workers.push_back(std::move(gated));
    engine_ = std::make_unique<RouterEngine>(Operators(), EngineOptions{.light_work = 0}, metrics_,
                                             std::move(workers));
    engine_->Start();
  }

  const Operator& op() const { return **Operators().Find(GetParam()); }

  // Calls that may share a launch: same inputs, attributes and sizes, but for the number of tokens
  // where the operator packs them; other values in every tensor of the batch.
  std::vector<CallRequest> Calls() const {
    const absl::StatusOr<CallRequest> first = RandomCall(op(), {.seed = 11});
    EXPECT_TRUE(first.ok()) << first.status();
    const std::string key = KeyOf(*first);
    std::vector<CallRequest> calls = {*first};
    for (int64_t seed = 1; calls.size() < 4 && seed < 500; ++seed) {
      // Other lengths where the key allows them.
      for (const int64_t more : {seed % 7, int64_t{0}}) {
        absl::StatusOr<CallRequest> like = Like(*first, seed, more);
        if (!like.ok() || KeyOf(*like) != key) continue;
        calls.push_back(*std::move(like));
        break;
      }
    }
    EXPECT_EQ(calls.size(), 4) << "found no calls like the first: " << key;
    return calls;
  }

  std::string KeyOf(const CallRequest& request) const {
    const absl::StatusOr<BoundCall> bound = BindAndCheck(op(), request);
    return bound.ok() ? BatchKey(*bound, request.kernel) : "invalid";
  }

  absl::StatusOr<CallRequest> Like(const CallRequest& first, uint64_t seed, int64_t more) const {
    RandomOptions options{.seed = seed, .attributes = first.attributes};
    const absl::StatusOr<BoundCall> bound = Bind(op().spec, first);
    options.dims = bound->dims();
    for (const char* tokens : {"T", "S"}) {
      if (int64_t* size = options.dims.Find(tokens)) *size += more;
    }
    for (const Port& port : op().spec.inputs()) {
      (first.inputs.contains(port.name) ? options.with : options.without).push_back(port.name);
    }
    absl::StatusOr<CallRequest> like = RandomCall(op(), options);
    if (!like.ok()) return like;
    for (const auto& [name, tensor] : first.inputs) {
      const Port& port = *op().spec.FindInput(name);
      const int alternative = bound->alternative(name);
      const bool batched = port.AxisOf("B", alternative) == 0 || port.AxisOf("M", alternative) == 0;
      if (!batched) like->inputs.Set(name, tensor);
    }
    return like;
  }

  prometheus::Registry metrics_registry_;
  EngineMetrics metrics_;
  Gated* gate_ = nullptr;
  std::unique_ptr<RouterEngine> engine_;
};

TEST_P(BatchInvarianceTest, AnswersHaveTheSameBitsAloneAndTogether) {
  const std::vector<CallRequest> calls = Calls();
  std::vector<EngineResult> alone;
  for (const CallRequest& call : calls) {
    absl::StatusOr<EngineResult> result = Submit(*engine_, {.request = call})->Get();
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_EQ(result->batch_size, 1);
    alone.push_back(*std::move(result));
  }

  gate_->Shut();
  const PendingResult head = Submit(*engine_, {.request = calls[0]});
  gate_->AwaitHeld();
  std::vector<PendingResult> pending;
  pending.reserve(calls.size());
  for (const CallRequest& call : calls) pending.push_back(Submit(*engine_, {.request = call}));
  gate_->Open();

  const uint32_t expected = KeyOf(calls[0]).empty() ? 1 : calls.size();
  for (size_t i = 0; i < calls.size(); ++i) {
    const absl::StatusOr<EngineResult> result = pending[i]->Get();
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->batch_size, expected);
    EXPECT_EQ(result->evaluation.kernel, alone[i].evaluation.kernel);
    for (const auto& [name, tensor] : alone[i].evaluation.outputs) {
      const Tensor* together = result->evaluation.outputs.Find(name);
      ASSERT_NE(together, nullptr) << name;
      ASSERT_EQ(together->shape(), tensor.shape()) << name;
      ASSERT_TRUE(together->is_contiguous()) << name;
      EXPECT_EQ(std::memcmp(together->raw(), tensor.raw(), tensor.byte_size()), 0)
          << name << " of call " << i;
    }
  }
  ASSERT_TRUE(head->Get().ok());
}

TEST_P(BatchInvarianceTest, PlainCallsMayShareALaunch) {
  // A batch of one: lists or weights for each row of a larger one keep a call to itself.
  RandomOptions options = {.seed = 5, .optional_inputs = 0};
  options.dims.Set("B", 1);
  const absl::StatusOr<CallRequest> plain = RandomCall(op(), options);
  if (!plain.ok()) GTEST_SKIP() << "needs optional inputs";
  // Inputs or outputs of these do not begin with the batch, or an attribute counts their tokens.
  const std::set<std::string> apart = {"deconstructed_attention", "lasp2", "merge_attention",
                                       "srmsnorm"};
  EXPECT_EQ(KeyOf(*plain).empty(), apart.contains(GetParam())) << KeyOf(*plain);
}

INSTANTIATE_TEST_SUITE_P(Operators, BatchInvarianceTest, ::testing::ValuesIn(OperatorIds()),
                         [](const auto& info) { return info.param; });

TEST_P(BatchInvarianceTest, ReportsComeFromTheReferenceLane) {
  RandomCompare random;
  random.seed = 3;
  EngineCall call;
  call.request.op = GetParam();
  const absl::StatusOr<NumericsReport> report =
      testing::SubmitCompare(*engine_, std::move(call), &random)->Get();
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(report->within_tolerance);
  EXPECT_TRUE(report->bitwise_repeatable);

  random.dims.Set("T", int64_t{1} << 40);
  EngineCall huge;
  huge.request.op = GetParam();
  EXPECT_FALSE(testing::SubmitCompare(*engine_, std::move(huge), &random)->Get().ok());
}

}  // namespace
}  // namespace attnd
