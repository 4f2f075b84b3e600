#include "service/worker/remote_worker.h"

#include <grpcpp/create_channel.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "service/guarded.h"
#include "service/log.h"
#include "service/version.h"
#include "service/wire.h"
#include "service/worker/frames.h"

namespace attnd {
namespace {

std::shared_ptr<grpc::Channel> MakeChannel(const RemoteWorkerOptions& options) {
  const auto milliseconds = [](absl::Duration d) {
    return static_cast<int>(absl::ToInt64Milliseconds(d));
  };
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, milliseconds(options.min_backoff));
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, milliseconds(options.min_backoff));
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, milliseconds(options.max_backoff));
  // A machine that vanishes closes no connection: pings find out.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 5000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 3000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  return grpc::CreateCustomChannel(options.target, grpc::InsecureChannelCredentials(), arguments);
}

bool FitsOneFrame(const BoundCall& call) {
  int64_t bytes = 0;
  for (const auto& [name, tensor] : call.inputs()) bytes += tensor.byte_size();
  for (const BoundCall::OutputSpec& output : call.outputs()) {
    const absl::StatusOr<int64_t> size = CheckedByteSize(output.dtype, output.shape);
    if (!size.ok() || __builtin_add_overflow(bytes, *size, &bytes)) return false;
  }
  return bytes <= kFrameBytes;
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
    worker_.running_.insert(&context);
    if (worker_.stopping_) context.TryCancel();
  }
  ~Running() {
    absl::MutexLock lock(&worker_.mu_);
    worker_.running_.erase(&context);
  }

  grpc::ClientContext context;

 private:
  RemoteWorker& worker_;
};

RemoteWorker::RemoteWorker(const RemoteWorkerOptions& options)
    : options_(options), stub_(v1::Worker::NewStub(MakeChannel(options))) {}

RemoteWorker::~RemoteWorker() { Stop(); }

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
  while (true) {
    {
      Running attach(*this);
      attach.context.set_wait_for_ready(true);
      const auto stream = stub_->Attach(&attach.context, v1::AttachRequest());
      v1::WorkerStatus status;
      while (stream->Read(&status)) observer(Learn(status));
      const grpc::Status end = stream->Finish();
      observer(WorkerState::kDown);
      if (end.error_code() == grpc::StatusCode::UNIMPLEMENTED) {
        Log(LogLevel::kError, "not an attnd worker", {{"worker", options_.target}});
      }
    }
    absl::MutexLock lock(&mu_);
    if (mu_.AwaitWithTimeout(absl::Condition(&stopping_), options_.min_backoff)) return;
  }
}

WorkerState RemoteWorker::Learn(const v1::WorkerStatus& status) {
  if (status.version() != kVersion) {
    Log(LogLevel::kError, "worker of another build",
        {{"worker", options_.target}, {"version", status.version()}, {"expected", kVersion}});
    return WorkerState::kDown;
  }
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
                                                            const NamedTensors& tensors) {
  absl::StatusOr<FrameWriter> writer = FrameWriter::Create(std::move(first), tensors);
  if (!writer.ok()) return writer.status();
  Running running(*this);
  const auto stream = stub_->Execute(&running.context);
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
      running.context.TryCancel();
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
  if (!status.ok()) return Failure(status);
  absl::StatusOr<NamedTensors> outputs = reader.Finish();
  if (!outputs.ok()) return absl::InternalError(outputs.status().message());
  answer.tensors = *std::move(outputs);
  return answer;
}

absl::Status RemoteWorker::Failure(const grpc::Status& status) const {
  const bool lost = status.error_code() == grpc::StatusCode::UNAVAILABLE ||
                    status.error_code() == grpc::StatusCode::CANCELLED;
  if (!lost) return FromWire(status);
  return absl::UnavailableError(absl::StrCat(
      "worker ", options_.target, " was lost, repeat the call: ", status.error_message()));
}

void RemoteWorker::ExchangeOne(v1::ExecuteFrame first, const NamedTensors& tensors, Executed done) {
  struct Call {
    explicit Call(RemoteWorker& worker) : running(worker) {}
    Running running;
    v1::ExecuteFrame request, response;
    Executed done;
  };
  absl::StatusOr<FrameWriter> writer = FrameWriter::Create(std::move(first), tensors);
  if (!writer.ok()) return done(writer.status());
  auto call = std::make_unique<Call>(*this);
  writer->Next(&call->request);
  call->done = std::move(done);
  Call& c = *call;
  stub_->async()->ExecuteOne(
      &c.running.context, &c.request, &c.response,
      [this, call = call.release()](const grpc::Status& status) {
        absl::StatusOr<Evaluation> result = Guarded([&]() -> absl::StatusOr<Evaluation> {
          if (!status.ok()) return Failure(status);
          absl::StatusOr<NamedTensors> outputs =
              ReadOne(call->response, call->response.result().tensors(), options_.max_result_bytes);
          if (!outputs.ok()) {
            return absl::InternalError(absl::StrCat("answer of worker ", options_.target, ": ",
                                                    outputs.status().message()));
          }
          return ToEvaluation(call->response.result(), *std::move(outputs));
        });
        // The context holds the channel, whose end must not come on a thread of gRPC's: it goes
        // before whoever waits for the answer can take the worker down.
        Executed answer = std::move(call->done);
        delete call;
        std::move(answer)(std::move(result));
      });
}

void RemoteWorker::Execute(int slot, const Operator& op, const BoundCall& call,
                           const std::string& kernel, Executed done) {
  v1::ExecuteFrame first;
  v1::LaunchCall* header = first.mutable_call();
  header->set_op(op.spec.id());
  header->set_kernel(kernel);
  AnnounceTensors(call.inputs(), header->mutable_tensors());
  for (const auto& [name, value] : call.attributes()) {
    ToWire(value, &(*header->mutable_attributes())[name]);
  }
  if (FitsOneFrame(call)) return ExchangeOne(std::move(first), call.inputs(), std::move(done));
  done(Guarded([&]() -> absl::StatusOr<Evaluation> {
    absl::StatusOr<Answer> answer = Exchange(std::move(first), call.inputs());
    if (!answer.ok()) return answer.status();
    return ToEvaluation(answer->header.result(), std::move(answer->tensors));
  }));
}

absl::StatusOr<NumericsReport> RemoteWorker::Compare(int slot, const Operator& op,
                                                     const CompareJob& job) {
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
  absl::StatusOr<Answer> answer = Exchange(std::move(first), job.request.inputs);
  if (!answer.ok()) return answer.status();
  return FromWire(answer->header.report());
}

}  // namespace attnd
