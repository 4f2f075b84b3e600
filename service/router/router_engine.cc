#include "service/router/router_engine.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/batch.h"
#include "service/clock.h"
#include "service/guarded.h"
#include "service/log.h"
#include "service/overload.h"
#include "service/router/router_engine_state.h"

namespace attnd {
namespace {

int64_t InputBytes(const BoundCall& call) {
  int64_t bytes = 0;
  for (const auto& [name, tensor] : call.inputs()) bytes += tensor.byte_size();
  return bytes;
}

absl::StatusOr<int64_t> OutputBytes(const BoundCall& call) {
  int64_t bytes = 0;
  for (const BoundCall::OutputSpec& output : call.outputs()) {
    absl::StatusOr<int64_t> size = CheckedByteSize(output.dtype, output.shape);
    if (!size.ok() || __builtin_add_overflow(bytes, *size, &bytes)) {
      return absl::ResourceExhaustedError(
          absl::StrCat("output ", output.name, " has more elements than can be counted"));
    }
  }
  return bytes;
}

}  // namespace

RouterEngine::RouterEngine(const Registry& operators, const EngineOptions& options,
                           EngineMetrics& metrics, std::vector<std::unique_ptr<WorkerLink>> workers)
    : operators_(operators),
      options_(options),
      metrics_(metrics),
      answer_budget_(std::make_shared<ByteBudget>(options.memory_limit_bytes > 0
                                                      ? options.memory_limit_bytes
                                                      : std::numeric_limits<int64_t>::max())),
      queue_(options.queue) {
  for (const Operator* op : operators.operators()) {
    auto state = std::make_unique<OpState>();
    state->metrics = &metrics.Of(op->spec.id());
    op_states_.emplace(op, std::move(state));
  }
  for (auto& link : workers) workers_.push_back(std::make_unique<Worker>(std::move(link)));
}

RouterEngine::~RouterEngine() {
  CallList waiting;
  {
    absl::MutexLock lock(&mu_);
    draining_ = true;
    stopping_ = true;
    open_.store(false);
    waiting = queue_.Clear();
  }
  AnswerDead(std::move(waiting), absl::UnavailableError("the server is stopping: repeat the call"));
  for (auto& worker : workers_) worker->link->Stop();
  for (std::thread& thread : threads_) thread.join();
  const auto finished = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return running_ == 0; };
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(&finished));
}

void RouterEngine::Start() {
  for (auto& worker : workers_) {
    Worker& w = *worker;
    const std::vector<Lane> lanes = w.link->slots();
    for (size_t slot = 0; slot < lanes.size(); ++slot) {
      {
        absl::MutexLock lock(&mu_);
        w.free[static_cast<int>(lanes[slot])].push_back(static_cast<int>(slot));
      }
      threads_.emplace_back([this, &w, lane = lanes[slot]] { RunLane(w, lane); });
    }
    w.link->Start([this, &w](WorkerState state) { OnWorkerState(w, state); });
  }
  threads_.emplace_back([this] { SweepLoop(); });
}

bool RouterEngine::Drain(absl::Duration patience) {
  absl::MutexLock lock(&mu_);
  draining_ = true;
  open_.store(false);
  const auto finished = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return running_ == 0 && queue_.empty();
  };
  return mu_.AwaitWithTimeout(absl::Condition(&finished), patience);
}

RouterEngine::OpState& RouterEngine::StateOf(const Operator& op) const {
  return *op_states_.find(&op)->second;
}

absl::Status RouterEngine::CheckOpen() {
  if (open_.load(std::memory_order_relaxed)) return absl::OkStatus();
  absl::MutexLock lock(&mu_);
  return CheckOpenLocked();
}

absl::Status RouterEngine::CheckOpenLocked() {
  if (draining_) {
    metrics_.rejected_draining.Increment();
    return absl::UnavailableError("the server is draining: repeat the call elsewhere");
  }
  if (workers_up_ == 0) {
    metrics_.rejected_no_worker.Increment();
    return absl::UnavailableError("no worker is reachable: repeat the call in a second");
  }
  return absl::OkStatus();
}

absl::Status RouterEngine::CheckSize(QueuedCall& call) const {
  const absl::StatusOr<int64_t> outputs = OutputBytes(call.call);
  absl::Status status = outputs.status();
  int64_t total = 0;
  if (status.ok() && (__builtin_add_overflow(InputBytes(call.call), *outputs, &total) ||
                      total > options_.max_call_bytes)) {
    status = absl::ResourceExhaustedError(absl::StrCat(
        "inputs and outputs need ", total, " bytes, the limit is ", options_.max_call_bytes));
  }
  if (!status.ok()) {
    metrics_.rejected_too_large.Increment();
    return absl::Status(status.code(), absl::StrCat(call.op->spec.id(), ": ", status.message()));
  }
  call.bytes = total;
  call.output_bytes = *outputs;
  return absl::OkStatus();
}

absl::Status RouterEngine::TakeAnswerRoom(QueuedCall& call) {
  call.answer_room = TakenBytes::Take(answer_budget_, call.output_bytes);
  if (call.answer_room != nullptr) return absl::OkStatus();
  metrics_.rejected_memory_full.Increment();
  const std::string needs =
      absl::StrCat(call.op->spec.id(), ": outputs need ", call.output_bytes, " bytes");
  const int64_t limit = answer_budget_->limit();
  if (call.output_bytes > limit) {
    return absl::ResourceExhaustedError(
        absl::StrCat(needs, ", the limit is ", limit, " (--memory-limit)"));
  }
  return OverloadError(absl::StrCat(needs,
                                    ", but calls under way and answers that clients have "
                                    "not read yet hold ",
                                    answer_budget_->taken(), " of ", limit,
                                    " (--memory-limit): repeat the call later"));
}

absl::StatusOr<CallList> RouterEngine::Prepare(EngineCall& in) {
  if (absl::Status open = CheckOpen(); !open.ok()) return open;
  absl::StatusOr<const Operator*> op = operators_.Find(in.request.op);
  if (!op.ok()) {
    metrics_.rejected_invalid.Increment();
    return op.status();
  }
  if (in.priority >= kPriorities) {
    metrics_.rejected_invalid.Increment();
    return absl::InvalidArgumentError(absl::StrCat(
        (*op)->spec.id(), ": priority: given ", in.priority, ", expected 0 to ", kPriorities - 1));
  }
  CallList one(1);
  QueuedCall& call = one.front();
  call.op = *op;
  call.priority = in.priority;
  call.admitted = MonotonicNow();
  call.deadline = ToMonotonic(in.deadline);
  call.cancel = std::move(in.cancel);
  call.kernel = in.request.kernel;
  return one;
}

absl::Status RouterEngine::BindInto(const CallRequest& request, QueuedCall& call) {
  absl::StatusOr<BoundCall> bound = BindAndCheck(*call.op, request);
  if (!bound.ok()) {
    metrics_.rejected_invalid.Increment();
    return bound.status();
  }
  call.call = *std::move(bound);
  return CheckSize(call);
}

void RouterEngine::Evaluate(EngineCall in, Done done) {
  absl::StatusOr<CallList> one = Guarded([&]() -> absl::StatusOr<CallList> {
    absl::StatusOr<CallList> made = Prepare(in);
    if (!made.ok()) return made;
    QueuedCall& call = made->front();
    if (absl::Status s = BindInto(in.request, call); !s.ok()) {
      StateOf(*call.op).Answered(call, false);
      return s;
    }
    call.lane = call.call.dtype() == DType::kFloat64 ? Lane::kReference : Lane::kFast;
    // Definitions take a step for every token, however small it is.
    call.light = call.lane == Lane::kFast && call.kernel != "composed" && IsLight(call.call);
    return made;
  });
  if (!one.ok()) return done(one.status());
  one->front().done = std::move(done);
  Admit(*std::move(one));
}

void RouterEngine::Compare(EngineCall in, const RandomCompare* random, CompareDone done) {
  absl::StatusOr<CallList> one = Guarded([&]() -> absl::StatusOr<CallList> {
    absl::StatusOr<CallList> made = Prepare(in);
    if (!made.ok()) return made;
    QueuedCall& call = made->front();
    if (random == nullptr) {
      if (absl::Status s = BindInto(in.request, call); !s.ok()) return s;
    }
    call.lane = Lane::kReference;
    call.compare = std::make_unique<CompareJob>();
    call.compare->request = std::move(in.request);
    call.compare->random = random != nullptr;
    if (random != nullptr) call.compare->draw = *random;
    return made;
  });
  if (!one.ok()) return done(one.status());
  one->front().compare_done = std::move(done);
  Admit(*std::move(one));
}

bool RouterEngine::IsLight(const BoundCall& call) const {
  int64_t elements = 0, extent = 1;
  for (const auto& [name, tensor] : call.inputs()) {
    elements = std::max(elements, tensor.num_elements());
    for (const int64_t size : tensor.shape()) extent = std::max(extent, size);
  }
  int64_t work = 0;
  return !__builtin_mul_overflow(elements, extent, &work) && work < options_.light_work;
}

void RouterEngine::Admit(CallList one) {
  QueuedCall& call = one.front();
  absl::Status status;
  if (call.dead(call.admitted)) {
    return AnswerDead(std::move(one), absl::OkStatus());
  }
  if (call.compare == nullptr) {
    if (absl::Status room = TakeAnswerRoom(call); !room.ok()) return Fail(call, room);
  }
  if (call.light) {
    if (LaunchPtr here = OccupyFree(one)) return Run(std::move(here));
  }
  if (call.compare == nullptr) call.batch_key = BatchKey(call.call, call.kernel);
  {
    absl::MutexLock lock(&mu_);
    status = CheckOpenLocked();
    if (status.ok()) {
      status = queue_.Push(one);
      if (status.ok()) return;
      metrics_.rejected_queue_full.Increment();
      const double wait = absl::ToDoubleMilliseconds(PredictedWait(call.lane));
      status = OverloadError(absl::StrCat(status.message(), "; retry in about ",
                                          std::max<int64_t>(1, std::llround(wait)), " ms"));
    }
  }
  Fail(call, status);
}

void RouterEngine::Fail(QueuedCall& call, const absl::Status& status) {
  if (call.compare != nullptr) {
    std::move(call.compare_done)(status);
    return;
  }
  StateOf(*call.op).Answered(call, false);
  call.answer_room = nullptr;
  std::move(call.done)(status);
}

void RouterEngine::AnswerDead(CallList dead, const absl::Status& other) {
  const absl::Time now = MonotonicNow();
  for (QueuedCall& call : dead) {
    switch (FateOf(call, now)) {
      case Fate::kLate:
        metrics_.late_queued.Increment();
        Fail(call, absl::DeadlineExceededError(absl::StrCat(
                       "the deadline passed while the call was queued, for ", Since(call, now))));
        break;
      case Fate::kCancelled:
        metrics_.cancelled_queued.Increment();
        Fail(call, absl::CancelledError("cancelled while queued"));
        break;
      case Fate::kWaits:
        Fail(call, other);
    }
  }
}

void RouterEngine::SweepLoop() {
  // Calls wait only where a lane has no free slot: until then there is nothing to look after, and a
  // call that finds a free slot wakes one thread, not two.
  const auto backlog = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    for (const Lane lane : {Lane::kFast, Lane::kReference}) {
      if (queue_.empty(lane)) continue;
      if (FreeWorker(lane) == nullptr) return true;
    }
    return stopping_;
  };
  while (true) {
    CallList dead;
    {
      absl::MutexLock lock(&mu_);
      mu_.Await(absl::Condition(&backlog));
      if (stopping_) return;
      mu_.AwaitWithTimeout(absl::Condition(&stopping_), options_.sweep_period);
      dead = queue_.Sweep(MonotonicNow());
      running_ += dead.size();
    }
    if (dead.empty()) continue;
    const size_t answered = dead.size();
    AnswerDead(std::move(dead), absl::OkStatus());
    absl::MutexLock lock(&mu_);
    running_ -= answered;
  }
}

void RouterEngine::OnWorkerState(Worker& worker, WorkerState state) {
  CallList stranded;
  {
    absl::MutexLock lock(&mu_);
    if (worker.state == state) return;
    if (state == WorkerState::kUp) {
      ++workers_up_;
      ++worker.times_up;
      if (std::exchange(worker.announced, false)) ++worker.drained;
    } else if (state == WorkerState::kDraining) {
      worker.announced = true;
    }
    if (worker.state == WorkerState::kUp) --workers_up_;
    worker.state = state;
    if (workers_up_ == 0) {
      stranded = queue_.Clear();
      running_ += stranded.size();
    }
    open_.store(!draining_ && workers_up_ > 0);
  }
  const LogLevel level = state == WorkerState::kUp ? LogLevel::kInfo : LogLevel::kWarn;
  Log(level, "worker state",
      {{"worker", worker.link->name()}, {"state", Name(state)}, {"device", worker.link->device()}});
  const size_t answered = stranded.size();
  if (answered == 0) return;
  AnswerDead(std::move(stranded),
             absl::UnavailableError("the last worker went away: repeat the call in a second"));
  absl::MutexLock lock(&mu_);
  running_ -= answered;
}

bool RouterEngine::ready() const { return open_.load() && !leaving_.load(); }

}  // namespace attnd
