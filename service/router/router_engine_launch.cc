// The engine's launches: from a free slot to the answers.
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/core/batch.h"
#include "service/guarded.h"
#include "service/router/router_engine_state.h"

namespace attnd {
namespace {

// The same view, which keeps `room` as well as its memory.
Tensor Counted(const Tensor& output, std::shared_ptr<const TakenBytes> room) {
  using Kept = std::pair<std::shared_ptr<const void>, std::shared_ptr<const TakenBytes>>;
  return Tensor(output.raw(), output.dtype(), output.shape(), output.strides(), output.device(),
                std::make_shared<const Kept>(output.owner(), std::move(room)));
}

}  // namespace

RouterEngine::Worker* RouterEngine::FreeWorker(Lane lane) {
  Worker* freest = nullptr;
  size_t most = 0;
  for (const auto& worker : workers_) {
    const size_t free = worker->free[static_cast<int>(lane)].size();
    if (worker->state != WorkerState::kUp || free <= most) continue;
    freest = worker.get();
    most = free;
  }
  return freest;
}

RouterEngine::LaunchPtr RouterEngine::Occupy(Worker& worker, Lane lane, CallList batch) {
  std::vector<int>& free = worker.free[static_cast<int>(lane)];
  const int slot = free.back();
  free.pop_back();
  ++worker.running;
  running_ += batch.size();
  return std::make_unique<Launch>(worker, lane, slot, std::move(batch));
}

RouterEngine::LaunchPtr RouterEngine::OccupyFree(CallList& one) {
  const Lane lane = one.front().lane;
  absl::MutexLock lock(&mu_);
  if (draining_ || !queue_.empty(lane)) return nullptr;
  Worker* const free = FreeWorker(lane);
  if (free == nullptr) return nullptr;
  CountFire(one);
  return Occupy(*free, lane, std::move(one));
}

void RouterEngine::RunLane(Worker& worker, Lane lane) {
  const auto work = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    return stopping_ || (worker.state == WorkerState::kUp && !queue_.empty(lane) &&
                         !worker.free[static_cast<int>(lane)].empty());
  };
  while (true) {
    CallList dead;
    LaunchPtr launch;
    {
      absl::MutexLock lock(&mu_);
      mu_.Await(absl::Condition(&work));
      if (stopping_) return;
      CallList batch = queue_.Take(lane, MonotonicNow(), dead);
      running_ += dead.size();
      if (!batch.empty()) {
        CountFire(batch);
        launch = Occupy(worker, lane, std::move(batch));
      }
    }
    if (!dead.empty()) {
      const size_t answered = dead.size();
      AnswerDead(std::move(dead), absl::OkStatus());
      absl::MutexLock lock(&mu_);
      running_ -= answered;
    }
    if (launch != nullptr) Run(std::move(launch));
  }
}

void RouterEngine::Run(LaunchPtr launch) {
  launch->start = MonotonicNow();
  for (const QueuedCall& call : launch->batch) {
    metrics_.queue_wait.Observe(absl::ToDoubleSeconds(launch->start - call.admitted));
  }
  if (launch->batch.front().compare != nullptr) return RunCompare(std::move(launch));
  if (launch->size == 1) return RunOneByOne(std::move(launch));
  RunTogether(std::move(launch));
}

void RouterEngine::RunTogether(LaunchPtr launch) {
  Launch& l = *launch;
  l.calls.reserve(l.size);
  l.life = std::make_shared<LaunchLife>();
  for (const QueuedCall& call : l.batch) {
    l.calls.push_back(&call.call);
    l.life->Add(call);
  }
  absl::StatusOr<BoundCall> packed = Guarded([&] { return Pack(l.calls); });
  if (!packed.ok()) return RunOneByOne(std::move(launch));
  l.packed = *std::move(packed);
  const QueuedCall& head = l.batch.front();
  l.worker.link->Execute(
      l.slot, *head.op, *l.packed, head.kernel, *l.life,
      [this, launch = std::move(launch)](absl::StatusOr<Evaluation> ran) mutable {
        if (ran.ok() || absl::IsUnavailable(ran.status()) || launch->life->over()) {
          Leave(*launch);
          AnswerTogether(*launch, std::move(ran));
          return Retire(std::move(launch));
        }
        // What went wrong may be another call's doing, its size for one: each is asked for itself.
        RunOneByOne(std::move(launch));
      });
}

void RouterEngine::AnswerTogether(Launch& launch, absl::StatusOr<Evaluation> ran) {
  const QueuedCall& head = launch.batch.front();
  OpState& state = StateOf(*head.op);
  const auto fail_all = [&](const absl::Status& status) {
    state.metrics->RecordLaunch("", head.call.dtype(), status.code(), launch.size,
                                absl::ZeroDuration());
    for (QueuedCall& call : launch.batch) {
      CountMissed(call);
      Fail(call, WhyNot(call, status));
    }
  };
  if (!ran.ok()) {
    if (launch.life->over()) metrics_.launches_ended_early.Increment();
    return fail_all(ran.status());
  }
  absl::StatusOr<std::vector<NamedTensors>> parts =
      Guarded([&] { return Unpack(launch.calls, ran->outputs); });
  if (!parts.ok()) return fail_all(parts.status());
  state.metrics->RecordLaunch(ran->kernel, head.call.dtype(), absl::StatusCode::kOk, launch.size,
                              ran->compute);
  state.Launched(launch.size, ran->compute);
  CountFallback(launch.worker, head, ran->kernel, launch.size);
  const auto size = static_cast<uint32_t>(launch.size);
  auto part = parts->begin();
  for (QueuedCall& call : launch.batch) {
    Succeed(call, state, Evaluation{std::move(*part), ran->kernel, ran->device, ran->compute}, size,
            launch.start);
    ++part;
  }
}

void RouterEngine::RunOneByOne(LaunchPtr launch) {
  Launch& l = *launch;
  const QueuedCall& call = *l.next;
  l.life = std::make_shared<LaunchLife>();
  l.life->Add(call);
  l.worker.link->Execute(
      l.slot, *call.op, call.call, call.kernel, *l.life,
      [this, launch = std::move(launch)](absl::StatusOr<Evaluation> ran) mutable {
        QueuedCall& done = *launch->next++;
        const bool last = launch->next == launch->batch.end();
        if (!ran.ok() && launch->life->over()) metrics_.launches_ended_early.Increment();
        if (last) Leave(*launch);
        AnswerAlone(launch->worker, done, launch->start, std::move(ran));
        if (last) return Retire(std::move(launch));
        RunOneByOne(std::move(launch));
      });
}

void RouterEngine::AnswerAlone(const Worker& worker, QueuedCall& call, absl::Time start,
                               absl::StatusOr<Evaluation> ran) {
  OpState& state = StateOf(*call.op);
  const DType dtype = call.call.dtype();
  if (!ran.ok()) {
    state.metrics->RecordLaunch("", dtype, ran.status().code(), 1, absl::ZeroDuration());
    CountMissed(call);
    return Fail(call, WhyNot(call, ran.status()));
  }
  CountFallback(worker, call, ran->kernel, 1);
  state.metrics->RecordLaunch(ran->kernel, dtype, absl::StatusCode::kOk, 1, ran->compute);
  state.Launched(1, ran->compute);
  Succeed(call, state, *std::move(ran), 1, start);
}

absl::Status RouterEngine::WhyNot(const QueuedCall& call, const absl::Status& status) {
  const absl::Time now = MonotonicNow();
  switch (FateOf(call, now)) {
    case Fate::kLate:
      return absl::DeadlineExceededError(
          absl::StrCat("the deadline passed while the call ran, after ", Since(call, now)));
    case Fate::kCancelled:
      return absl::CancelledError("cancelled while it ran");
    case Fate::kWaits:
      return status;
  }
  return status;
}

void RouterEngine::Succeed(QueuedCall& call, OpState& state, Evaluation evaluation,
                           uint32_t batch_size, absl::Time start) {
  const absl::Duration queued = start - call.admitted;
  state.queue_ns.fetch_add(Nanoseconds(queued), std::memory_order_relaxed);
  state.Answered(call, true);
  CountMissed(call);
  for (auto& [name, output] : evaluation.outputs) output = Counted(output, call.answer_room);
  call.answer_room = nullptr;  // Of the outputs from now on.
  std::move(call.done)(EngineResult{std::move(evaluation), batch_size, queued});
}

void RouterEngine::RunCompare(LaunchPtr launch) {
  QueuedCall& call = launch->batch.front();
  launch->life = std::make_shared<LaunchLife>();
  launch->life->Add(call);
  absl::StatusOr<NumericsReport> report = Guarded([&] {
    return launch->worker.link->Compare(launch->slot, *call.op, *call.compare, *launch->life);
  });
  if (!report.ok() && launch->life->over()) {
    metrics_.launches_ended_early.Increment();
    report = WhyNot(call, report.status());
  }
  Leave(*launch);
  if (report.ok()) StateOf(*call.op).metrics->RecordError(*report);
  CountMissed(call);
  std::move(call.compare_done)(std::move(report));
  Retire(std::move(launch));
}

void RouterEngine::Leave(Launch& launch) {
  // A slow average: good enough for a hint, and free of locks.
  const double took =
      absl::ToDoubleSeconds(MonotonicNow() - launch.start) / static_cast<double>(launch.size);
  std::atomic<double>& average = seconds_per_call_[static_cast<size_t>(launch.lane)];
  const double before = average.load(std::memory_order_relaxed);
  average.store(before == 0 ? took : before + 0.1 * (took - before), std::memory_order_relaxed);
  absl::MutexLock lock(&mu_);
  launch.worker.free[static_cast<int>(launch.lane)].push_back(launch.slot);
  --launch.worker.running;
}

void RouterEngine::Retire(LaunchPtr launch) {
  const size_t answered = launch->size;
  // Calls hold what their callers lent them: gone before Drain returns.
  launch.reset();
  absl::MutexLock lock(&mu_);
  running_ -= answered;
}

}  // namespace attnd
