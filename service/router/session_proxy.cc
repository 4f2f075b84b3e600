#include "service/router/session_proxy.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "service/router/proxy_call.h"
#include "service/router/unary_proxy.h"
#include "service/rpc/call_parts.h"
#include "service/session/requests.h"
#include "service/wire.h"

namespace attnd {
namespace {

using grpc::CallbackServerContext;

// Finds the worker of a session. One that was known and has it no more is looked for again, once.
// What a worker that cannot be reached may have done is not asked of another: that is for the
// client, whose next call is looked for anew.
class SessionNext {
 public:
  SessionNext(SessionWorkers& workers, std::string session, absl::Time deadline)
      : workers_(workers), session_(std::move(session)), deadline_(deadline) {}

  void operator()(const grpc::Status& last, SessionWorkers::Found found) {
    if (absl::Status s = CheckSessionId("session", session_); !s.ok()) return found(s);
    if (!last.ok()) {
      workers_.Forget(session_);
      if (last.error_code() != grpc::StatusCode::NOT_FOUND || !known_) return found(FromWire(last));
    }
    known_ = last.ok() && workers_.Knows(session_);
    workers_.Locate(session_, deadline_, std::move(found));
  }

 private:
  SessionWorkers& workers_;
  const std::string session_;
  const absl::Time deadline_;
  bool known_ = false;
};

// Finds where a session is to be made; what the worker then answers is the answer.
class PlaceNext {
 public:
  PlaceNext(SessionWorkers& workers, std::string session, absl::Time deadline)
      : workers_(workers), session_(std::move(session)), deadline_(deadline) {}

  void operator()(const grpc::Status& last, SessionWorkers::Found found) {
    if (!last.ok()) return found(FromWire(last));
    if (absl::Status s = CheckSessionId("session", session_); !s.ok()) return found(s);
    workers_.Place(session_, deadline_, std::move(found));
  }

 private:
  SessionWorkers& workers_;
  const std::string session_;
  const absl::Time deadline_;
};

// The worker of the parent, where the fork's name is nobody else's.
class ForkNext {
 public:
  ForkNext(SessionWorkers& workers, const v1::ForkRequest& request, absl::Time deadline)
      : workers_(workers),
        fork_(request.new_session()),
        deadline_(deadline),
        parent_(workers, request.session(), deadline) {}

  void operator()(const grpc::Status& last, SessionWorkers::Found found) {
    if (fork_.empty() || !last.ok()) return parent_(last, std::move(found));
    if (absl::Status s = CheckSessionId("new_session", fork_); !s.ok()) return found(s);
    workers_.Locate(
        fork_, deadline_,
        [this, found = std::move(found)](absl::StatusOr<SessionWorker*> there) mutable {
          parent_(grpc::Status::OK, [this, there = std::move(there), found = std::move(found)](
                                        absl::StatusOr<SessionWorker*> parent) mutable {
            if (parent.ok() && there.ok() && *there != *parent) {
              parent =
                  absl::AlreadyExistsError(absl::StrCat("session ", fork_, ": exists already"));
            }
            found(std::move(parent));
          });
        });
  }

 private:
  SessionWorkers& workers_;
  const std::string fork_;
  const absl::Time deadline_;
  SessionNext parent_;
};

v1::ListSessionsResponse Merged(const std::vector<const v1::ListSessionsResponse*>& pages,
                                uint32_t wanted) {
  const size_t limit = wanted == 0 ? 100 : std::min<size_t>(wanted, 1000);
  std::map<std::string, const v1::Session*> by_name;
  // Behind the end of a page that is not the last one, others' names may be the next.
  std::string end;
  for (const v1::ListSessionsResponse* page : pages) {
    for (const v1::Session& session : page->sessions()) {
      const v1::Session*& kept = by_name[session.session()];
      // Of two, the one that is in a worker's memory tells more.
      if (kept == nullptr || kept->tier().empty()) kept = &session;
    }
    if (!page->next().empty() && (end.empty() || page->next() < end)) end = page->next();
  }
  v1::ListSessionsResponse merged;
  for (const auto& [name, session] : by_name) {
    if (!end.empty() && name > end) break;
    if (static_cast<size_t>(merged.sessions_size()) == limit) {
      end = merged.sessions(merged.sessions_size() - 1).session();
      break;
    }
    *merged.add_sessions() = *session;
  }
  merged.set_next(end);
  return merged;
}

// A call of one session, at its worker. `request` must have the session's name.
#define ATTND_PASS(Method, Request, Response)                                                  \
  grpc::ServerUnaryReactor* Method(CallbackServerContext* context, const v1::Request* request, \
                                   v1::Response* response) override {                          \
    return UnaryProxy<v1::Request, v1::Response>::Start(                                       \
        context, *request, response,                                                           \
        SessionNext(workers_, request->session(), DeadlineOf(*context)),                       \
        [](SessionWorker& worker, auto* c, auto* q, auto* r, auto done) {                      \
          worker.sessions->async()->Method(c, q, r, std::move(done));                          \
        });                                                                                    \
  }

class SessionsProxy final : public v1::Sessions::CallbackService {
 public:
  explicit SessionsProxy(SessionWorkers& workers) : workers_(workers) {}

  ATTND_PASS(Get, GetSessionRequest, Session)
  ATTND_PASS(Append, AppendRequest, AppendResponse)
  ATTND_PASS(Rewind, RewindRequest, Session)
  ATTND_PASS(Snapshot, SnapshotRequest, SnapshotInfo)
  ATTND_PASS(ListSnapshots, ListSnapshotsRequest, ListSnapshotsResponse)
  ATTND_PASS(Restore, RestoreRequest, Session)
  ATTND_PASS(DeleteSnapshot, DeleteSnapshotRequest, DeleteSnapshotResponse)

  grpc::ServerUnaryReactor* Create(CallbackServerContext* context,
                                   const v1::CreateSessionRequest* request,
                                   v1::Session* response) override {
    v1::CreateSessionRequest named = *request;
    if (absl::Status s = CheckCreate(named); !s.ok()) {
      return Refuse(context, s);
    }
    if (named.session().empty()) named.set_session(workers_.DrawName());
    PlaceNext next(workers_, named.session(), DeadlineOf(*context));
    return UnaryProxy<v1::CreateSessionRequest, v1::Session>::Start(
        context, std::move(named), response, std::move(next),
        [](SessionWorker& worker, auto* c, auto* q, auto* r, auto done) {
          worker.sessions->async()->Create(c, q, r, std::move(done));
        },
        RememberMade());
  }

  grpc::ServerUnaryReactor* Fork(CallbackServerContext* context, const v1::ForkRequest* request,
                                 v1::Session* response) override {
    return UnaryProxy<v1::ForkRequest, v1::Session>::Start(
        context, *request, response,
        // Shared, since it refers to itself while it searches.
        [next = std::make_shared<ForkNext>(workers_, *request, DeadlineOf(*context))](
            const grpc::Status& last, SessionWorkers::Found found) {
          (*next)(last, [next, found = std::move(found)](auto worker) mutable {
            found(std::move(worker));
          });
        },
        [](SessionWorker& worker, auto* c, auto* q, auto* r, auto done) {
          worker.sessions->async()->Fork(c, q, r, std::move(done));
        },
        RememberMade());
  }

  grpc::ServerUnaryReactor* Delete(CallbackServerContext* context,
                                   const v1::DeleteSessionRequest* request,
                                   v1::DeleteSessionResponse* response) override {
    return UnaryProxy<v1::DeleteSessionRequest, v1::DeleteSessionResponse>::Start(
        context, *request, response,
        SessionNext(workers_, request->session(), DeadlineOf(*context)),
        [](SessionWorker& worker, auto* c, auto* q, auto* r, auto done) {
          worker.sessions->async()->Delete(c, q, r, std::move(done));
        },
        [this, id = request->session()](SessionWorker*, const auto&, grpc::Status& status) {
          workers_.Forget(id);
          // One that is not there is deleted.
          if (status.error_code() == grpc::StatusCode::NOT_FOUND) status = grpc::Status::OK;
        });
  }

  grpc::ServerUnaryReactor* List(CallbackServerContext* context,
                                 const v1::ListSessionsRequest* request,
                                 v1::ListSessionsResponse* response) override {
    using All = AskAll<v1::ListSessionsRequest, v1::ListSessionsResponse>;
    return All::Start(
        workers_, context, *request,
        [](SessionWorker& worker, auto* c, auto* q, auto* r, auto done) {
          worker.sessions->async()->List(c, q, r, std::move(done));
        },
        [response, limit = request->limit()](std::vector<All::Answer>& answers) {
          std::vector<const v1::ListSessionsResponse*> pages;
          for (const All::Answer& answer : answers) {
            // A list without some would say that they are not there.
            if (!answer.status.ok()) return answer.status;
            pages.push_back(&answer.response);
          }
          *response = Merged(pages, limit);
          return grpc::Status::OK;
        });
  }

  grpc::ServerWriteReactor<v1::DecodeEvent>* Decode(CallbackServerContext* context,
                                                    const v1::DecodeRequest* request) override {
    return StreamProxy<v1::DecodeRequest, v1::DecodeEvent>::Start(
        context, *request, SessionNext(workers_, request->session(), DeadlineOf(*context)),
        [](SessionWorker& worker, auto* c, auto* q, auto* reader) {
          worker.sessions->async()->Decode(c, q, reader);
        });
  }

  grpc::ServerWriteReactor<v1::FileChunk>* Export(CallbackServerContext* context,
                                                  const v1::ExportRequest* request) override {
    return StreamProxy<v1::ExportRequest, v1::FileChunk>::Start(
        context, *request, SessionNext(workers_, request->session(), DeadlineOf(*context)),
        [](SessionWorker& worker, auto* c, auto* q, auto* reader) {
          worker.sessions->async()->Export(c, q, reader);
        });
  }

  grpc::ServerBidiReactor<v1::ConverseRequest, v1::ConverseEvent>* Converse(
      CallbackServerContext* context) override {
    return BidiProxy<v1::ConverseRequest, v1::ConverseEvent>::Start(
        context,
        [this, deadline = DeadlineOf(*context)](const v1::ConverseRequest& first,
                                                SessionWorkers::Found found) {
          const std::string& session =
              first.has_append() ? first.append().session() : first.decode().session();
          if (absl::Status s = CheckSessionId("session", session); !s.ok()) return found(s);
          // A stream cannot be begun again elsewhere: it is looked for now.
          workers_.Forget(session);
          workers_.Locate(session, deadline, std::move(found));
        },
        [](SessionWorker& worker, auto* c, auto* far) {
          worker.sessions->async()->Converse(c, far);
        });
  }

  grpc::ServerReadReactor<v1::ImportChunk>* Import(CallbackServerContext* context,
                                                   v1::Session* response) override {
    return UploadProxy<v1::ImportChunk, v1::Session>::Start(
        context, response,
        [this, deadline = DeadlineOf(*context)](v1::ImportChunk& first,
                                                SessionWorkers::Found found) {
          if (!first.has_header()) {
            return found(
                absl::InvalidArgumentError("import: header: given none, expected it first"));
          }
          v1::ImportHeader& header = *first.mutable_header();
          if (header.session().empty() && header.idempotency_key().empty()) {
            header.set_session(workers_.DrawName());
          }
          PlaceNext(workers_, header.session(), deadline)(grpc::Status::OK, std::move(found));
        },
        [](SessionWorker& worker, auto* c, auto* r, auto* far) {
          worker.sessions->async()->Import(c, r, far);
        },
        [this](SessionWorker* worker, const v1::Session& made) {
          workers_.Remember(made.session(), worker);
        });
  }

 private:
  static grpc::ServerUnaryReactor* Refuse(CallbackServerContext* context,
                                          const absl::Status& status) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(ToGrpcStatus(status));
    return reactor;
  }

  absl::AnyInvocable<void(SessionWorker*, const v1::Session&, grpc::Status&)> RememberMade() {
    return [this](SessionWorker* worker, const v1::Session& made, const grpc::Status& status) {
      if (status.ok()) workers_.Remember(made.session(), worker);
    };
  }

  SessionWorkers& workers_;
};
#undef ATTND_PASS

}  // namespace

std::unique_ptr<grpc::Service> MakeSessionsProxy(SessionWorkers& workers) {
  return std::make_unique<SessionsProxy>(workers);
}

}  // namespace attnd
