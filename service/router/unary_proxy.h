// Unary calls that are passed on to a worker, or to all of them.
#ifndef ATTND_SERVICE_ROUTER_UNARY_PROXY_H_
#define ATTND_SERVICE_ROUTER_UNARY_PROXY_H_

#include <grpcpp/client_context.h>
#include <grpcpp/support/server_callback.h>

#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "service/router/session_workers.h"
#include "service/rpc/call_parts.h"
#include "service/rpc/grpc_status.h"
#include "service/wire.h"

namespace attnd {

// One attempt after another, each at the worker that `next` finds, until one answers with something
// other than NOT_FOUND or UNAVAILABLE. The client's deadline and its leaving are passed on.
template <typename Request, typename Response>
class UnaryProxy final : public std::enable_shared_from_this<UnaryProxy<Request, Response>> {
 public:
  using Next = absl::AnyInvocable<void(const grpc::Status& last, SessionWorkers::Found)>;
  using Begin = absl::AnyInvocable<void(SessionWorker&, grpc::ClientContext*, const Request*,
                                        Response*, std::function<void(grpc::Status)>)>;
  // May change the status; null: the status is the worker's.
  using Answered = absl::AnyInvocable<void(SessionWorker*, const Response&, grpc::Status&)>;

  static grpc::ServerUnaryReactor* Start(const grpc::CallbackServerContext* context,
                                         Request request, Response* response, Next next,
                                         Begin begin, Answered answered = nullptr) {
    auto proxy =
        std::make_shared<UnaryProxy>(*context, std::move(request), response, std::move(next),
                                     std::move(begin), std::move(answered));
    proxy->Attempt(grpc::Status::OK);
    return proxy->call_.get();
  }

  UnaryProxy(const grpc::CallbackServerContext& from, Request request, Response* response,
             Next next, Begin begin, Answered answered)
      : from_(from),
        request_(std::move(request)),
        response_(response),
        next_(std::move(next)),
        begin_(std::move(begin)),
        answered_(std::move(answered)),
        call_(UnaryCall::Start()) {}

 private:
  void Attempt(const grpc::Status& last) {
    next_(last, [self = this->shared_from_this()](absl::StatusOr<SessionWorker*> worker) {
      if (!worker.ok()) return self->Finish(nullptr, ToGrpcStatus(worker.status()));
      self->context_ = grpc::ClientContext::FromCallbackServerContext(self->from_);
      self->begin_(**worker, self->context_.get(), &self->request_, self->response_,
                   [self, worker = *worker](const grpc::Status& status) {
                     self->Ended(worker, WorkerStatus(*worker, status));
                   });
    });
  }

  void Ended(SessionWorker* worker, const grpc::Status& status) {
    const bool elsewhere = status.error_code() == grpc::StatusCode::NOT_FOUND ||
                           status.error_code() == grpc::StatusCode::UNAVAILABLE;
    elsewhere ? Attempt(status) : Finish(worker, status);
  }

  void Finish(SessionWorker* worker, grpc::Status status) {
    if (answered_) answered_(worker, *response_, status);
    call_->Finish(status);
  }

  const grpc::CallbackServerContext& from_;
  const Request request_;
  Response* const response_;
  Next next_;
  Begin begin_;
  Answered answered_;
  const std::shared_ptr<UnaryCall> call_;
  std::unique_ptr<grpc::ClientContext> context_;
};

// One worker after another, for what any of them can do.
class AnyNext {
 public:
  explicit AnyNext(SessionWorkers& workers) : order_(workers.Spread()) {}

  void operator()(const grpc::Status& last, SessionWorkers::Found found) {
    if (next_ == order_.size()) return found(FromWire(last));
    found(order_[next_++]);
  }

 private:
  const SessionWorkers::Order order_;
  size_t next_ = 0;
};

// The same question to all workers at a time; `done` has their answers in the workers' order.
template <typename Request, typename Response>
class AskAll final : public std::enable_shared_from_this<AskAll<Request, Response>> {
 public:
  struct Answer {
    grpc::Status status;
    Response response;
  };
  using Begin = std::function<void(SessionWorker&, grpc::ClientContext*, const Request*, Response*,
                                   std::function<void(grpc::Status)>)>;
  using Done = absl::AnyInvocable<grpc::Status(std::vector<Answer>&)>;

  // Of a client's call, whose deadline and leaving are passed on.
  static grpc::ServerUnaryReactor* Start(const SessionWorkers& workers,
                                         const grpc::CallbackServerContext* context,
                                         Request request, const Begin& begin, Done done) {
    const std::shared_ptr<UnaryCall> call = UnaryCall::Start();
    Ask(
        workers, [&] { return grpc::ClientContext::FromCallbackServerContext(*context); },
        std::move(request), begin,
        [call, done = std::move(done)](auto& answers) mutable { call->Finish(done(answers)); });
    return call.get();
  }

  static void Ask(const SessionWorkers& workers,
                  const std::function<std::unique_ptr<grpc::ClientContext>()>& make_context,
                  Request request, const Begin& begin,
                  absl::AnyInvocable<void(std::vector<Answer>&)> done) {
    auto all = std::make_shared<AskAll>(std::move(request), workers.all().size(), std::move(done));
    for (size_t i = 0; i < workers.all().size(); ++i) all->contexts_.push_back(make_context());
    for (size_t i = 0; i < workers.all().size(); ++i) {
      SessionWorker& worker = *workers.all()[i];
      begin(worker, all->contexts_[i].get(), &all->request_, &all->answers_[i].response,
            [all, i, &worker](const grpc::Status& status) {
              all->Answered(i, WorkerStatus(worker, status));
            });
    }
  }

  AskAll(Request request, size_t count, absl::AnyInvocable<void(std::vector<Answer>&)> done)
      : request_(std::move(request)), done_(std::move(done)), answers_(count), left_(count) {}

 private:
  void Answered(size_t index, const grpc::Status& status) {
    answers_[index].status = status;
    {
      absl::MutexLock lock(&mu_);
      if (--left_ > 0) return;
    }
    done_(answers_);
  }

  const Request request_;
  absl::AnyInvocable<void(std::vector<Answer>&)> done_;
  std::vector<std::unique_ptr<grpc::ClientContext>> contexts_;
  std::vector<Answer> answers_;  // Each written by its own call.
  absl::Mutex mu_;
  size_t left_ ABSL_GUARDED_BY(mu_);
};

// Of a question to all: the first refusal of a worker that could be reached; else OK if one could.
template <typename Answers>
grpc::Status Reached(const Answers& answers) {
  grpc::Status away;
  bool reached = false;
  for (const auto& answer : answers) {
    if (answer.status.error_code() == grpc::StatusCode::UNAVAILABLE) {
      away = answer.status;
    } else if (!answer.status.ok()) {
      return answer.status;
    } else {
      reached = true;
    }
  }
  return reached ? grpc::Status::OK : away;
}

}  // namespace attnd

#endif  // ATTND_SERVICE_ROUTER_UNARY_PROXY_H_
