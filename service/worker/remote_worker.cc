#include "service/worker/remote_worker.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "service/clock.h"
#include "service/guarded.h"
#include "service/log.h"
#include "service/version.h"
#include "service/wire.h"
#include "service/worker/frames.h"
#include "service/worker/worker_channel.h"

namespace attnd {
namespace {

bool FitsOneFrame(const BoundCall& call) {
  int64_t bytes = 0;
  for (const auto& [name, tensor] : call.inputs()) bytes += tensor.byte_size();
  for (const BoundCall::OutputSpec& output : call.outputs()) {
    const absl::StatusOr<int64_t> size = CheckedByteSize(output.dtype, output.shape);
    if (!size.ok() || __builtin_add_overflow(bytes, *size, &bytes)) return false;
  }
  return bytes <= kFrameBytes;
}

// Of a launch that nobody waits for: never begun, or ended early.
absl::Status NobodyWaits() { return absl::CancelledError("ended early: nobody waits for it"); }

// How long somebody waits, as LaunchCall has it.
uint64_t TimeoutOf(const LaunchLife& life) {
  const absl::Time deadline = life.deadline();
  if (deadline == absl::InfiniteFuture()) return 0;
  return static_cast<uint64_t>(
      std::max<int64_t>(1, absl::ToInt64Nanoseconds(deadline - MonotonicNow())));
}

Evaluation ToEvaluation(const v1::LaunchResult& result, NamedTensors outputs) {
  return {std::move(outputs), result.kernel(), result.device(),
          absl::Nanoseconds(static_cast<int64_t>(result.compute_ns()))};
}

}  // namespace

class RemoteWorker::Running {
 public:
  explicit Running(RemoteWorker& worker) : worker_(worker) {
    absl::MutexLock lock(&worker_.mu_);
    ++worker_.contexts_;
    worker_.running_.insert(context_.get());
    if (worker_.stopping_) context_->TryCancel();
  }
  ~Running() {
    {
      absl::MutexLock lock(&worker_.mu_);
      worker_.running_.erase(context_.get());
    }
    // It holds the channel, whose end must not come on a thread of gRPC's: it goes before the
    // worker's end is free to.
    context_.reset();
    absl::MutexLock lock(&worker_.mu_);
    --worker_.contexts_;
  }

  grpc::ClientContext& context() { return *context_; }

 private:
  RemoteWorker& worker_;
  std::unique_ptr<grpc::ClientContext> context_ = std::make_unique<grpc::ClientContext>();
};

// The worker's state as it tells it, until the stream ends.
class RemoteWorker::AttachReactor final : public grpc::ClientReadReactor<v1::WorkerStatus> {
 public:
  AttachReactor(RemoteWorker& worker, const StateObserver& observer)
      : worker_(worker), observer_(observer), running_(worker) {
    running_.context().set_wait_for_ready(true);
    worker.stub_->async()->Attach(&running_.context(), &request_, this);
    StartRead(&status_);
    StartCall();
  }

  grpc::StatusCode Await() {
    ended_.WaitForNotification();
    return code_;
  }
  // Whether it told its state, before the end.
  bool attached() const { return attached_; }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    attached_ = true;
    observer_(worker_.Learn(status_));
    StartRead(&status_);
  }
  void OnDone(const grpc::Status& status) override {
    code_ = status.error_code();
    ended_.Notify();
  }

 private:
  RemoteWorker& worker_;
  const StateObserver& observer_;
  Running running_;
  const v1::AttachRequest request_;
  v1::WorkerStatus status_;
  grpc::StatusCode code_ = grpc::StatusCode::OK;
  bool attached_ = false;
  absl::Notification ended_;
};

RemoteWorker::RemoteWorker(const RemoteWorkerOptions& options)
    : options_(options),
      stub_(v1::Worker::NewStub(
          MakeWorkerChannel(options.target, options.min_backoff, options.max_backoff))),
      launch_streams_(RemoteWorker::slots().size()) {}

RemoteWorker::~RemoteWorker() {
  Stop();
  launch_streams_.clear();
  const auto none = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return contexts_ == 0; };
  absl::MutexLock lock(&mu_);
  mu_.Await(absl::Condition(&none));
}

std::string RemoteWorker::device() const {
  absl::MutexLock lock(&mu_);
  return device_;
}

KernelTable RemoteWorker::kernels() const {
  absl::MutexLock lock(&mu_);
  return kernels_;
}

std::vector<Lane> RemoteWorker::slots() const {
  std::vector<Lane> lanes(options_.streams, Lane::kFast);
  lanes.push_back(Lane::kReference);
  return lanes;
}

void RemoteWorker::Start(StateObserver observer) {
  watcher_ = std::thread([this, observer = std::move(observer)] { Watch(observer); });
}

void RemoteWorker::Stop() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
    for (grpc::ClientContext* context : running_) context->TryCancel();
  }
  if (watcher_.joinable()) watcher_.join();
}

void RemoteWorker::Watch(const StateObserver& observer) {
  observer(WorkerState::kDown);
  absl::Duration wait = options_.min_backoff;
  while (true) {
    {
      AttachReactor reactor(*this, observer);
      const grpc::StatusCode end = reactor.Await();
      observer(WorkerState::kDown);
      if (end == grpc::StatusCode::UNIMPLEMENTED && IsNews("no worker")) {
        Log(LogLevel::kError, "not an attnd worker", {{"worker", options_.target}});
      }
      // Where nobody listens gRPC itself waits; this is for what answers and is no worker.
      if (reactor.attached()) wait = options_.min_backoff;
    }
    absl::MutexLock lock(&mu_);
    if (mu_.AwaitWithTimeout(absl::Condition(&stopping_), wait)) return;
    wait = std::min(2 * wait, options_.max_attach_backoff);
  }
}

bool RemoteWorker::IsNews(const std::string& fault) {
  absl::MutexLock lock(&mu_);
  return std::exchange(fault_, fault) != fault;
}

WorkerState RemoteWorker::Learn(const v1::WorkerStatus& status) {
  if (status.version() != kVersion) {
    if (IsNews(status.version())) {
      Log(LogLevel::kError, "worker of another build",
          {{"worker", options_.target}, {"version", status.version()}, {"expected", kVersion}});
    }
    return WorkerState::kDown;
  }
  IsNews("");
  KernelTable table;
  for (const v1::OperatorKernels& op : status.operators()) {
    std::vector<Engine::KernelName> names;
    for (const v1::KernelDescription& kernel : op.kernels()) {
      names.push_back({kernel.name(), kernel.device()});
    }
    table.emplace_back(op.op(), std::move(names));
  }
  absl::MutexLock lock(&mu_);
  device_ = status.device();
  kernels_ = std::move(table);
  return status.draining() ? WorkerState::kDraining : WorkerState::kUp;
}

absl::StatusOr<RemoteWorker::Answer> RemoteWorker::Exchange(v1::ExecuteFrame first,
                                                            const NamedTensors& tensors,
                                                            LaunchLife& life) {
  if (life.over()) return NobodyWaits();
  first.mutable_call()->set_timeout_ns(TimeoutOf(life));
  absl::StatusOr<FrameWriter> writer = FrameWriter::Create(std::move(first), tensors);
  if (!writer.ok()) return writer.status();
  const auto running = std::make_shared<Running>(*this);
  const auto stream = stub_->Execute(&running->context());
  life.WhenOver([weak = std::weak_ptr<Running>(running)] {
    if (const std::shared_ptr<Running> still = weak.lock()) still->context().TryCancel();
  });
  v1::ExecuteFrame frame;
  // A write that fails means that the status is there to be read.
  for (bool ok = true; ok && !writer->done();) {
    writer->Next(&frame);
    ok = writer->done() ? (stream->WriteLast(frame, grpc::WriteOptions()), true)
                        : stream->Write(frame);
  }
  Answer answer;
  FrameReader reader;
  absl::Status broken;
  bool announced = false;
  while (stream->Read(&frame)) {
    if (!std::exchange(announced, true)) {
      broken = reader.Announce(frame.result().tensors(), options_.max_result_bytes);
    }
    if (broken.ok()) broken = reader.Append(frame);
    if (!broken.ok()) {
      running->context().TryCancel();
      break;
    }
    if (frame.has_result() || frame.has_report()) {
      frame.clear_data();
      answer.header.Swap(&frame);
    }
  }
  const grpc::Status status = stream->Finish();
  if (!broken.ok()) {
    return absl::InternalError(
        absl::StrCat("answer of worker ", options_.target, ": ", broken.message()));
  }
  if (!status.ok()) return Failure(status, life);
  absl::StatusOr<NamedTensors> outputs = reader.Finish();
  if (!outputs.ok()) return absl::InternalError(outputs.status().message());
  answer.tensors = *std::move(outputs);
  return answer;
}

absl::Status RemoteWorker::Failure(const grpc::Status& status, const LaunchLife& life) const {
  if (life.over()) return NobodyWaits();
  const bool lost = status.error_code() == grpc::StatusCode::UNAVAILABLE ||
                    status.error_code() == grpc::StatusCode::CANCELLED;
  if (!lost) return FromWire(status);
  return absl::UnavailableError(absl::StrCat(
      "worker ", options_.target, " was lost, repeat the call: ", status.error_message()));
}

const std::shared_ptr<LaunchStream>& RemoteWorker::StreamOf(int slot) {
  std::shared_ptr<LaunchStream>& stream = launch_streams_[slot];
  if (stream == nullptr || stream->ended()) {
    auto running = std::make_shared<Running>(*this);
    grpc::ClientContext* const context = &running->context();
    stream = LaunchStream::Open(*stub_,
                                std::shared_ptr<grpc::ClientContext>(std::move(running), context));
  }
  return stream;
}

void RemoteWorker::ExchangeSmall(const std::shared_ptr<LaunchStream>& stream, LaunchLife& life,
                                 Executed done) {
  // The launch may have its answer, and its life be gone, before Send returns.
  const std::shared_ptr<LaunchLife> kept = life.shared_from_this();
  const uint64_t number = stream->Send([this, &life, done = std::move(done)](
                                           const grpc::Status& status,
                                           const v1::ExecuteFrame& answer) mutable {
    done(Guarded([&]() -> absl::StatusOr<Evaluation> {
      if (!status.ok()) return Failure(status, life);
      if (answer.has_error() && answer.error().code() != 0) {
        return Failure(
            {static_cast<grpc::StatusCode>(answer.error().code()), answer.error().message()}, life);
      }
      absl::StatusOr<NamedTensors> outputs = absl::InvalidArgumentError("frame: expected a result");
      if (answer.has_result()) {
        outputs = ReadOne(answer, answer.result().tensors(), options_.max_result_bytes);
      }
      if (!outputs.ok()) {
        return absl::InternalError(
            absl::StrCat("answer of worker ", options_.target, ": ", outputs.status().message()));
      }
      return ToEvaluation(answer.result(), *std::move(outputs));
    }));
  });
  kept->WhenOver([weak = std::weak_ptr<LaunchStream>(stream), number] {
    if (const std::shared_ptr<LaunchStream> still = weak.lock()) still->Cancel(number);
  });
}

void RemoteWorker::Execute(int slot, const Operator& op, const BoundCall& call,
                           const std::string& kernel, LaunchLife& life, Executed done) {
  if (life.over()) return done(NobodyWaits());
  const auto fill = [&](v1::ExecuteFrame* frame) {
    v1::LaunchCall* header = frame->mutable_call();
    header->set_op(op.spec.id());
    header->set_kernel(kernel);
    AnnounceTensors(call.inputs(), header->mutable_tensors());
    for (const auto& [name, value] : call.attributes()) {
      ToWire(value, &(*header->mutable_attributes())[name]);
    }
  };
  if (FitsOneFrame(call)) {
    // A copy: the slot may have another by the time that this one is told.
    const std::shared_ptr<LaunchStream> stream = StreamOf(slot);
    const absl::Status filled = Guarded([&] {
      v1::ExecuteFrame& request = stream->request();
      request.Clear();
      fill(&request);
      request.mutable_call()->set_timeout_ns(TimeoutOf(life));
      return WriteOne(call.inputs(), &request);
    });
    if (!filled.ok()) return done(filled);
    return ExchangeSmall(stream, life, std::move(done));
  }
  done(Guarded([&]() -> absl::StatusOr<Evaluation> {
    v1::ExecuteFrame first;
    fill(&first);
    absl::StatusOr<Answer> answer = Exchange(std::move(first), call.inputs(), life);
    if (!answer.ok()) return answer.status();
    return ToEvaluation(answer->header.result(), std::move(answer->tensors));
  }));
}

absl::StatusOr<NumericsReport> RemoteWorker::Compare(int slot, const Operator& op,
                                                     const CompareJob& job, LaunchLife& life) {
  v1::ExecuteFrame first;
  v1::LaunchCall* header = first.mutable_call();
  header->set_op(op.spec.id());
  header->set_kernel(job.request.kernel);
  header->set_compare(true);
  if (job.random) ToWire(job.draw, header->mutable_random());
  AnnounceTensors(job.request.inputs, header->mutable_tensors());
  for (const auto& [name, value] : job.request.attributes) {
    ToWire(value, &(*header->mutable_attributes())[name]);
  }
  absl::StatusOr<Answer> answer = Exchange(std::move(first), job.request.inputs, life);
  if (!answer.ok()) return answer.status();
  return FromWire(answer->header.report());
}

}  // namespace attnd
