// Sessions on language models and operators: their logs, states and tiers, and what may be done
// with them.
//
// A session holds tokens; its state has read all of them but at most the last ones, and catches up
// when it must. An operator's session holds what its appends read, and their states. Mutations of
// one session run one after another, in the order in which they came. Each is in the log before it
// runs, so that a process that ends at any moment leaves sessions that go on where their clients
// saw them: what was sampled and not logged is sampled again, the same.
#ifndef ATTND_SERVICE_SESSION_SESSION_MANAGER_H_
#define ATTND_SERVICE_SESSION_SESSION_MANAGER_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/functional/any_invocable.h"
#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "attnd/v1/models.pb.h"
#include "attnd/v1/sessions.pb.h"
#include "service/engine.h"
#include "service/metrics/session_metrics.h"
#include "service/session/live_session.h"
#include "service/session/log_writer.h"
#include "service/session/model_table.h"
#include "service/session/requests.h"
#include "service/session/session_store.h"
#include "service/session/work_thread.h"

namespace attnd {

struct SessionLimits {
  uint64_t max_sessions = 1000000;             // In memory and in the store.
  int64_t max_state_bytes = int64_t{2} << 30;  // Of states in memory, anchors included.
  size_t max_waiting = 64;                     // Mutations that wait for their turn at one session.
  uint64_t max_tokens = uint64_t{1} << 20;
  double idle_seconds = 24 * 3600;
  // States are kept at multiples of this, the last `anchors` of a session in memory, all of them in
  // the store: a rewind replays fewer tokens than this. Beyond the checkpoints that a session may
  // have the store keeps fewer, the further back; so does memory for a session of no durability.
  uint64_t anchor_every = 512;
  size_t anchors = 4;
  size_t anchors_in_memory = 16;
  size_t max_checkpoints = 256;
  int64_t max_checkpoint_bytes = int64_t{256} << 20;
  // A state that leaves memory and has read fewer tokens beyond what the store has is not written:
  // they are read again sooner than it is.
  uint64_t least_stored_tokens = 64;
  // Records of an operator's session that stay behind where its history begins: older inputs are
  // dropped from its log, so that a stream without end takes bounded room. 0: all stay. Tokens of
  // language models are never dropped: they take four bytes each, up to `max_tokens`.
  uint64_t max_log_bytes = uint64_t{64} << 20;
  size_t max_snapshots = 64;      // Of one session.
  size_t max_generations = 1024;  // Calls of Generate under way.
  // Of what an operator's append answers.
  int64_t max_answer_bytes = int64_t{64} << 20;
  // Of one exported file, and of all that arrive at a time.
  int64_t max_file_bytes = int64_t{1} << 30;
};

struct SessionFile;

// Bounds the bytes of files that are on their way. Safe from many threads.
class FileRoom {
 public:
  explicit FileRoom(int64_t max_file_bytes) : max_(static_cast<uint64_t>(max_file_bytes)) {}
  // Room for `more` bytes of a file that has `have`. RESOURCE_EXHAUSTED if there is none.
  absl::Status Take(uint64_t have, uint64_t more) ABSL_LOCKS_EXCLUDED(mu_);
  void Release(uint64_t bytes) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  const uint64_t max_;
  absl::Mutex mu_;
  uint64_t taken_ ABSL_GUARDED_BY(mu_) = 0;
};

// Takes a decode's events, one at a time. Calls come from threads of the manager's.
class DecodeSink {
 public:
  enum class Answer : uint8_t {
    kGoOn,
    kPause,   // Takes no more for now.
    kStop,    // Nobody listens any more: the decode is left as it is.
    kCancel,  // Enough: the decode ends here, with CANCELLED_BY_CLIENT.
  };
  virtual ~DecodeSink() = default;
  virtual Answer Event(v1::DecodeEvent event) = 0;
  // Asked between steps, and between pieces of a prompt: kGoOn, kStop or kCancel.
  virtual Answer Wish() { return Answer::kGoOn; }
  // After kPause. True: the sink keeps `resume`, and calls it once, when it takes events again or
  // its wish has changed. False: it does so by now.
  virtual bool Paused(absl::AnyInvocable<void()> resume) = 0;
  // After the last event; exactly once.
  virtual void Done(absl::Status status) = 0;
};

class SessionManager {
 public:
  using SessionDone = absl::AnyInvocable<void(absl::StatusOr<v1::Session>)>;
  using StatusDone = absl::AnyInvocable<void(absl::Status)>;
  using SnapshotDone = absl::AnyInvocable<void(absl::StatusOr<v1::SnapshotInfo>)>;
  using AppendDone = absl::AnyInvocable<void(absl::StatusOr<v1::AppendResponse>)>;

  // `models`, `store` and `metrics` must outlive the manager. With a store that keeps nothing
  // beyond the process, sessions live as long as it does. `engine` evaluates operators, of whose
  // sessions there are none where it is null; it may go first, once nobody calls.
  SessionManager(ModelTable& models, SessionStore& store, SessionMetrics& metrics,
                 const SessionLimits& limits, Engine* engine = nullptr);
  // Nobody may call any more. What runs is cut; logs are whole.
  ~SessionManager();

  // Ends what runs with UNAVAILABLE, and refuses what comes: sessions go on elsewhere, from their
  // logs.
  void Drain() { models_.Stop(); }

  // Every call answers once, on this thread or another, and never blocks on the store or a model.
  // Errors as in sessions.proto.
  void Create(v1::CreateSessionRequest request, SessionDone done);
  void Get(const v1::GetSessionRequest& request, SessionDone done);
  void Append(v1::AppendRequest request, AppendDone done);
  void Decode(v1::DecodeRequest request, std::shared_ptr<DecodeSink> sink);
  void Fork(v1::ForkRequest request, SessionDone done);
  void Rewind(v1::RewindRequest request, SessionDone done);
  void Delete(const v1::DeleteSessionRequest& request, StatusDone done);
  void Snapshot(v1::SnapshotRequest request, SnapshotDone done);
  void ListSnapshots(const v1::ListSnapshotsRequest& request,
                     absl::AnyInvocable<void(absl::StatusOr<v1::ListSnapshotsResponse>)> done);
  void Restore(v1::RestoreRequest request, SessionDone done);
  void DeleteSnapshot(v1::DeleteSnapshotRequest request, StatusDone done);
  // The bytes of a file (session_file.h).
  void Export(v1::ExportRequest request,
              absl::AnyInvocable<void(absl::StatusOr<std::string>)> done);
  void Import(v1::ImportHeader header, std::string file, SessionDone done);
  void List(v1::ListSessionsRequest request,
            absl::AnyInvocable<void(absl::StatusOr<v1::ListSessionsResponse>)> done);

  // Models, by the names of their folders. All but List and Unload may read a checkpoint first.
  void ListModels(absl::AnyInvocable<void(absl::StatusOr<v1::ListModelsResponse>)> done);
  void LoadModel(const std::string& name, absl::AnyInvocable<void(absl::StatusOr<v1::Model>)> done);
  void UnloadModel(const std::string& name, StatusDone done);
  void Generate(v1::GenerateRequest request, std::shared_ptr<DecodeSink> sink);
  // `gone` tells whether nobody waits for the answer any more; asked between pieces.
  void Score(v1::ScoreRequest request, absl::AnyInvocable<bool()> gone,
             absl::AnyInvocable<void(absl::StatusOr<v1::ScoreResponse>)> done);
  // Of the token at a position, absent: behind the last; reads, and changes nothing.
  // FAILED_PRECONDITION if nothing is before it, OUT_OF_RANGE beyond where the session stands.
  void Logits(const std::string& id, std::optional<uint64_t> at,
              absl::AnyInvocable<void(absl::StatusOr<std::vector<float>>)> done);
  void Tokenize(v1::TokenizeRequest request,
                absl::AnyInvocable<void(absl::StatusOr<v1::TokenizeResponse>)> done);

  // Of the files that clients send.
  const std::shared_ptr<FileRoom>& file_room() const { return file_room_; }

  struct Usage {
    size_t sessions;  // In memory.
    size_t durable;   // Of those, the ones that the store has too.
    size_t states;    // Sessions whose state is in memory.
    size_t busy;      // Of those, the ones that a call uses.
    int64_t state_bytes;
    int64_t max_state_bytes;
  };
  Usage usage() const;

 private:
  class DecodeRun;
  using SessionPtr = std::shared_ptr<LiveSession>;
  using Found = absl::AnyInvocable<void(absl::StatusOr<SessionPtr>)>;
  using Then = absl::AnyInvocable<void(absl::Status)>;

  // What a mutation's request says of itself.
  struct Mutation {
    std::string key;
    std::optional<uint64_t> expected;
    uint64_t hash = 0;
  };

  template <typename Request>
  static Mutation MutationOf(const Request& request) {
    Mutation mutation;
    mutation.key = request.idempotency_key();
    if (request.has_expected_position()) mutation.expected = request.expected_position();
    mutation.hash = HashOf(request);
    return mutation;
  }

  // Gives the session in a turn, which `found` ends by Leave; reads its log from the store where it
  // is not in memory.
  void Enter(const std::string& id, Found found) ABSL_LOCKS_EXCLUDED(mu_);
  // On the writer's thread.
  absl::StatusOr<SessionPtr> Recover(const std::string& id) ABSL_LOCKS_EXCLUDED(mu_);
  absl::StatusOr<SessionPtr> Add(SessionPtr session) ABSL_LOCKS_EXCLUDED(mu_);
  void Forget(const SessionPtr& session) ABSL_LOCKS_EXCLUDED(mu_);

  // In a turn. The request that this one repeats, or null; FAILED_PRECONDITION if it has the key of
  // another, or a position at which the session does not stand.
  absl::StatusOr<const SessionLog::Request*> FindRepeated(const LiveSession& session,
                                                          const Mutation& mutation) const;
  // Settles a decode that was cut: what lies beyond the expected position is taken back.
  void Settle(const SessionPtr& session, std::optional<uint64_t> expected, Then then);
  // Brings a record to the store, as durable as the session asks, and to the session.
  void Record(const SessionPtr& session, const Mutation& mutation, v1::SessionRecord record,
              Then then);
  // Writes without waiting.
  void RecordLater(const SessionPtr& session, const v1::SessionRecord& record);

  // Ends a call's turn and answers with what the session is by then, or with the error.
  static absl::AnyInvocable<void(const absl::Status&)> LeavingAnswer(SessionPtr session,
                                                                     SessionDone done);
  // Tokens that a session's state has read before a step: all but the last.
  static uint64_t MostRead(const LiveSession& session);
  // Lets the state read the tokens up to `end`; CANCELLED if `listener` (or null) wishes otherwise.
  void CatchUp(const SessionPtr& session, uint64_t end, Then then,
               std::shared_ptr<DecodeSink> listener = nullptr);
  // A state to go on from: in memory, in the store, or the empty one. On the writer's thread where
  // the store must be asked.
  void NeedState(const SessionPtr& session, uint64_t most, Then then);
  // The next tokens for the state, up to `end` or the next anchor.
  std::vector<int32_t> Piece(const LiveSession& session, uint64_t end) const;
  void AfterPiece(const SessionPtr& session);
  void ThinAnchors(LiveSession& session) const;
  void StoreCheckpoint(const SessionPtr& session, LiveSession::Anchor anchor);
  // Before AfterPiece, what was read since `reading`.
  void CountRead(LiveSession& session);
  // A session that is to be: what takes time with its size is done, on any thread.
  struct NewSession {
    SessionPtr session;
    std::string record;  // The first of its log; empty where the store will have none.
  };
  // `parent`: of a fork its parent's log, in the parent's turn; or null.
  static absl::StatusOr<NewSession> MakeSession(const std::string& id, v1::SessionRecord record,
                                                const SessionLog* parent = nullptr);
  // Brings it to the store and to memory. On the writer's thread; CreateSoon: from any.
  void Create(absl::StatusOr<NewSession> made, SessionDone done);
  void CreateSoon(absl::StatusOr<NewSession> made, SessionDone done);
  // Lets `give` set the states of a session that nobody has used yet.
  void GiveStates(const std::string& id, absl::FunctionRef<void(LiveSession&)> give)
      ABSL_LOCKS_EXCLUDED(mu_);
  void ShareStates(const LiveSession& parent, const std::string& fork, uint64_t position)
      ABSL_LOCKS_EXCLUDED(mu_);
  void Evict(const SessionPtr& session);

  // ---- Operators' sessions.
  using StateDone = absl::AnyInvocable<void(absl::StatusOr<SharedOperatorState>)>;
  struct OperatorStep;
  // What a new session, or one that comes from the store, runs on, as its first record tells.
  absl::Status Equip(LiveSession& session, const v1::SessionRecord::Created& created);
  absl::StatusOr<const Operator*> FindOperator(const std::string& op) const;
  absl::Status CheckCreated(const v1::SessionRecord::Created& created) const;
  void AppendInputs(const SessionPtr& session,
                    const std::shared_ptr<const v1::AppendRequest>& request, AppendDone answer);
  // A step's inputs behind `before` (null: the beginning), checked.
  absl::StatusOr<std::shared_ptr<OperatorStep>> MakeStep(const LiveSession& session,
                                                         const v1::AppendRequest& request,
                                                         const std::shared_ptr<const void>& owner,
                                                         SharedOperatorState before) const;
  void RunStep(const SessionPtr& session, const std::shared_ptr<OperatorStep>& step, Then then);
  void KeepState(LiveSession& session, const OperatorStep& step);
  // The state at an end of the session's path: from memory, the store, or by repeating appends;
  // null at the beginning. Leaves the session as it is. OUT_OF_RANGE if it is not retained.
  void NeedOperatorState(const SessionPtr& session, uint64_t position, StateDone then);
  // The same, from what memory does not have, at an end of `path`: the session's, or a snapshot's.
  // On the writer's thread.
  void RestoreOperatorState(const SessionPtr& session, const InputPath& path,
                            SharedOperatorState best, uint64_t position, StateDone then);
  void Replay(const SessionPtr& session, const InputPath& path, SharedOperatorState state,
              uint64_t position, StateDone then);
  absl::StatusOr<SharedOperatorState> BaseState(const LiveSession& session, const InputPath& path);
  // Forgets inputs that lie further back than is kept, in a turn of its own.
  void TrimLater(const SessionPtr& session);
  // In a turn, which it ends; on the writer's thread.
  void Trim(const SessionPtr& session);
  std::optional<uint64_t> TrimTarget(const LiveSession& session) const;
  // Gives `trim` the states that it begins with and that its snapshots have, from the one of this
  // number on (0: the first).
  void FillTrim(const SessionPtr& session, const std::shared_ptr<SessionLog::Trim>& trim, int next,
                Then then);
  absl::Status StoreTrim(LiveSession& session, SessionLog::Trim& trim);
  // The record of that number.
  absl::StatusOr<std::shared_ptr<const v1::SessionRecord>> ReadRecord(const LiveSession& session,
                                                                      uint64_t number);
  absl::Status CheckReachable(const LiveSession& session, uint64_t position) const;
  absl::Status PutState(const LiveSession& session, const OperatorState& state,
                        absl::string_view chain_hash, const std::string& label);
  void PinOperatorSnapshot(const SessionPtr& session, const std::string& name, Then then);
  void ForkOperator(const SessionPtr& session, const v1::ForkRequest& request,
                    v1::SessionRecord record, SessionDone done);
  void ExportOperator(const SessionPtr& session,
                      absl::AnyInvocable<void(absl::StatusOr<std::string>)> answer);
  void ImportOperator(const v1::ImportHeader& header, const SessionFile& file, SessionDone done);
  // The record of a session that a file becomes, without what it runs on.
  v1::SessionRecord CreatedBy(const v1::ImportHeader& header, const SessionFile& file) const;
  absl::Status PutParts(const LiveSession& session, uint64_t position,
                        absl::Span<const absl::string_view> parts, const std::string& label);
  absl::Status PutState(const LiveSession& session, const models::SequenceState& state,
                        absl::string_view chain_hash, const std::string& label);
  // The latest state in the store that has read `most` of the session's tokens at most.
  absl::StatusOr<models::SequenceState> GetState(const LiveSession& session, uint64_t most);
  // The latest at `most` or before among the states of session `id`, this one or its parent, that
  // stands behind the right hash and that `take` takes: DATA_LOSS of it, or FAILED_PRECONDITION for
  // another device's, sends the search on.
  // NOT_FOUND where there is none.
  absl::Status FindState(const LiveSession& session, const std::string& id, uint64_t most,
                         absl::FunctionRef<std::string(uint64_t)> hash_at,
                         absl::FunctionRef<absl::Status(uint64_t, absl::string_view)> take);
  // Moves the session's states to the store.
  absl::Status StoreStates(LiveSession& session);
  void ThinStates(const LiveSession& session);
  void DropOldStates(const LiveSession& session);
  void Housekeep() ABSL_LOCKS_EXCLUDED(mu_);
  bool Tidy(absl::Span<const SessionPtr> all);
  void LetGo(const SessionPtr& session) ABSL_LOCKS_EXCLUDED(mu_);
  void KeepExpiry(const SessionPtr& session, const LiveSession::Standing& standing);
  void EndExpired() ABSL_LOCKS_EXCLUDED(mu_);
  // RESOURCE_EXHAUSTED if there are as many sessions as there may be.
  absl::Status CheckCount() const ABSL_LOCKS_EXCLUDED(mu_);
  // Samples until the decode ends or its sink says otherwise; gives the turn back then.
  void RunDecode(const std::shared_ptr<DecodeRun>& run) ABSL_LOCKS_EXCLUDED(mu_);
  std::vector<int32_t> AfterStep(const std::shared_ptr<DecodeRun>& run, absl::Status status,
                                 absl::Span<const float> logits) ABSL_LOCKS_EXCLUDED(mu_);
  DecodeSink::Answer SendKnown(const std::shared_ptr<DecodeRun>& run) ABSL_LOCKS_EXCLUDED(mu_);
  void LogSampled(const std::shared_ptr<DecodeRun>& run);
  void CancelDecode(const std::shared_ptr<DecodeRun>& run);
  void EndDecode(const std::shared_ptr<DecodeRun>& run, absl::Status status,
                 v1::FinishReason finish = v1::NOT_FINISHED);

  // Pins the latest state in memory that has read tokens of the snapshot alone.
  void PinSnapshot(LiveSession& session, const std::string& name);

  // Of what an operator's session keeps, one part may be dropped at a time, and lies between
  // states.
  static constexpr uint64_t kLogParts = 4;

  ModelTable& models_;
  Engine* const engine_;
  SessionStore& store_;
  SessionMetrics& metrics_;
  const SessionLimits limits_;
  mutable absl::Mutex mu_;
  absl::flat_hash_map<std::string, SessionPtr> sessions_ ABSL_GUARDED_BY(mu_);
  uint64_t in_memory_alone_ ABSL_GUARDED_BY(mu_) = 0;  // Of no durability.
  // Of Generate: sessions that nobody finds.
  absl::flat_hash_set<SessionPtr> transients_ ABSL_GUARDED_BY(mu_);
  // Calls of Score under way.
  absl::flat_hash_map<const LoadedModel*, size_t> scoring_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  const std::shared_ptr<FileRoom> file_room_;
  LogWriter writer_;
  WorkThread work_;
  std::thread housekeeper_;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_SESSION_MANAGER_H_
