#include "service/router/language_proxy.h"

#include <algorithm>
#include <functional>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "service/overload.h"
#include "service/router/unary_proxy.h"
#include "service/rpc/language_codec.h"
#include "service/session/session_turns.h"
#include "service/wire.h"

namespace attnd {
namespace {

// For questions about models, which may have to be read first.
constexpr absl::Duration kAskPatience = absl::Seconds(60);

std::unique_ptr<grpc::ClientContext> PatientContext() {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(absl::ToChronoTime(absl::Now() + kAskPatience));
  return context;
}

bool Elsewhere(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::NOT_FOUND ||
         status.error_code() == grpc::StatusCode::UNAVAILABLE;
}

// What a worker's status was before the protocol, which has no code for it, made it another.
absl::Status FromInference(const grpc::Status& status, const grpc::ClientContext& context) {
  if (status.ok()) return absl::OkStatus();
  const auto& trailers = context.GetServerTrailingMetadata();
  const auto reason = trailers.find("attnd-reason");
  if (reason != trailers.end() && reason->second == "overload") {
    return OverloadError(status.error_message());
  }
  if (reason != trailers.end() && reason->second == "deadline") {
    return absl::DeadlineExceededError(status.error_message());
  }
  return FromWire(status);
}

std::string Plain(absl::string_view name) {
  return std::string(absl::StripPrefix(name, kLanguagePrefix));
}

// Asks one worker after another until one has an answer.
template <typename Request, typename Response>
class AskOne final : public std::enable_shared_from_this<AskOne<Request, Response>> {
 public:
  using Begin = std::function<void(SessionWorker&, grpc::ClientContext*, const Request*, Response*,
                                   std::function<void(grpc::Status)>)>;

  AskOne(SessionWorkers& workers, Request request, Begin begin, LanguageModels::Done<Response> done)
      : next_(workers),
        request_(std::move(request)),
        begin_(std::move(begin)),
        done_(std::move(done)) {}

  void Ask(const grpc::Status& last = grpc::Status::OK) {
    next_(last, [self = this->shared_from_this()](absl::StatusOr<SessionWorker*> worker) {
      if (!worker.ok()) return self->done_(worker.status());
      self->context_ = PatientContext();
      self->begin_(**worker, self->context_.get(), &self->request_, &self->response_,
                   [self, worker = *worker](const grpc::Status& status) {
                     if (status.ok()) return self->done_(std::move(self->response_));
                     const grpc::Status named = WorkerStatus(*worker, status);
                     if (Elsewhere(named)) return self->Ask(named);
                     self->done_(FromInference(named, *self->context_));
                   });
    });
  }

 private:
  AnyNext next_;
  const Request request_;
  const Begin begin_;
  LanguageModels::Done<Response> done_;
  Response response_;
  std::unique_ptr<grpc::ClientContext> context_;
};

// Adds what another worker counted.
void Add(const inference::StatisticDuration& from, inference::StatisticDuration& to) {
  to.set_count(to.count() + from.count());
  to.set_ns(to.ns() + from.ns());
}

void Add(const inference::ModelStatistics& from, inference::ModelStatistics& to) {
  to.set_name(from.name());
  to.set_version(from.version());
  to.set_last_inference(std::max(to.last_inference(), from.last_inference()));
  to.set_inference_count(to.inference_count() + from.inference_count());
  to.set_execution_count(to.execution_count() + from.execution_count());
  const inference::InferStatistics& more = from.inference_stats();
  inference::InferStatistics& sum = *to.mutable_inference_stats();
  Add(more.success(), *sum.mutable_success());
  Add(more.fail(), *sum.mutable_fail());
  Add(more.queue(), *sum.mutable_queue());
  Add(more.compute_input(), *sum.mutable_compute_input());
  Add(more.compute_infer(), *sum.mutable_compute_infer());
  Add(more.compute_output(), *sum.mutable_compute_output());
}

class LanguageProxy final : public LanguageModels {
 public:
  explicit LanguageProxy(SessionWorkers& workers) : workers_(workers) {}

  void Infer(const Message& message, absl::Time deadline, std::shared_ptr<CancelToken> cancel,
             bool streamed, int64_t max_bytes, Answered answered) override {
    // What is wrong with it no worker need say; and it names the session.
    const absl::StatusOr<LanguageCall> decoded =
        Guarded([&]() -> absl::StatusOr<LanguageCall> { return DecodeLanguage(message); });
    if (!decoded.ok()) return answered(decoded.status());
    auto call = std::make_shared<Call>(*this, message, *decoded);
    call->deadline = std::min(deadline, decoded->deadline);
    call->cancel = std::move(cancel);
    call->streamed = streamed;
    call->max_bytes = max_bytes;
    call->answered = std::move(answered);
    call->Start();
  }

  void DescribeMetadata(const std::string& name, const std::string& version,
                        Done<inference::ModelMetadataResponse> done) override {
    inference::ModelMetadataRequest request;
    request.set_name(name);
    request.set_version(version);
    Ask<inference::ModelMetadataRequest, inference::ModelMetadataResponse>(
        std::move(request),
        [](SessionWorker& worker, auto* c, auto* q, auto* r, auto answered) {
          worker.inference->async()->ModelMetadata(c, q, r, std::move(answered));
        },
        std::move(done));
  }

  void DescribeConfig(const std::string& name, const std::string& version,
                      Done<inference::ModelConfig> done) override {
    inference::ModelConfigRequest request;
    request.set_name(name);
    request.set_version(version);
    Ask<inference::ModelConfigRequest, inference::ModelConfigResponse>(
        std::move(request),
        [](SessionWorker& worker, auto* c, auto* q, auto* r, auto answered) {
          worker.inference->async()->ModelConfig(c, q, r, std::move(answered));
        },
        [done = std::move(done)](absl::StatusOr<inference::ModelConfigResponse> found) mutable {
          if (!found.ok()) return done(found.status());
          done(std::move(*found->mutable_config()));
        });
  }

  void Load(const std::string& name, StatusDone done) override {
    v1::LoadModelRequest request;
    request.set_name(Plain(name));
    AskAll<v1::LoadModelRequest, v1::Model>::Ask(
        workers_, PatientContext, std::move(request),
        [](SessionWorker& worker, auto* c, auto* q, auto* r, auto answered) {
          worker.models->async()->Load(c, q, r, std::move(answered));
        },
        [done = std::move(done)](auto& answers) mutable { done(FromWire(Reached(answers))); });
  }

  void Unload(const std::string& name, StatusDone done) override {
    v1::UnloadModelRequest request;
    request.set_name(Plain(name));
    AskAll<v1::UnloadModelRequest, v1::UnloadModelResponse>::Ask(
        workers_, PatientContext, std::move(request),
        [](SessionWorker& worker, auto* c, auto* q, auto* r, auto answered) {
          worker.models->async()->Unload(c, q, r, std::move(answered));
        },
        [done = std::move(done)](auto& answers) mutable { done(FromWire(Reached(answers))); });
  }

  void List(Done<std::vector<Listed>> done) override {
    AskAll<v1::ListModelsRequest, v1::ListModelsResponse>::Ask(
        workers_, PatientContext, {},
        [](SessionWorker& worker, auto* c, auto* q, auto* r, auto answered) {
          worker.models->async()->List(c, q, r, std::move(answered));
        },
        [done = std::move(done)](auto& answers) mutable {
          if (const grpc::Status status = Reached(answers); !status.ok()) {
            return done(FromWire(status));
          }
          std::map<std::string, bool> loaded;
          for (const auto& answer : answers) {
            for (const v1::Model& model : answer.response.models()) {
              loaded[absl::StrCat(kLanguagePrefix, model.name())] |= model.loaded();
            }
          }
          std::vector<Listed> listed;
          for (const auto& [name, there] : loaded) listed.push_back({name, there});
          done(std::move(listed));
        });
  }

  void Statistics(const std::string& name,
                  Done<std::vector<inference::ModelStatistics>> done) override {
    inference::ModelStatisticsRequest request;
    request.set_name(name);
    AskAll<inference::ModelStatisticsRequest, inference::ModelStatisticsResponse>::Ask(
        workers_, PatientContext, std::move(request),
        [](SessionWorker& worker, auto* c, auto* q, auto* r, auto answered) {
          worker.inference->async()->ModelStatistics(c, q, r, std::move(answered));
        },
        [done = std::move(done)](auto& answers) mutable {
          if (const grpc::Status status = Reached(answers); !status.ok()) {
            return done(FromWire(status));
          }
          std::map<std::string, inference::ModelStatistics> sums;
          for (const auto& answer : answers) {
            for (const inference::ModelStatistics& one : answer.response.model_stats()) {
              if (IsLanguageModel(one.name())) Add(one, sums[one.name()]);
            }
          }
          std::vector<inference::ModelStatistics> all;
          for (auto& [model, sum] : sums) all.push_back(std::move(sum));
          done(std::move(all));
        });
  }

 private:
  // One call from its turn to its answer.
  class Call final : public CancelToken::Watcher, public std::enable_shared_from_this<Call> {
   public:
    Call(LanguageProxy& proxy, Message message, const LanguageCall& decoded)
        : proxy_(proxy),
          message_(std::move(message)),
          session_(decoded.step.session),
          start_(decoded.step.start),
          end_(decoded.step.end),
          next_(proxy.workers_) {}

    absl::Time deadline;
    std::shared_ptr<CancelToken> cancel;
    bool streamed = false;
    int64_t max_bytes = 0;
    Answered answered;

    void Start() {
      // One that is cancelled by now is told so by the worker's side of the call.
      if (cancel != nullptr && !cancel->Watch(shared_from_this())) cancelled_ = true;
      if (session_.empty()) return AskNext(grpc::Status::OK);
      const auto self = shared_from_this();
      absl::Status entered = proxy_.turns_.Enter(session_, [self] { self->Find(); });
      if (!entered.ok()) answered(std::move(entered));
    }

    void OnCancel() override {
      absl::MutexLock lock(&mu_);
      cancelled_ = true;
      if (context_ != nullptr) context_->TryCancel();
    }

   private:
    void Find() {
      auto found = [self = shared_from_this()](absl::StatusOr<SessionWorker*> worker) {
        // That there is no such sequence the worker says that would have it.
        if (absl::IsNotFound(worker.status())) {
          worker = self->proxy_.workers_.RankOf(self->session_).front();
        }
        if (!worker.ok()) return self->Finish(worker.status());
        self->Send(*worker);
      };
      SessionWorkers& workers = proxy_.workers_;
      start_ ? workers.Place(session_, deadline, std::move(found))
             : workers.Locate(session_, deadline, std::move(found));
    }

    void AskNext(const grpc::Status& last) {
      next_(last, [self = shared_from_this()](absl::StatusOr<SessionWorker*> worker) {
        if (!worker.ok()) return self->Finish(worker.status());
        self->Send(*worker);
      });
    }

    void Send(SessionWorker* worker) {
      {
        absl::MutexLock lock(&mu_);
        context_ = std::make_unique<grpc::ClientContext>();
        if (deadline != absl::InfiniteFuture()) {
          context_->set_deadline(absl::ToChronoTime(deadline));
        }
        if (cancelled_) context_->TryCancel();
      }
      worker->inference->async()->ModelInfer(
          context_.get(), message_.get(), &response_,
          [self = shared_from_this(), worker](const grpc::Status& status) {
            self->Ended(worker, WorkerStatus(*worker, status));
          });
    }

    void Ended(SessionWorker* worker, const grpc::Status& status) {
      if (session_.empty()) {
        // It keeps nothing, so that another worker may do it again.
        if (Elsewhere(status)) return AskNext(status);
      } else if (status.ok() && !end_) {
        proxy_.workers_.Remember(session_, worker);
      } else {
        proxy_.workers_.Forget(session_);
      }
      Finish(FromInference(status, *context_));
    }

    void Finish(absl::Status status) {
      if (cancel != nullptr) cancel->Unwatch(this);
      if (!session_.empty()) proxy_.turns_.Leave(session_);
      if (!status.ok()) return answered(std::move(status));
      // A step answers once, so every answer is the last of its request.
      if (streamed) (*response_.mutable_parameters())["triton_final_response"].set_bool_param(true);
      MessageBuilder answer;
      answer.Append(response_);
      const size_t size = answer.size() + kEnvelopeBytes;
      if (static_cast<int64_t>(size) > max_bytes) {
        return answered(AnswerTooLarge(message_->model_name(), size, max_bytes));
      }
      answered(std::move(answer));
    }

    LanguageProxy& proxy_;
    const Message message_;
    const std::string session_;
    const bool start_, end_;
    AnyNext next_;  // Of a call that is no sequence's.
    inference::ModelInferResponse response_;
    absl::Mutex mu_;
    bool cancelled_ ABSL_GUARDED_BY(mu_) = false;
    std::unique_ptr<grpc::ClientContext> context_;  // Made under mu_.
  };

  template <typename Request, typename Response>
  void Ask(Request request, typename AskOne<Request, Response>::Begin begin, Done<Response> done) {
    std::make_shared<AskOne<Request, Response>>(workers_, std::move(request), std::move(begin),
                                                std::move(done))
        ->Ask();
  }

  SessionWorkers& workers_;
  SessionTurns turns_;
};

}  // namespace

std::unique_ptr<LanguageModels> MakeLanguageProxy(SessionWorkers& workers) {
  return std::make_unique<LanguageProxy>(workers);
}

}  // namespace attnd
