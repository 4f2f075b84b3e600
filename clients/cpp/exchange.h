// One bidirectional stream: a run of requests out, a run of answers in, then a status.
#ifndef ATTND_CLIENTS_CPP_EXCHANGE_H_
#define ATTND_CLIENTS_CPP_EXCHANGE_H_

#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include <memory>
#include <utility>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"

namespace attnd::client {

inline absl::Status FromGrpc(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

// Writes and reads at the same time; lives until the stream has ended.
template <typename Request, typename Response>
class Exchange final : public grpc::ClientBidiReactor<Request, Response> {
 public:
  struct Handlers {
    // Fills in the next request; false when there is none. Called from one thread at a time.
    absl::AnyInvocable<bool(Request&)> next;
    // Takes an answer; an error ends the stream. Called from one thread at a time.
    absl::AnyInvocable<absl::Status(Response&)> take;
    // The end: called once.
    absl::AnyInvocable<void(absl::Status)> done;
  };

  // `open(context, reactor)` binds the reactor to a method.
  template <typename Open>
  static void Start(std::shared_ptr<grpc::ClientContext> context, Handlers handlers, Open open) {
    auto exchange = std::make_shared<Exchange>(std::move(context), std::move(handlers));
    exchange->self_ = exchange;
    open(exchange->context_.get(), exchange.get());
    exchange->StartRead(&exchange->response_);
    exchange->Write();
    exchange->StartCall();
  }

  Exchange(std::shared_ptr<grpc::ClientContext> context, Handlers handlers)
      : context_(std::move(context)), handlers_(std::move(handlers)) {}

  void OnWriteDone(bool ok) override {
    if (ok) Write();  // Otherwise the stream has ended, and OnDone says why.
  }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    broken_ = handlers_.take(response_);
    if (broken_.ok()) {
      this->StartRead(&response_);
    } else {
      context_->TryCancel();
    }
  }

  void OnDone(const grpc::Status& status) override {
    const std::shared_ptr<Exchange> last = std::move(self_);
    handlers_.done(broken_.ok() ? FromGrpc(status) : broken_);
  }

 private:
  void Write() {
    request_.Clear();
    if (handlers_.next(request_)) {
      this->StartWrite(&request_);
    } else {
      this->StartWritesDone();
    }
  }

  std::shared_ptr<grpc::ClientContext> context_;
  Handlers handlers_;
  Request request_;
  Response response_;
  absl::Status broken_;
  std::shared_ptr<Exchange> self_;
};

}  // namespace attnd::client

#endif  // ATTND_CLIENTS_CPP_EXCHANGE_H_
