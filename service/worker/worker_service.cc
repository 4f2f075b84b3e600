#include "service/worker/worker_service.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/guarded.h"
#include "service/rpc/codec.h"
#include "service/rpc/grpc_status.h"
#include "service/version.h"
#include "service/wire.h"
#include "service/worker/frames.h"

namespace attnd {
namespace {

absl::StatusOr<EngineCall> MakeCall(const v1::LaunchCall& header,
                                    absl::StatusOr<NamedTensors> tensors,
                                    std::shared_ptr<CancelToken> cancel) {
  if (!tensors.ok()) return tensors.status();
  EngineCall call;
  call.request.op = header.op();
  call.request.inputs = *std::move(tensors);
  call.request.kernel = header.kernel();
  for (const auto& [name, value] : header.attributes()) {
    std::optional<AttrValue> attribute = FromWire(value);
    if (!attribute.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat("frame: attribute ", name, ": no value"));
    }
    call.request.attributes.Set(name, *std::move(attribute));
  }
  call.priority = header.priority();
  call.cancel = std::move(cancel);
  if (header.timeout_ns() > 0) {
    call.deadline = absl::Now() + absl::Nanoseconds(static_cast<int64_t>(std::min<uint64_t>(
                                      header.timeout_ns(), std::numeric_limits<int64_t>::max())));
  }
  return call;
}

v1::ExecuteFrame ResultHeader(const Evaluation& evaluation) {
  v1::ExecuteFrame frame;
  v1::LaunchResult* header = frame.mutable_result();
  AnnounceTensors(evaluation.outputs, header->mutable_tensors());
  header->set_kernel(evaluation.kernel);
  header->set_device(evaluation.device);
  header->set_compute_ns(absl::ToInt64Nanoseconds(evaluation.compute));
  return frame;
}

absl::Status FillOne(const Evaluation& evaluation, v1::ExecuteFrame* frame) {
  *frame = ResultHeader(evaluation);
  return WriteOne(evaluation.outputs, frame);
}

}  // namespace

// One router that listens to this worker's state. Owns itself until the stream ends.
class WorkerService::AttachReactor final : public grpc::ServerWriteReactor<v1::WorkerStatus> {
 public:
  explicit AttachReactor(WorkerService& service) : service_(service) {}

  void Keep(std::shared_ptr<AttachReactor> self) { self_ = std::move(self); }

  void Push(v1::WorkerStatus status) {
    absl::MutexLock lock(&mu_);
    if (finished_) return;
    next_ = std::move(status);
    if (!writing_) WriteNext();
  }

  void End() {
    absl::MutexLock lock(&mu_);
    if (!std::exchange(finished_, true)) Finish(grpc::Status::OK);
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mu_);
    writing_ = false;
    if (finished_) return;
    if (!ok) {
      finished_ = true;
      Finish(grpc::Status::OK);
    } else if (next_.has_value()) {
      WriteNext();
    }
  }

  void OnCancel() override { End(); }

  void OnDone() override {
    service_.Forget(this);
    self_.reset();
  }

 private:
  void WriteNext() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    current_ = *std::exchange(next_, std::nullopt);
    writing_ = true;
    StartWrite(&current_);
  }

  WorkerService& service_;
  std::shared_ptr<AttachReactor> self_;
  absl::Mutex mu_;
  std::optional<v1::WorkerStatus> next_ ABSL_GUARDED_BY(mu_);
  v1::WorkerStatus current_;  // Being written.
  bool writing_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
};

// One launch: reads frames, asks the engine, writes frames. Owns itself until the stream ends,
// which is not before the engine has answered.
class WorkerService::ExecuteReactor final
    : public grpc::ServerBidiReactor<v1::ExecuteFrame, v1::ExecuteFrame> {
 public:
  ExecuteReactor(Engine& engine, int64_t max_bytes) : engine_(engine), max_bytes_(max_bytes) {}

  void Begin(std::shared_ptr<ExecuteReactor> self) {
    self_ = std::move(self);
    StartRead(&in_);
  }

  void OnReadDone(bool ok) override {
    if (!ok) return Launch();
    if (absl::Status s = Take(); !s.ok()) return Finish(ToGrpcStatus(s));
    StartRead(&in_);
  }

  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the router went away"));
    WriteNext();
  }

  void OnCancel() override { cancel_->Cancel(); }
  void OnDone() override { self_.reset(); }

 private:
  absl::Status Take() {
    if (in_.has_call() == header_.has_value()) {
      return absl::InvalidArgumentError("frame: expected one header, first");
    }
    if (in_.has_call()) {
      header_ = std::move(*in_.mutable_call());
      if (absl::Status s = reader_.Announce(header_->tensors(), max_bytes_); !s.ok()) return s;
    }
    return reader_.Append(in_);
  }

  void Launch() {
    if (!header_.has_value()) {
      return Finish(ToGrpcStatus(absl::InvalidArgumentError("frame: no header came")));
    }
    absl::StatusOr<EngineCall> call = MakeCall(*header_, reader_.Finish(), cancel_);
    if (!call.ok()) return Finish(ToGrpcStatus(call.status()));
    if (!header_->compare()) {
      engine_.Evaluate(*std::move(call),
                       [this](absl::StatusOr<EngineResult> result) { Answer(std::move(result)); });
      return;
    }
    absl::StatusOr<RandomCompare> random = FromWire(header_->random());
    if (!random.ok()) return Finish(ToGrpcStatus(random.status()));
    engine_.Compare(*std::move(call), header_->has_random() ? &*random : nullptr,
                    [this](absl::StatusOr<NumericsReport> report) { Answer(std::move(report)); });
  }

  void Answer(absl::StatusOr<EngineResult> result) {
    if (!result.ok()) return Finish(ToGrpcStatus(result.status()));
    Write(ResultHeader(result->evaluation), result->evaluation.outputs);
  }

  void Answer(absl::StatusOr<NumericsReport> report) {
    if (!report.ok()) return Finish(ToGrpcStatus(report.status()));
    v1::ExecuteFrame first;
    *first.mutable_report() = ToWire(*report);
    Write(std::move(first), {});
  }

  void Write(v1::ExecuteFrame first, const NamedTensors& tensors) {
    absl::StatusOr<FrameWriter> writer = FrameWriter::Create(std::move(first), tensors);
    if (!writer.ok()) return Finish(ToGrpcStatus(writer.status()));
    writer_ = *std::move(writer);
    WriteNext();
  }

  void WriteNext() {
    writer_->Next(&out_);
    if (writer_->done()) {
      StartWriteAndFinish(&out_, grpc::WriteOptions(), grpc::Status::OK);
    } else {
      StartWrite(&out_);
    }
  }

  Engine& engine_;
  const int64_t max_bytes_;
  std::shared_ptr<ExecuteReactor> self_;
  const std::shared_ptr<CancelToken> cancel_ = std::make_shared<CancelToken>();
  std::optional<v1::LaunchCall> header_;
  FrameReader reader_;
  std::optional<FrameWriter> writer_;
  v1::ExecuteFrame in_;
  v1::ExecuteFrame out_;
};

// The small launches of a router's slot, one at a time: a read, the engine, a write, and again. A
// read is under way meanwhile, too: it brings the news that nobody waits for the launch, or the
// next one, which may overtake the end of the last one's write. Owns itself until the stream ends,
// which is not before the engine has answered.
class WorkerService::SmallReactor final
    : public grpc::ServerBidiReactor<v1::ExecuteFrame, v1::ExecuteFrame> {
 public:
  explicit SmallReactor(WorkerService& service) : service_(service) {}

  void Begin(std::shared_ptr<SmallReactor> self) {
    self_ = std::move(self);
    StartRead(&in_);
  }

  // Between two launches at once, else after the answer.
  void End() {
    absl::MutexLock lock(&mu_);
    ending_ = true;
    if (!launching_) FinishOnce();
  }

  void OnReadDone(bool ok) override {
    std::shared_ptr<CancelToken> cancelled;
    bool launch = false;
    {
      absl::MutexLock lock(&mu_);
      // What comes after the end is the router's to repeat elsewhere.
      if (!ok || ending_) {
        ending_ = true;
        if (!launching_) FinishOnce();
        return;
      }
      if (in_.has_cancel()) {
        if (launching_ && in_.cancel().number() == launch_.call().number()) cancelled = cancel_;
      } else if (launching_) {
        waiting_ = true;
        return;
      } else {
        TakeLaunch();
        launch = true;
      }
    }
    if (cancelled != nullptr) cancelled->Cancel();
    if (launch) Launch();
    ReadOn();
  }

  void OnWriteDone(bool ok) override {
    if (service_.spare_threads_ != nullptr) service_.spare_threads_->End();
    {
      absl::MutexLock lock(&mu_);
      launching_ = false;
      if (!ok || ending_) return FinishOnce();
      if (!std::exchange(waiting_, false)) return;
      TakeLaunch();
    }
    Launch();
    ReadOn();
  }

  void OnCancel() override {
    std::shared_ptr<CancelToken> cancel;
    {
      absl::MutexLock lock(&mu_);
      ending_ = true;
      cancel = cancel_;
      if (!launching_) FinishOnce();
    }
    cancel->Cancel();
  }
  void OnDone() override {
    service_.Forget(this);
    const std::shared_ptr<SmallReactor> last = std::move(self_);
  }

 private:
  void TakeLaunch() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    launching_ = true;
    launch_.Swap(&in_);
    cancel_ = std::make_shared<CancelToken>();
  }

  void Launch() {
    if (SpareThreads* spare = service_.spare_threads_; spare != nullptr) {
      spare->Begin();
      if (launch_.ByteSizeLong() >= SpareThreads::kLargeBytes) spare->Busy();
    }
    std::shared_ptr<CancelToken> cancel;
    {
      absl::MutexLock lock(&mu_);
      cancel = cancel_;
    }
    absl::StatusOr<EngineCall> call = Guarded([&] {
      const v1::LaunchCall& header = launch_.call();
      return MakeCall(header, ReadOne(launch_, header.tensors(), service_.max_launch_bytes_),
                      std::move(cancel));
    });
    if (!call.ok()) return Answer(call.status());
    service_.engine_.Evaluate(*std::move(call), [this](absl::StatusOr<EngineResult> result) {
      Answer(std::move(result));
    });
  }

  // After a launch that ran here it is answered by now, and the answer on its way.
  void ReadOn() {
    absl::MutexLock lock(&mu_);
    if (!finished_) StartRead(&in_);
  }

  void Answer(absl::StatusOr<EngineResult> result) {
    absl::Status status = result.status();
    if (status.ok()) status = Guarded([&] { return FillOne(result->evaluation, &out_); });
    if (!status.ok()) {
      out_.Clear();
      *out_.mutable_error() = EncodeError("", status);
    }
    StartWrite(&out_);
  }

  void FinishOnce() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
    if (!std::exchange(finished_, true)) Finish(grpc::Status::OK);
  }

  WorkerService& service_;
  std::shared_ptr<SmallReactor> self_;
  v1::ExecuteFrame in_;      // Being read, or a launch that waits for the end of the last.
  v1::ExecuteFrame launch_;  // Under way.
  v1::ExecuteFrame out_;
  absl::Mutex mu_;
  std::shared_ptr<CancelToken> cancel_ ABSL_GUARDED_BY(mu_) = std::make_shared<CancelToken>();
  bool launching_ ABSL_GUARDED_BY(mu_) = false;
  bool waiting_ ABSL_GUARDED_BY(mu_) = false;  // in_ holds a launch.
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
  bool finished_ ABSL_GUARDED_BY(mu_) = false;
};

WorkerService::WorkerService(Engine& engine, std::string device, int64_t max_launch_bytes,
                             SpareThreads* spare_threads)
    : engine_(engine),
      device_(std::move(device)),
      max_launch_bytes_(max_launch_bytes),
      spare_threads_(spare_threads) {}

WorkerService::~WorkerService() = default;

v1::WorkerStatus WorkerService::Status(bool draining) const {
  v1::WorkerStatus status;
  status.set_version(std::string(kVersion));
  status.set_device(device_);
  status.set_draining(draining);
  for (const Operator* op : engine_.registry().operators()) {
    v1::OperatorKernels* kernels = status.add_operators();
    kernels->set_op(op->spec.id());
    for (const Engine::KernelName& kernel : engine_.KernelsOf(op->spec.id())) {
      v1::KernelDescription* description = kernels->add_kernels();
      description->set_name(kernel.name);
      description->set_device(kernel.device);
    }
  }
  return status;
}

void WorkerService::SetDraining() {
  absl::MutexLock lock(&mu_);
  draining_ = true;
  for (AttachReactor* reactor : attached_) reactor->Push(Status(true));
}

void WorkerService::Detach() {
  absl::MutexLock lock(&mu_);
  detached_ = true;
  for (AttachReactor* reactor : attached_) reactor->End();
  for (SmallReactor* reactor : launching_) reactor->End();
}

void WorkerService::Forget(AttachReactor* reactor) {
  absl::MutexLock lock(&mu_);
  attached_.erase(reactor);
}

void WorkerService::Forget(SmallReactor* reactor) {
  absl::MutexLock lock(&mu_);
  launching_.erase(reactor);
}

grpc::ServerWriteReactor<v1::WorkerStatus>* WorkerService::Attach(
    grpc::CallbackServerContext* context, const v1::AttachRequest* request) {
  auto reactor = std::make_shared<AttachReactor>(*this);
  AttachReactor* const raw = reactor.get();
  raw->Keep(std::move(reactor));
  absl::MutexLock lock(&mu_);
  attached_.insert(raw);
  raw->Push(Status(draining_));
  return raw;
}

grpc::ServerBidiReactor<v1::ExecuteFrame, v1::ExecuteFrame>* WorkerService::Execute(
    grpc::CallbackServerContext* context) {
  auto reactor = std::make_shared<ExecuteReactor>(engine_, max_launch_bytes_);
  ExecuteReactor* const raw = reactor.get();
  raw->Begin(std::move(reactor));
  return raw;
}

grpc::ServerBidiReactor<v1::ExecuteFrame, v1::ExecuteFrame>* WorkerService::ExecuteSmall(
    grpc::CallbackServerContext* context) {
  auto reactor = std::make_shared<SmallReactor>(*this);
  SmallReactor* const raw = reactor.get();
  raw->Begin(std::move(reactor));
  absl::MutexLock lock(&mu_);
  launching_.insert(raw);
  if (detached_) raw->End();
  return raw;
}

}  // namespace attnd
