// Calls that are repeated while their server cannot be reached.
#ifndef ATTND_CLIENTS_CPP_REPEATED_CALLS_H_
#define ATTND_CLIENTS_CPP_REPEATED_CALLS_H_

#include <grpcpp/client_context.h>

#include <algorithm>
#include <memory>
#include <utility>

#include "absl/random/random.h"
#include "absl/status/statusor.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "attnd/client.h"
#include "clients/cpp/exchange.h"

namespace attnd::client {

// Waits between repetitions, and when to give up.
class Patience {
 public:
  explicit Patience(absl::Duration most) : most_(most) { Renew(); }
  void Renew() {
    end_ = absl::Now() + most_;
    wait_ = absl::Milliseconds(50);
  }
  // Whether to repeat what ended like this; waits first.
  bool Repeats(const grpc::Status& status) {
    if (status.error_code() != grpc::StatusCode::UNAVAILABLE || absl::Now() + wait_ > end_) {
      return false;
    }
    absl::BitGen random;
    absl::SleepFor(wait_ * absl::Uniform(random, 0.5, 1.0));
    wait_ = std::min(2 * wait_, absl::Seconds(2));
    return true;
  }

 private:
  const absl::Duration most_;
  absl::Time end_;
  absl::Duration wait_;
};

// Of one service, on a client's connection.
template <typename Stub>
class RepeatedCalls {
 public:
  RepeatedCalls(const Client& client, absl::Duration patience, std::unique_ptr<Stub> stub)
      : client_(client), patience_(patience), stub_(std::move(stub)) {}

  absl::Duration patience() const { return patience_; }
  Stub& stub() const { return *stub_; }

  void Prepare(grpc::ClientContext& context, bool stream) const {
    const Options& options = client_.options();
    for (const auto& [key, value] : options.metadata) context.AddMetadata(key, value);
    if (!stream && options.timeout != absl::InfiniteDuration()) {
      context.set_deadline(absl::ToChronoTime(absl::Now() + options.timeout));
    }
  }

  template <typename Response, typename Request, typename Method>
  absl::StatusOr<Response> Unary(Method method, const Request& request) const {
    Patience patience(patience_);
    for (;;) {
      grpc::ClientContext context;
      Prepare(context, false);
      Response response;
      const grpc::Status status = (stub_.get()->*method)(&context, request, &response);
      if (status.ok()) return response;
      if (!patience.Repeats(status)) return FromGrpc(status);
    }
  }

 private:
  const Client client_;
  const absl::Duration patience_;
  const std::unique_ptr<Stub> stub_;
};

}  // namespace attnd::client

#endif  // ATTND_CLIENTS_CPP_REPEATED_CALLS_H_
