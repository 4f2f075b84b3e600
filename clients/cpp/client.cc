#include "attnd/client.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>

#include <algorithm>
#include <chrono>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "attnd/v1/operators.grpc.pb.h"
#include "clients/cpp/exchange.h"
#include "clients/cpp/messages.h"

namespace attnd::client {
namespace {

std::string ServiceConfig(const Retry& retry) {
  if (retry.attempts <= 1) return "{}";
  return absl::StrFormat(
      R"({"methodConfig": [{"name": [{"service": "attnd.v1.Operators"}], "retryPolicy": {
        "maxAttempts": %d, "initialBackoff": "%.3fs", "maxBackoff": "%.3fs", "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"]}}]})",
      std::min(retry.attempts, 5), absl::ToDoubleSeconds(retry.initial_backoff),
      absl::ToDoubleSeconds(retry.max_backoff));
}

std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address, const Options& options) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  arguments.SetServiceConfigJSON(ServiceConfig(options.retry));
  return grpc::CreateCustomChannel(
      address, options.credentials ? options.credentials : grpc::InsecureChannelCredentials(),
      arguments);
}

// What a server says of a call whose answer only a stream can carry: see operators.proto,
// CallError.reason.
bool AnswerTooLarge(const grpc::ClientContext& context) {
  const auto& trailers = context.GetServerTrailingMetadata();
  const auto reason = trailers.find("attnd-reason");
  return reason != trailers.end() && reason->second == "answer-too-large";
}

}  // namespace

class Client::Connection {
 public:
  Connection(const std::string& address, Options options)
      : options_(std::move(options)),
        channel_(MakeChannel(address, options_)),
        stub_(v1::Operators::NewStub(channel_)) {}

  const Options& options() const { return options_; }
  grpc::Channel& channel() const { return *channel_; }
  const std::shared_ptr<grpc::Channel>& shared_channel() const { return channel_; }
  v1::Operators::Stub& stub() const { return *stub_; }

  // A channel must not go on one of gRPC's own threads, which its end would wait for: so it stays
  // until the context of every call, which shares it, is gone.
  ~Connection() {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(
        +[](int* contexts) { return *contexts == 0; }, &contexts_));
  }

  std::shared_ptr<grpc::ClientContext> Context(absl::Duration timeout) {
    if (timeout == absl::ZeroDuration()) timeout = options_.timeout;
    auto context = Context();
    if (timeout != absl::InfiniteDuration()) {
      context->set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    }
    return context;
  }
  // With the deadline of another.
  std::shared_ptr<grpc::ClientContext> Context(const grpc::ClientContext& other) {
    auto context = Context();
    context->set_deadline(other.deadline());
    return context;
  }
  std::shared_ptr<grpc::ClientContext> Context() {
    {
      absl::MutexLock lock(&mutex_);
      ++contexts_;
    }
    std::shared_ptr<grpc::ClientContext> context(new grpc::ClientContext(),
                                                 [this](grpc::ClientContext* gone) {
                                                   std::default_delete<grpc::ClientContext>()(gone);
                                                   absl::MutexLock lock(&mutex_);
                                                   --contexts_;
                                                 });
    for (const auto& [key, value] : options_.metadata) context->AddMetadata(key, value);
    return context;
  }

  // A call of one message each way.
  template <typename Response, typename Request, typename Method>
  absl::StatusOr<Response> Unary(Method method, const Request& request, absl::Duration timeout) {
    return Unary<Response>(method, request, *Context(timeout));
  }
  template <typename Response, typename Request, typename Method>
  absl::StatusOr<Response> Unary(Method method, const Request& request,
                                 grpc::ClientContext& context) {
    Response response;
    const grpc::Status status = (stub_.get()->*method)(&context, request, &response);
    if (!status.ok()) return FromGrpc(status);
    return response;
  }

  // Which calls need a stream: those with large inputs, and those whose like had too large an
  // answer.
  bool NeedsStream(const Call& call) {
    const int64_t bytes = InputBytes(call);
    if (bytes >= options_.stream_from_bytes) return true;
    absl::MutexLock lock(&mutex_);
    const auto learnt = streamed_from_.find(call.op);
    return learnt != streamed_from_.end() && bytes >= learnt->second;
  }
  void AnswerWasTooLarge(const v1::EvaluateRequest& request) {
    int64_t bytes = 0;
    for (const auto& [name, tensor] : request.inputs()) {
      bytes += static_cast<int64_t>(tensor.data().size());
    }
    absl::MutexLock lock(&mutex_);
    const auto [learnt, first] = streamed_from_.emplace(request.op(), bytes);
    learnt->second = std::min(learnt->second, bytes);
  }

  void Stream(v1::EvaluateRequest request, std::shared_ptr<grpc::ClientContext> context,
              Done done) {
    auto writer = std::make_shared<ChunkWriter>(std::move(request));
    auto reader = std::make_shared<ChunkReader>();
    Exchange<v1::EvaluateChunk, v1::EvaluateChunk>::Start(
        std::move(context),
        {.next = [writer](v1::EvaluateChunk& chunk) { return writer->Next(chunk); },
         .take = [reader](v1::EvaluateChunk& chunk) { return reader->Take(chunk); },
         .done =
             [reader, done = std::move(done)](absl::Status status) mutable {
               if (status.ok()) {
                 done(reader->Finish());
               } else {
                 done(std::move(status));
               }
             }},
        [this](grpc::ClientContext* context, auto* reactor) {
          stub_->async()->EvaluateStream(context, reactor);
        });
  }

 private:
  const Options options_;
  const std::shared_ptr<grpc::Channel> channel_;
  const std::unique_ptr<v1::Operators::Stub> stub_;
  absl::Mutex mutex_;
  int contexts_ ABSL_GUARDED_BY(mutex_) = 0;
  std::map<std::string, int64_t> streamed_from_ ABSL_GUARDED_BY(mutex_);  // By operator.
};

Client::Client(std::shared_ptr<Connection> connection) : connection_(std::move(connection)) {}
Client::Client(const Client&) = default;
Client& Client::operator=(const Client&) = default;
Client::~Client() = default;

const std::shared_ptr<grpc::Channel>& Client::channel() const {
  return connection_->shared_channel();
}
const Options& Client::options() const { return connection_->options(); }

absl::StatusOr<Client> Client::Connect(const std::string& address, Options options) {
  auto connection = std::make_shared<Connection>(address, std::move(options));
  const absl::Duration limit = connection->options().connect_timeout;
  if (!connection->channel().WaitForConnected(absl::ToChronoTime(absl::Now() + limit))) {
    return absl::UnavailableError(
        absl::StrCat("no connection to ", address, " within ", absl::FormatDuration(limit)));
  }
  return Client(std::move(connection));
}

absl::StatusOr<v1::ListResponse> Client::List(const std::string& filter) const {
  v1::ListRequest request;
  request.set_filter(filter);
  return connection_->Unary<v1::ListResponse>(&v1::Operators::Stub::List, request, {});
}

absl::StatusOr<v1::OperatorDescription> Client::Describe(const std::string& op) const {
  v1::DescribeRequest request;
  request.set_op(op);
  return connection_->Unary<v1::OperatorDescription>(&v1::Operators::Stub::Describe, request, {});
}

absl::StatusOr<Result> Client::Evaluate(Call call) const {
  if (connection_->NeedsStream(call)) return EvaluateAsync(std::move(call)).get();
  const auto context = connection_->Context(call.timeout);
  v1::EvaluateRequest request = ToRequest(std::move(call));
  auto response =
      connection_->Unary<v1::EvaluateResponse>(&v1::Operators::Stub::Evaluate, request, *context);
  if (response.ok()) return FromResponse(*response);
  if (!AnswerTooLarge(*context)) return response.status();
  connection_->AnswerWasTooLarge(request);
  auto promise = std::make_shared<std::promise<absl::StatusOr<Result>>>();
  auto future = promise->get_future();
  connection_->Stream(
      std::move(request), connection_->Context(*context),
      [promise](absl::StatusOr<Result> result) { promise->set_value(std::move(result)); });
  return future.get();
}

void Client::EvaluateAsync(Call call, Done done) const {
  auto context = connection_->Context(call.timeout);
  const bool streamed = connection_->NeedsStream(call);
  v1::EvaluateRequest request = ToRequest(std::move(call));
  if (streamed) return connection_->Stream(std::move(request), std::move(context), std::move(done));
  struct Pending {
    Connection* connection;  // Lives as long as the context does.
    std::shared_ptr<grpc::ClientContext> context;
    v1::EvaluateRequest request;
    v1::EvaluateResponse response;
    Done done;
  };
  auto pending = std::make_shared<Pending>();
  pending->connection = connection_.get();
  pending->context = std::move(context);
  pending->request = std::move(request);
  pending->done = std::move(done);
  connection_->stub().async()->Evaluate(pending->context.get(), &pending->request,
                                        &pending->response, [pending](const grpc::Status& status) {
                                          if (status.ok())
                                            return pending->done(FromResponse(pending->response));
                                          if (!AnswerTooLarge(*pending->context))
                                            return pending->done(FromGrpc(status));
                                          pending->connection->AnswerWasTooLarge(pending->request);
                                          pending->connection->Stream(
                                              std::move(pending->request),
                                              pending->connection->Context(*pending->context),
                                              std::move(pending->done));
                                        });
}

std::future<absl::StatusOr<Result>> Client::EvaluateAsync(Call call) const {
  auto promise = std::make_shared<std::promise<absl::StatusOr<Result>>>();
  auto future = promise->get_future();
  EvaluateAsync(std::move(call), [promise](absl::StatusOr<Result> result) {
    promise->set_value(std::move(result));
  });
  return future;
}

std::vector<absl::StatusOr<Result>> Client::EvaluateBatch(std::vector<Call> calls,
                                                          absl::Duration timeout) const {
  // What no message can hold goes beside the batch.
  std::map<size_t, std::future<absl::StatusOr<Result>>> apart;
  for (size_t i = 0; i < calls.size(); ++i) {
    if (!connection_->NeedsStream(calls[i])) continue;
    calls[i].timeout = timeout;
    apart[i] = EvaluateAsync(std::move(calls[i]));
  }
  // Requests are named by their index; what nobody answers gets the status of the stream.
  std::vector<absl::StatusOr<Result>> results(calls.size(), absl::UnknownError(""));
  std::vector<bool> answered(calls.size(), false);
  size_t written = 0;
  auto ended = std::make_shared<std::promise<absl::Status>>();
  Exchange<v1::EvaluateRequest, v1::BatchResponse>::Start(
      connection_->Context(timeout),
      {.next =
           [&](v1::EvaluateRequest& request) {
             while (apart.contains(written)) ++written;
             if (written == calls.size()) return false;
             request = ToRequest(std::move(calls[written]));
             request.set_request_id(absl::StrCat(written++));
             return true;
           },
       .take =
           [&](v1::BatchResponse& answer) {
             const std::string& id =
                 answer.has_error() ? answer.error().request_id() : answer.response().request_id();
             size_t index;
             if (!absl::SimpleAtoi(id, &index) || index >= results.size() || answered[index]) {
               return absl::InternalError(
                   absl::StrCat("an answer came for request \"", id, "\", which waits for none"));
             }
             answered[index] = true;
             if (answer.has_error()) {
               results[index] = absl::Status(static_cast<absl::StatusCode>(answer.error().code()),
                                             answer.error().message());
             } else {
               results[index] = FromResponse(*answer.mutable_response());
             }
             return absl::OkStatus();
           },
       .done = [ended](absl::Status status) { ended->set_value(std::move(status)); }},
      [this](grpc::ClientContext* context, auto* reactor) {
        connection_->stub().async()->EvaluateBatch(context, reactor);
      });
  absl::Status status = ended->get_future().get();
  if (status.ok()) status = absl::InternalError("the stream ended without an answer to this call");
  for (size_t i = 0; i < results.size(); ++i) {
    const auto streamed = apart.find(i);
    if (streamed != apart.end()) {
      results[i] = streamed->second.get();
    } else if (!answered[i]) {
      results[i] = status;
    }
  }
  return results;
}

absl::StatusOr<v1::CompareResponse> Client::Compare(Call call,
                                                    const v1::RandomInputs* random) const {
  v1::CompareRequest request;
  const absl::Duration timeout = call.timeout;
  if (random != nullptr) *request.mutable_random() = *random;
  *request.mutable_call() = ToRequest(std::move(call));
  return connection_->Unary<v1::CompareResponse>(&v1::Operators::Stub::Compare, request, timeout);
}

absl::Status Client::Health(absl::Duration timeout) const {
  // grpc.health.v1: an empty request asks for the whole server; the answer's one field (number 1,
  // varint) is 1 when it serves. Debian's gRPC does not install the messages.
  grpc::GenericStub stub(connection_->shared_channel());
  const auto context = connection_->Context(timeout);
  const grpc::Slice empty;
  const grpc::ByteBuffer request(&empty, 1);
  grpc::ByteBuffer response;
  auto ended = std::make_shared<std::promise<grpc::Status>>();
  stub.UnaryCall(context.get(), "/grpc.health.v1.Health/Check", grpc::StubOptions(), &request,
                 &response, [ended](grpc::Status status) { ended->set_value(std::move(status)); });
  const grpc::Status status = ended->get_future().get();
  if (!status.ok()) return FromGrpc(status);
  grpc::Slice bytes;
  constexpr absl::string_view kServing("\x08\x01", 2);
  if (response.TrySingleSlice(&bytes).ok() &&
      absl::string_view(reinterpret_cast<const char*>(bytes.begin()), bytes.size()) == kServing) {
    return absl::OkStatus();
  }
  return absl::UnavailableError("the server is not serving");
}

}  // namespace attnd::client
