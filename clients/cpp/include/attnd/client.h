// Client of attnd: evaluates attention operators on a server.
//
//   ASSIGN client, attnd::client::Client::Connect("localhost:8001")
//   client.Evaluate({.op = "gla", .inputs = {{"q", q}, {"k", k}, {"v", v}, {"g", g}}})
//
// Errors are those of the server (attnd/v1/operators.proto): INVALID_ARGUMENT names the tensor or
// attribute, what was given and what is expected; UNAVAILABLE after the repetitions that
// Options::retry allows.
#ifndef ATTND_CLIENT_CLIENT_H_
#define ATTND_CLIENT_CLIENT_H_

#include <cstdint>
#include <future>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/functional/any_invocable.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "attnd/tensor.h"
#include "attnd/v1/operators.pb.h"

namespace grpc {
class Channel;
class ChannelCredentials;
}  // namespace grpc

namespace attnd::client {

using Attribute = std::variant<bool, int64_t, double, std::string, std::vector<bool>,
                               std::vector<int64_t>, std::vector<double>>;

// Repetition of calls that ended in UNAVAILABLE, with jittered exponential waits. Evaluations are
// pure: a repeated one is harmless.
struct Retry {
  int attempts = 4;  // 1: no repetition. At most 5.
  absl::Duration initial_backoff = absl::Milliseconds(100);
  absl::Duration max_backoff = absl::Seconds(2);
};

struct Options {
  // Null: plain text.
  std::shared_ptr<grpc::ChannelCredentials> credentials;
  absl::Duration connect_timeout = absl::Seconds(10);
  // For calls that do not name their own.
  absl::Duration timeout = absl::InfiniteDuration();
  Retry retry;
  // Evaluations whose inputs have at least so many bytes are streamed. Servers take messages of 64
  // MiB unless configured otherwise.
  int64_t stream_from_bytes = int64_t{48} << 20;
  // Sent with every call.
  std::vector<std::pair<std::string, std::string>> metadata;
};

// One evaluation.
struct Call {
  std::string op;
  std::map<std::string, Tensor> inputs;
  std::map<std::string, Attribute> attributes;
  // Empty: the server chooses; "composed" or a kernel's name forces it.
  std::string kernel;
  // Outputs wanted; empty: all.
  std::vector<std::string> outputs;
  // 0 to 2, higher runs first.
  uint32_t priority = 0;
  // Zero: Options::timeout.
  absl::Duration timeout = absl::ZeroDuration();
};

struct Result {
  std::map<std::string, Tensor> outputs;
  std::string kernel;
  std::string device;
  // Calls that ran in the same launch, this one included.
  uint32_t batch_size = 1;
  // On the server.
  absl::Duration queue;
  absl::Duration compute;
  absl::Duration total;
};

// A connection. Threads may share it; copies are the same connection.
class Client {
 public:
  // UNAVAILABLE if no connection is made within Options::connect_timeout.
  static absl::StatusOr<Client> Connect(const std::string& address, Options options = {});

  Client(const Client&);
  Client& operator=(const Client&);
  ~Client();

  // The operators whose id contains `filter`.
  absl::StatusOr<v1::ListResponse> List(const std::string& filter = "") const;
  absl::StatusOr<v1::OperatorDescription> Describe(const std::string& op) const;

  // Evaluates; tensors of any size.
  absl::StatusOr<Result> Evaluate(Call call) const;

  // The same without waiting. `done` runs once, on a thread of gRPC: it must not block and
  // must not end the last client of a connection: that waits for the connection's calls.
  using Done = absl::AnyInvocable<void(absl::StatusOr<Result>)>;
  void EvaluateAsync(Call call, Done done) const;
  std::future<absl::StatusOr<Result>> EvaluateAsync(Call call) const;

  // Evaluates many calls on one stream, within `timeout` (zero: Options::timeout; those of the
  // calls are not read). Results in the order of the calls; a call that fails does not disturb the
  // others.
  std::vector<absl::StatusOr<Result>> EvaluateBatch(
      std::vector<Call> calls, absl::Duration timeout = absl::ZeroDuration()) const;

  // The kernel of `call` against the float64 definition: on the call's inputs, or, if it has none,
  // on random ones.
  absl::StatusOr<v1::CompareResponse> Compare(Call call,
                                              const v1::RandomInputs* random = nullptr) const;

  // OK if the server takes calls now; UNAVAILABLE if it says that it does not, or cannot be
  // reached.
  absl::Status Health(absl::Duration timeout = absl::Seconds(5)) const;

  // The connection, for calls of other services.
  const std::shared_ptr<grpc::Channel>& channel() const;
  const Options& options() const;

 private:
  class Connection;
  explicit Client(std::shared_ptr<Connection> connection);
  std::shared_ptr<Connection> connection_;
};

}  // namespace attnd::client

#endif  // ATTND_CLIENT_CLIENT_H_
