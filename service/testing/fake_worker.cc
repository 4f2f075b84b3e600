#include "service/testing/fake_worker.h"

#include <utility>

#include "kernels/primitives/composer.h"

namespace attnd::testing {
namespace {

// How often a held launch looks whether anybody waits for it.
constexpr absl::Duration kLook = absl::Milliseconds(1);

}  // namespace

void RegisterDouble(Registry& registry) {
  registry.Add({.id = kDouble,
                .paper = "None.",
                .summary = "Twice its input.",
                .core = "linear_global",
                .inputs = {"x: float[B,T]"},
                .outputs = {"y: float[B,T]"}},
               [](Composer& c) {
                 c.Out("y", c.In("x") * 2);
                 return c.status();
               });
}

CallRequest DoubleRequest(const std::vector<float>& values) {
  CallRequest request;
  request.op = kDouble;
  const auto count = static_cast<int64_t>(values.size());
  request.inputs.Set("x", HostTensor<float>({1, count}, values));
  return request;
}

std::vector<float> ToFloats(const Tensor& tensor) {
  const float* data = tensor.data<float>();
  return std::vector<float>(data, data + tensor.num_elements());
}

void FakeControl::Hold() {
  absl::MutexLock lock(&mu_);
  held_ = true;
}

void FakeControl::LetPass() {
  absl::MutexLock lock(&mu_);
  ++passed_;
}

void FakeControl::Release() {
  absl::MutexLock lock(&mu_);
  held_ = false;
}

void FakeControl::AwaitHeld(int launches) {
  absl::MutexLock lock(&mu_);
  const auto enough = [&] { return waiting_ >= launches; };
  mu_.Await(absl::Condition(&enough));
}

bool FakeControl::AwaitEndedEarly(int launches) {
  absl::MutexLock lock(&mu_);
  const auto enough = [&] { return ended_early_ >= launches; };
  return mu_.AwaitWithTimeout(absl::Condition(&enough), absl::Seconds(20));
}

void FakeControl::HeedLife() {
  absl::MutexLock lock(&mu_);
  heeds_life_ = true;
}

void FakeControl::SetState(WorkerState state) {
  WorkerLink::StateObserver observer;
  {
    absl::MutexLock lock(&mu_);
    observer = observer_;
  }
  observer(state);
}

void FakeControl::SetError(absl::Status error) {
  absl::MutexLock lock(&mu_);
  error_ = std::move(error);
}

void FakeControl::SetKernel(std::string kernel) {
  absl::MutexLock lock(&mu_);
  kernel_ = std::move(kernel);
}

void FakeControl::SetUses(std::vector<DeviceUse> uses) {
  absl::MutexLock lock(&mu_);
  uses_ = std::move(uses);
}

void FakeControl::SetReport(NumericsReport report) {
  absl::MutexLock lock(&mu_);
  report_ = std::move(report);
}

void FakeControl::SetBatchError(absl::Status error) {
  absl::MutexLock lock(&mu_);
  batch_error_ = std::move(error);
}

std::vector<int64_t> FakeControl::launches() const {
  absl::MutexLock lock(&mu_);
  return launches_;
}

class FakeWorker final : public WorkerLink {
 public:
  FakeWorker(std::shared_ptr<FakeControl> control, std::vector<Lane> lanes)
      : control_(std::move(control)), lanes_(std::move(lanes)) {}

  std::string name() const override { return "fake"; }
  std::string device() const override { return "fake"; }
  KernelTable kernels() const override { return {{kDouble, {{"twice", "cpu"}}}}; }
  std::vector<Lane> slots() const override { return lanes_; }
  std::vector<DeviceUse> uses() const override {
    absl::MutexLock lock(&control_->mu_);
    return control_->uses_;
  }

  void Start(StateObserver observer) override {
    {
      absl::MutexLock lock(&control_->mu_);
      control_->observer_ = observer;
    }
    observer(WorkerState::kUp);
  }

  void Stop() override { control_->Release(); }

  void Execute(int slot, const Operator& op, const BoundCall& call, const std::string& kernel,
               LaunchLife& life, Executed done) override {
    done(Run(call, life));
  }

  absl::StatusOr<NumericsReport> Compare(int slot, const Operator& op, const CompareJob& job,
                                         LaunchLife& life) override {
    if (absl::Status s = Enter(0, life); !s.ok()) return s;
    absl::MutexLock lock(&control_->mu_);
    return control_->report_;
  }

 private:
  absl::StatusOr<Evaluation> Run(const BoundCall& call, const LaunchLife& life) {
    if (absl::Status s = Enter(call.dim("B"), life); !s.ok()) return s;
    const Tensor& x = call.input("x");
    absl::StatusOr<Tensor> y = AllocateHost(x.dtype(), x.shape());
    if (!y.ok()) return y.status();
    const auto twice = [&](auto* to, const auto* from) {
      for (int64_t i = 0; i < x.num_elements(); ++i) to[i] = 2 * from[i];
    };
    if (x.dtype() == DType::kFloat64) {
      twice(y->data<double>(), x.data<double>());
    } else {
      twice(y->data<float>(), x.data<float>());
    }
    Evaluation evaluation;
    evaluation.outputs.Set("y", *y);
    {
      absl::MutexLock lock(&control_->mu_);
      evaluation.kernel = control_->kernel_;
    }
    evaluation.device = "fake";
    evaluation.compute = absl::Microseconds(1);
    return evaluation;
  }

  absl::Status Enter(int64_t rows, const LaunchLife& life) {
    absl::MutexLock lock(&control_->mu_);
    ++control_->waiting_;
    const auto released = [this, passed = control_->passed_] {
      return !control_->held_ || control_->passed_ != passed;
    };
    bool over = false;
    do {
      over = control_->heeds_life_ && life.over();
    } while (!over && !control_->mu_.AwaitWithTimeout(absl::Condition(&released), kLook));
    --control_->waiting_;
    if (over) {
      ++control_->ended_early_;
      return absl::CancelledError("ended early");
    }
    if (!control_->error_.ok()) return control_->error_;
    if (rows > 1 && !control_->batch_error_.ok()) return control_->batch_error_;
    control_->launches_.push_back(rows);
    return absl::OkStatus();
  }

  const std::shared_ptr<FakeControl> control_;
  const std::vector<Lane> lanes_;
};

std::unique_ptr<WorkerLink> MakeFakeWorker(std::shared_ptr<FakeControl> control,
                                           std::vector<Lane> lanes) {
  return std::make_unique<FakeWorker>(std::move(control), std::move(lanes));
}

}  // namespace attnd::testing
