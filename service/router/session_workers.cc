#include "service/router/session_workers.h"

#include <grpcpp/create_channel.h>

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "models/sha256.h"
#include "service/session/requests.h"
#include "service/worker/worker_channel.h"

namespace attnd {
namespace {

// How long a worker may take to say whether it has a session: it may have to read a model first.
constexpr absl::Duration kAskPatience = absl::Seconds(20);
// Places that are remembered; they can be found again.
constexpr size_t kRemembered = 100000;

bool Unreachable(grpc::StatusCode code) {
  return code == grpc::StatusCode::UNAVAILABLE || code == grpc::StatusCode::DEADLINE_EXCEEDED ||
         code == grpc::StatusCode::CANCELLED;
}

bool Down(const SessionWorker& worker) {
  // Asked to connect, so that a worker that is back is found.
  return worker.channel->GetState(/*try_to_connect=*/true) == GRPC_CHANNEL_TRANSIENT_FAILURE;
}

}  // namespace

grpc::Status WorkerStatus(const SessionWorker& worker, const grpc::Status& status) {
  if (status.error_code() != grpc::StatusCode::UNAVAILABLE) return status;
  return grpc::Status(status.error_code(),
                      absl::StrCat("worker ", worker.name, ": ", status.error_message()));
}

SessionWorkers::SessionWorkers(const std::vector<std::string>& targets) {
  for (const std::string& target : targets) {
    auto worker = std::make_unique<SessionWorker>();
    worker->name = target;
    worker->channel = MakeWorkerChannel(target);
    worker->sessions = v1::Sessions::NewStub(worker->channel);
    worker->models = v1::Models::NewStub(worker->channel);
    worker->inference = inference::GRPCInferenceService::NewStub(worker->channel);
    workers_.push_back(std::move(worker));
  }
}

SessionWorkers::Order SessionWorkers::RankOf(const std::string& session) const {
  std::vector<std::pair<std::string, SessionWorker*>> ranked;
  for (const auto& worker : workers_) {
    ranked.emplace_back(Sha256(absl::StrCat(worker->name, "\n", session)), worker.get());
  }
  std::sort(ranked.begin(), ranked.end(), std::greater<>());
  Order order;
  for (const auto& [hash, worker] : ranked) order.push_back(worker);
  return order;
}

SessionWorkers::Order SessionWorkers::Spread() {
  Order order;
  const size_t first = next_.fetch_add(1);
  for (size_t i = 0; i < workers_.size(); ++i) {
    order.push_back(workers_[(first + i) % workers_.size()].get());
  }
  std::stable_partition(order.begin(), order.end(),
                        [](const SessionWorker* worker) { return !Down(*worker); });
  return order;
}

std::string SessionWorkers::DrawName() {
  std::string name = NewSessionId();
  for (size_t i = 0; i < 16 * workers_.size() && Down(*RankOf(name).front()); ++i) {
    name = NewSessionId();
  }
  return name;
}

// Asks one worker after another.
class SessionWorkers::Search : public std::enable_shared_from_this<Search> {
 public:
  // `none` answers where no worker has it: with those that could not be reached.
  using None = absl::AnyInvocable<absl::StatusOr<SessionWorker*>(const Order& unreachable)>;

  Search(SessionWorkers& workers, const std::string& session, absl::Time deadline, None none,
         Found found)
      : workers_(workers),
        session_(session),
        deadline_(deadline),
        order_(workers.RankOf(session)),
        none_(std::move(none)),
        found_(std::move(found)) {}

  void Ask() {
    if (next_ == order_.size()) return found_(none_(unreachable_));
    SessionWorker* const worker = order_[next_++];
    struct Question {
      grpc::ClientContext context;
      v1::GetSessionRequest request;
      v1::Session response;
    };
    auto question = std::make_shared<Question>();
    question->request.set_session(session_);
    question->context.set_deadline(
        absl::ToChronoTime(std::min(deadline_, absl::Now() + kAskPatience)));
    worker->sessions->async()->Get(
        &question->context, &question->request, &question->response,
        [self = shared_from_this(), question, worker](const grpc::Status& status) {
          self->Answered(worker, status.error_code());
        });
  }

 private:
  void Answered(SessionWorker* worker, grpc::StatusCode code) {
    if (Unreachable(code)) unreachable_.push_back(worker);
    if (Unreachable(code) || code == grpc::StatusCode::NOT_FOUND) return Ask();
    // Whatever else it says of the session, it has it.
    workers_.Remember(session_, worker);
    found_(worker);
  }

  SessionWorkers& workers_;
  const std::string session_;
  const absl::Time deadline_;
  const Order order_;
  None none_;
  Found found_;
  size_t next_ = 0;
  Order unreachable_;
};

void SessionWorkers::Locate(const std::string& session, absl::Time deadline, Found found) {
  SessionWorker* known = nullptr;
  {
    absl::MutexLock lock(&mu_);
    const auto at = known_.find(session);
    if (at != known_.end()) known = at->second;
  }
  if (known != nullptr) return found(known);
  auto none = [session](const Order& unreachable) -> absl::StatusOr<SessionWorker*> {
    if (unreachable.empty()) {
      return absl::NotFoundError(absl::StrCat("session ", session, ": no such session"));
    }
    return absl::UnavailableError(absl::StrCat("session ", session, ": worker ",
                                               unreachable.front()->name,
                                               ", which may have it, cannot be reached"));
  };
  std::make_shared<Search>(*this, session, deadline, std::move(none), std::move(found))->Ask();
}

void SessionWorkers::Place(const std::string& session, absl::Time deadline, Found found) {
  auto none = [this, session](const Order& unreachable) -> absl::StatusOr<SessionWorker*> {
    SessionWorker* const first = RankOf(session).front();
    if (std::find(unreachable.begin(), unreachable.end(), first) == unreachable.end()) return first;
    return absl::UnavailableError(absl::StrCat("session ", session, ": worker ", first->name,
                                               ", whose it would be, cannot be reached"));
  };
  std::make_shared<Search>(*this, session, deadline, std::move(none), std::move(found))->Ask();
}

void SessionWorkers::Remember(const std::string& session, SessionWorker* worker) {
  absl::MutexLock lock(&mu_);
  if (known_.size() >= kRemembered) known_.clear();
  known_[session] = worker;
}

void SessionWorkers::Forget(const std::string& session) {
  absl::MutexLock lock(&mu_);
  known_.erase(session);
}

bool SessionWorkers::Knows(const std::string& session) const {
  absl::MutexLock lock(&mu_);
  return known_.contains(session);
}

}  // namespace attnd
