#include <map>
#include <string>
#include <utility>

#include "service/router/proxy_call.h"
#include "service/router/session_proxy.h"
#include "service/router/unary_proxy.h"

namespace attnd {
namespace {

using grpc::CallbackServerContext;

class ModelsProxy final : public v1::Models::CallbackService {
 public:
  explicit ModelsProxy(SessionWorkers& workers) : workers_(workers) {}

  grpc::ServerUnaryReactor* List(CallbackServerContext* context,
                                 const v1::ListModelsRequest* request,
                                 v1::ListModelsResponse* response) override {
    using All = AskAll<v1::ListModelsRequest, v1::ListModelsResponse>;
    return All::Start(
        workers_, context, *request,
        [](SessionWorker& worker, auto* c, auto* q, auto* r, auto done) {
          worker.models->async()->List(c, q, r, std::move(done));
        },
        [response](std::vector<All::Answer>& answers) {
          grpc::Status status = Reached(answers);
          if (!status.ok()) return status;
          std::map<std::string, const v1::Model*> by_name;
          for (const All::Answer& answer : answers) {
            for (const v1::Model& model : answer.response.models()) {
              const v1::Model*& kept = by_name[model.name()];
              if (kept == nullptr || !kept->loaded()) kept = &model;
            }
          }
          for (const auto& [name, model] : by_name) *response->add_models() = *model;
          return grpc::Status::OK;
        });
  }

  grpc::ServerUnaryReactor* Load(CallbackServerContext* context,
                                 const v1::LoadModelRequest* request,
                                 v1::Model* response) override {
    using All = AskAll<v1::LoadModelRequest, v1::Model>;
    return All::Start(
        workers_, context, *request,
        [](SessionWorker& worker, auto* c, auto* q, auto* r, auto done) {
          worker.models->async()->Load(c, q, r, std::move(done));
        },
        [response](std::vector<All::Answer>& answers) {
          for (const All::Answer& answer : answers) {
            if (answer.status.ok()) *response = answer.response;
          }
          return Reached(answers);
        });
  }

  grpc::ServerUnaryReactor* Unload(CallbackServerContext* context,
                                   const v1::UnloadModelRequest* request,
                                   v1::UnloadModelResponse*) override {
    using All = AskAll<v1::UnloadModelRequest, v1::UnloadModelResponse>;
    return All::Start(
        workers_, context, *request,
        [](SessionWorker& worker, auto* c, auto* q, auto* r, auto done) {
          worker.models->async()->Unload(c, q, r, std::move(done));
        },
        [](std::vector<All::Answer>& answers) { return Reached(answers); });
  }

  grpc::ServerWriteReactor<v1::DecodeEvent>* Generate(CallbackServerContext* context,
                                                      const v1::GenerateRequest* request) override {
    return StreamProxy<v1::GenerateRequest, v1::DecodeEvent>::Start(
        context, *request, AnyNext(workers_),
        [](SessionWorker& worker, auto* c, auto* q, auto* reader) {
          worker.models->async()->Generate(c, q, reader);
        });
  }

  grpc::ServerUnaryReactor* Score(CallbackServerContext* context, const v1::ScoreRequest* request,
                                  v1::ScoreResponse* response) override {
    return UnaryProxy<v1::ScoreRequest, v1::ScoreResponse>::Start(
        context, *request, response, AnyNext(workers_),
        [](SessionWorker& worker, auto* c, auto* q, auto* r, auto done) {
          worker.models->async()->Score(c, q, r, std::move(done));
        });
  }

  grpc::ServerUnaryReactor* Tokenize(CallbackServerContext* context,
                                     const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override {
    return UnaryProxy<v1::TokenizeRequest, v1::TokenizeResponse>::Start(
        context, *request, response, AnyNext(workers_),
        [](SessionWorker& worker, auto* c, auto* q, auto* r, auto done) {
          worker.models->async()->Tokenize(c, q, r, std::move(done));
        });
  }

 private:
  SessionWorkers& workers_;
};

}  // namespace

std::unique_ptr<grpc::Service> MakeModelsProxy(SessionWorkers& workers) {
  return std::make_unique<ModelsProxy>(workers);
}

}  // namespace attnd
