// Calls that are passed on to a worker: unary ones, and streams in which a message is read from one
// side only when the other has taken the one before, so that a slow reader holds up its own stream
// alone. Whoever asked and leaves, or is late, ends the worker's call.
#ifndef ATTND_SERVICE_ROUTER_PROXY_CALL_H_
#define ATTND_SERVICE_ROUTER_PROXY_CALL_H_

#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>
#include <grpcpp/support/server_callback.h>

#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "service/router/session_workers.h"
#include "service/rpc/grpc_status.h"

namespace attnd {

// The client's side of a call that is passed on: its context, which may have to end before it
// begins.
class PassedCall {
 public:
  explicit PassedCall(const grpc::CallbackServerContext& from)
      : context_(grpc::ClientContext::FromCallbackServerContext(from)) {}

  grpc::ClientContext* context() { return context_.get(); }
  // For another attempt.
  void Renew(const grpc::CallbackServerContext& from) ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    context_ = grpc::ClientContext::FromCallbackServerContext(from);
    if (cancelled_) context_->TryCancel();
  }
  void Cancel() ABSL_LOCKS_EXCLUDED(mu_) {
    absl::MutexLock lock(&mu_);
    cancelled_ = true;
    context_->TryCancel();
  }

 private:
  absl::Mutex mu_;
  bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
  std::unique_ptr<grpc::ClientContext> context_;
};

// Answers a stream of messages with a worker's. Owns itself.
template <typename Request, typename Message>
class StreamProxy final : public grpc::ServerWriteReactor<Message> {
 public:
  using Reader = grpc::ClientReadReactor<Message>;
  // Begins the call at a worker.
  using Begin =
      absl::AnyInvocable<void(SessionWorker&, grpc::ClientContext*, const Request*, Reader*)>;
  // Finds a worker for each attempt; an error ends the stream. Told how the last one ended.
  using Next = absl::AnyInvocable<void(const grpc::Status& last, SessionWorkers::Found)>;

  static StreamProxy* Start(const grpc::CallbackServerContext* context, const Request& request,
                            Next next, Begin begin) {
    auto proxy = std::make_shared<StreamProxy>(context, request, std::move(next), std::move(begin));
    proxy->self_ = proxy;
    proxy->Attempt(grpc::Status::OK);
    return proxy.get();
  }

  StreamProxy(const grpc::CallbackServerContext* context, const Request& request, Next next,
              Begin begin)
      : context_(*context),
        request_(request),
        next_(std::move(next)),
        begin_(std::move(begin)),
        call_(*context),
        reader_(*this) {}

  void OnWriteDone(bool ok) override {
    if (!ok) call_.Cancel();
    reader_.ReadNext();
  }
  void OnCancel() override { call_.Cancel(); }
  void OnDone() override { const std::shared_ptr<StreamProxy> last = std::move(self_); }

 private:
  class ReadSide final : public Reader {
   public:
    explicit ReadSide(StreamProxy& proxy) : proxy_(proxy) {}
    void Begin() {
      this->AddHold();  // Reads begin where the other side has written.
      ReadNext();
      this->StartCall();
    }
    void ReadNext() { this->StartRead(&proxy_.message_); }
    void OnReadDone(bool ok) override {
      if (!ok) return this->RemoveHold();
      proxy_.begun_ = true;
      proxy_.StartWrite(&proxy_.message_);
    }
    void OnDone(const grpc::Status& status) override { proxy_.Ended(status); }

   private:
    StreamProxy& proxy_;
  };

  void Attempt(const grpc::Status& last) {
    next_(last, [this](absl::StatusOr<SessionWorker*> worker) {
      if (!worker.ok()) return this->Finish(ToGrpcStatus(worker.status()));
      worker_ = *worker;
      begin_(*worker_, call_.context(), &request_, &reader_);
      reader_.Begin();
    });
  }

  void Ended(const grpc::Status& status) {
    const bool elsewhere = status.error_code() == grpc::StatusCode::NOT_FOUND ||
                           status.error_code() == grpc::StatusCode::UNAVAILABLE;
    if (begun_ || !elsewhere) return this->Finish(WorkerStatus(*worker_, status));
    call_.Renew(context_);
    Attempt(WorkerStatus(*worker_, status));
  }

  const grpc::CallbackServerContext& context_;
  const Request request_;
  Next next_;
  Begin begin_;
  PassedCall call_;
  SessionWorker* worker_ = nullptr;
  ReadSide reader_;
  Message message_;
  bool begun_ = false;  // A message has come: what follows is this worker's.
  std::shared_ptr<StreamProxy> self_;
};

// Passes both directions of a stream on, once its first message has said where to. Owns itself.
template <typename Request, typename Message>
class BidiProxy final : public grpc::ServerBidiReactor<Request, Message> {
 public:
  using Writer = grpc::ClientBidiReactor<Request, Message>;
  using Begin = absl::AnyInvocable<void(SessionWorker&, grpc::ClientContext*, Writer*)>;
  using Find = absl::AnyInvocable<void(const Request& first, SessionWorkers::Found)>;

  static BidiProxy* Start(const grpc::CallbackServerContext* context, Find find, Begin begin) {
    auto proxy = std::make_shared<BidiProxy>(context, std::move(find), std::move(begin));
    proxy->self_ = proxy;
    proxy->StartRead(&proxy->request_);
    return proxy.get();
  }

  BidiProxy(const grpc::CallbackServerContext* context, Find find, Begin begin)
      : find_(std::move(find)), begin_(std::move(begin)), call_(*context), far_(*this) {}

  void OnReadDone(bool ok) override {
    if (worker_ != nullptr) return far_.PassOn(ok);
    if (!ok) return this->Finish(grpc::Status::OK);  // Nothing was asked.
    find_(request_, [this](absl::StatusOr<SessionWorker*> worker) {
      if (!worker.ok()) return this->Finish(ToGrpcStatus(worker.status()));
      worker_ = *worker;
      begin_(*worker_, call_.context(), &far_);
      far_.Begin();
    });
  }
  void OnWriteDone(bool ok) override {
    if (!ok) call_.Cancel();
    far_.ReadNext();
  }
  void OnCancel() override { call_.Cancel(); }
  void OnDone() override { const std::shared_ptr<BidiProxy> last = std::move(self_); }

 private:
  class FarSide final : public Writer {
   public:
    explicit FarSide(BidiProxy& proxy) : proxy_(proxy) {}
    void Begin() {
      this->AddHold();  // Until its end shows, the near side begins operations.
      this->StartWrite(&proxy_.request_);
      ReadNext();
      this->StartCall();
    }
    // The request that was read, or that there are no more.
    void PassOn(bool more) ABSL_LOCKS_EXCLUDED(mu_) {
      absl::MutexLock lock(&mu_);
      if (over_) return;
      more ? this->StartWrite(&proxy_.request_) : this->StartWritesDone();
    }
    void ReadNext() { this->StartRead(&proxy_.message_); }
    void OnReadDone(bool ok) override {
      if (ok) return proxy_.StartWrite(&proxy_.message_);
      {
        absl::MutexLock lock(&mu_);
        over_ = true;
      }
      this->RemoveHold();
    }
    void OnWriteDone(bool ok) override {
      // Where the worker takes no more, its end follows.
      if (ok) proxy_.StartRead(&proxy_.request_);
    }
    void OnDone(const grpc::Status& status) override {
      proxy_.Finish(WorkerStatus(*proxy_.worker_, status));
    }

   private:
    BidiProxy& proxy_;
    absl::Mutex mu_;
    bool over_ ABSL_GUARDED_BY(mu_) = false;
  };

  Find find_;
  Begin begin_;
  PassedCall call_;
  SessionWorker* worker_ = nullptr;
  FarSide far_;
  Request request_;
  Message message_;
  std::shared_ptr<BidiProxy> self_;
};

// Passes a stream of requests on, once the first has said where to, and answers with the worker's
// answer. Owns itself.
template <typename Request, typename Response>
class UploadProxy final : public grpc::ServerReadReactor<Request> {
 public:
  using Writer = grpc::ClientWriteReactor<Request>;
  using Begin = absl::AnyInvocable<void(SessionWorker&, grpc::ClientContext*, Response*, Writer*)>;
  // May change the request.
  using Find = absl::AnyInvocable<void(Request& first, SessionWorkers::Found)>;
  using Answered = absl::AnyInvocable<void(SessionWorker*, const Response&)>;

  static UploadProxy* Start(const grpc::CallbackServerContext* context, Response* response,
                            Find find, Begin begin, Answered answered) {
    auto proxy = std::make_shared<UploadProxy>(context, response, std::move(find), std::move(begin),
                                               std::move(answered));
    proxy->self_ = proxy;
    proxy->StartRead(&proxy->request_);
    return proxy.get();
  }

  UploadProxy(const grpc::CallbackServerContext* context, Response* response, Find find,
              Begin begin, Answered answered)
      : response_(response),
        find_(std::move(find)),
        begin_(std::move(begin)),
        answered_(std::move(answered)),
        call_(*context),
        far_(*this) {}

  void OnReadDone(bool ok) override {
    if (worker_ != nullptr) return far_.PassOn(ok);
    if (!ok) request_.Clear();  // Nothing came, which the search refuses.
    find_(request_, [this](absl::StatusOr<SessionWorker*> worker) {
      if (!worker.ok()) return this->Finish(ToGrpcStatus(worker.status()));
      worker_ = *worker;
      begin_(*worker_, call_.context(), response_, &far_);
      far_.Begin();
    });
  }
  void OnCancel() override { call_.Cancel(); }
  void OnDone() override { const std::shared_ptr<UploadProxy> last = std::move(self_); }

 private:
  class FarSide final : public Writer {
   public:
    explicit FarSide(UploadProxy& proxy) : proxy_(proxy) {}
    void Begin() {
      this->AddHold();  // Until the last write, which the near side begins.
      this->StartWrite(&proxy_.request_);
      this->StartCall();
    }
    void PassOn(bool more) {
      if (more) return this->StartWrite(&proxy_.request_);
      this->StartWritesDone();
      this->RemoveHold();
    }
    void OnWriteDone(bool ok) override {
      if (ok) return proxy_.StartRead(&proxy_.request_);
      this->RemoveHold();  // Its end follows.
    }
    void OnDone(const grpc::Status& status) override {
      if (status.ok()) proxy_.answered_(proxy_.worker_, *proxy_.response_);
      proxy_.Finish(WorkerStatus(*proxy_.worker_, status));
    }

   private:
    UploadProxy& proxy_;
  };

  Response* const response_;
  Find find_;
  Begin begin_;
  Answered answered_;
  PassedCall call_;
  SessionWorker* worker_ = nullptr;
  FarSide far_;
  Request request_;
  std::shared_ptr<UploadProxy> self_;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_ROUTER_PROXY_CALL_H_
