#include "service/session/redis_store.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "models/sha256.h"
#include "service/session/fault_point.h"
#include "service/session/redis_scripts.h"

namespace attnd {
namespace {

// Of a digest's bytes as many are kept with what they seal.
constexpr size_t kSeal = 16;
// What Redis takes as one value, unless it is set up for less.
constexpr uint64_t kMaxState = 512 << 20;
// Milliseconds: for replicas that had the last write, and for those that did not.
constexpr absl::string_view kReplicaPatience = "2000", kShortPatience = "50";

absl::string_view Text(const redisReply& reply) { return {reply.str, reply.len}; }

const redisReply& Element(const redisReply& reply, size_t i) { return *reply.element[i]; }

absl::Status Damaged(absl::string_view session, absl::string_view what) {
  return absl::DataLossError(
      absl::StrCat("session ", session, ": ", what, " is damaged in the store"));
}

// The digest of bytes as this part of this session: the same bytes elsewhere have another.
std::string Seal(absl::string_view kind, absl::string_view session, uint64_t number,
                 absl::Span<const absl::string_view> parts) {
  const std::string place =
      absl::StrCat(kind, " ", number, " ", session, absl::string_view("\0", 1));
  std::vector<absl::string_view> all = {place};
  all.insert(all.end(), parts.begin(), parts.end());
  return Sha256(all).substr(0, kSeal);
}

std::string Seal(absl::string_view kind, absl::string_view session, uint64_t number,
                 absl::string_view bytes) {
  return Seal(kind, session, number, {&bytes, 1});
}

// A description of a state: its own seal, the state's, size, a space, label.
std::string Describe(absl::string_view session, const SessionStore::StateInfo& info,
                     absl::string_view state_seal) {
  const std::string body = absl::StrCat(state_seal, info.bytes, " ", info.label);
  return Seal("info", session, info.position, body) + body;
}

// The other way; the state's seal too if it is wanted.
absl::StatusOr<SessionStore::StateInfo> ReadInfo(absl::string_view session,
                                                 absl::string_view position, absl::string_view text,
                                                 absl::string_view* state_seal = nullptr) {
  SessionStore::StateInfo info = {};
  const absl::string_view body = text.substr(std::min(kSeal, text.size()));
  if (!absl::SimpleAtoi(position, &info.position) || body.size() < kSeal ||
      Seal("info", session, info.position, body) != text.substr(0, kSeal)) {
    return Damaged(session, absl::StrCat("the description of a state"));
  }
  if (state_seal != nullptr) *state_seal = body.substr(0, kSeal);
  const std::pair<absl::string_view, absl::string_view> halves =
      absl::StrSplit(body.substr(kSeal), absl::MaxSplits(' ', 1));
  if (!absl::SimpleAtoi(halves.first, &info.bytes)) {
    return Damaged(session, "the description of a state");
  }
  info.label = std::string(halves.second);
  return info;
}

// A script's answer that is not OK.
absl::Status FromAnswer(const redisReply& reply, int64_t max_bytes) {
  const auto word = [&](size_t i) {
    return i < reply.elements ? Text(Element(reply, i)) : absl::string_view();
  };
  const absl::string_view what = word(0);
  const std::string session = absl::StrCat("session ", word(1));
  if (what == "NOT_FOUND") return absl::NotFoundError(absl::StrCat(session, ": not in the store"));
  if (what == "NO_STATE") return absl::NotFoundError(absl::StrCat(session, ": no such state"));
  if (what == "ABORTED") {
    return absl::AbortedError(
        absl::StrCat(session, ": epoch ", word(2), " is over, it is ", word(3), " now"));
  }
  if (what == "GAP") {
    return absl::InvalidArgumentError(
        absl::StrCat(session, ": record ", word(2), " given, expected ", word(3)));
  }
  if (what == "OTHER") {
    return absl::FailedPreconditionError(
        absl::StrCat(session, ": record ", word(2), " is another already"));
  }
  if (what == "TRIMMED") {
    return absl::FailedPreconditionError(
        absl::StrCat(session, ": record ", word(2), " is trimmed already"));
  }
  if (what == "NO_RECORD") {
    return absl::InvalidArgumentError(absl::StrCat(
        session, ": record ", word(2), " given, expected one of [", word(3), ", ", word(4), ")"));
  }
  if (what == "QUOTA") {
    return absl::ResourceExhaustedError(
        absl::StrCat("the store holds ", word(2), " bytes, at most ", max_bytes, " are allowed"));
  }
  return Damaged(word(1), "what Redis holds of it");
}

// Whether the server syncs each write before it answers, by its CONFIG GET.
absl::Status CheckSyncs(const redisReply& settings) {
  std::string found;
  bool appends = false, always = false;
  for (size_t i = 0; i + 1 < settings.elements; i += 2) {
    const absl::string_view name = Text(Element(settings, i));
    const absl::string_view value = Text(Element(settings, i + 1));
    if (name == "appendonly") appends = value == "yes";
    if (name == "appendfsync") always = value == "always";
    if (name == "appendonly" || name == "appendfsync")
      absl::StrAppend(&found, " ", name, " ", value);
  }
  if (appends && always) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("SYNC sessions: their Redis has", found,
                   ", expected appendonly yes and appendfsync always, or replicas=N in its URL"));
}

}  // namespace

absl::StatusOr<std::unique_ptr<RedisStore>> RedisStore::Open(const RedisOptions& options) {
  std::unique_ptr<RedisStore> store(new RedisStore(options));
  const RedisConnection::Command ask = {"INFO", "memory"};
  absl::MutexLock lock(&store->mu_);
  const absl::StatusOr<std::vector<Reply>> memory = store->connection_.Run({&ask, 1});
  if (!memory.ok()) return memory.status();
  for (const absl::string_view line : absl::StrSplit(Text(*memory->front()), "\r\n")) {
    if (absl::StartsWith(line, "maxmemory_policy:allkeys")) {
      return absl::FailedPreconditionError(
          absl::StrCat("the sessions' Redis may evict them: it has ", line,
                       ", expected noeviction or a volatile policy"));
    }
  }
  FaultPoint("redis.opened");
  return store;
}

absl::StatusOr<RedisStore::Reply> RedisStore::Call(absl::string_view script,
                                                   absl::Span<const absl::string_view> arguments,
                                                   Durability durability) {
  const std::string body = absl::StrCat(redis_scripts::kCommon, script);
  std::vector<RedisConnection::Command> commands = {{"EVAL", body, "1", options_.address.prefix}};
  commands[0].insert(commands[0].end(), arguments.begin(), arguments.end());
  const std::string replicas = absl::StrCat(options_.address.replicas);
  absl::MutexLock lock(&mu_);
  if (durability == Durability::kSync) {
    if (options_.address.replicas > 0) {
      // Everything waits with a call that waits for a replica: long only for the first in vain.
      commands.push_back({"WAIT", replicas, replicated_ ? kReplicaPatience : kShortPatience});
    } else {
      commands.push_back({"CONFIG", "GET", "append*"});
    }
  }
  absl::StatusOr<std::vector<Reply>> replies = connection_.Run(commands);
  if (!replies.ok()) return replies.status();
  Reply& answer = replies->front();
  if (answer->type != REDIS_REPLY_ARRAY || answer->elements == 0 ||
      Text(Element(*answer, 0)) != "OK") {
    return FromAnswer(*answer, options_.max_bytes);
  }
  if (durability == Durability::kSync) {
    const redisReply& durable = *replies->back();
    if (options_.address.replicas == 0) {
      if (absl::Status s = CheckSyncs(durable); !s.ok()) return s;
    } else if (replicated_ = durable.integer >= options_.address.replicas; !replicated_) {
      return absl::UnavailableError(
          absl::StrCat("SYNC sessions: ", durable.integer, " of ", options_.address.replicas,
                       " replicas have the write: repeat the call later"));
    }
  }
  return std::move(answer);
}

absl::StatusOr<uint64_t> RedisStore::Acquire(absl::string_view session) {
  FaultPoint("redis.acquire.before");
  const absl::StatusOr<Reply> reply = Call(redis_scripts::kAcquire, {session});
  FaultPoint("redis.acquire.after");
  if (!reply.ok()) return reply.status();
  uint64_t epoch = 0;
  if (!absl::SimpleAtoi(Text(Element(**reply, 1)), &epoch)) return Damaged(session, "its epoch");
  return epoch;
}

absl::Status RedisStore::Append(absl::string_view session, uint64_t epoch, const Record& record,
                                Durability durability) {
  const Entry entry{std::string(session), epoch, record};
  return AppendAll({&entry, 1}, durability);
}

absl::Status RedisStore::AppendAll(absl::Span<const Entry> entries, Durability durability) {
  std::vector<std::string> words = {absl::StrCat(options_.max_bytes)};
  for (const Entry& entry : entries) {
    const Record& record = entry.record;
    words.push_back(entry.session);
    words.push_back(absl::StrCat(entry.epoch));
    words.push_back(absl::StrCat(record.sequence));
    words.push_back(Seal("record", entry.session, record.sequence, record.bytes) + record.bytes);
  }
  const std::vector<absl::string_view> arguments(words.begin(), words.end());
  FaultPoint("redis.append.before");
  absl::Status status = Call(redis_scripts::kAppend, arguments, durability).status();
  FaultPoint("redis.append.after");
  return status;
}

absl::Status RedisStore::TrimLog(absl::string_view session, uint64_t epoch, const Record& record,
                                 Durability durability) {
  const std::string sealed = Seal("record", session, record.sequence, record.bytes) + record.bytes;
  return Call(redis_scripts::kTrimLog,
              {session, absl::StrCat(epoch), absl::StrCat(record.sequence), sealed}, durability)
      .status();
}

absl::StatusOr<std::vector<SessionStore::Record>> RedisStore::ReadLog(absl::string_view session,
                                                                      uint64_t first,
                                                                      uint64_t most) {
  const absl::StatusOr<Reply> reply =
      Call(redis_scripts::kReadLog,
           {session, absl::StrCat(first), most == kAll ? "all" : absl::StrCat(most)});
  if (!reply.ok()) return reply.status();
  FaultPoint("redis.read_log");
  if (!absl::SimpleAtoi(Text(Element(**reply, 1)), &first)) {
    return Damaged(session, "where its log begins");
  }
  const redisReply& sealed = Element(**reply, 2);
  std::vector<Record> records;
  for (size_t i = 0; i < sealed.elements; ++i) {
    const absl::string_view value = Text(Element(sealed, i));
    const absl::string_view bytes = value.substr(std::min(kSeal, value.size()));
    if (Seal("record", session, first + i, bytes) != value.substr(0, kSeal)) {
      return Damaged(session, absl::StrCat("record ", first + i));
    }
    records.push_back({first + i, std::string(bytes)});
  }
  return records;
}

absl::Status RedisStore::PutState(absl::string_view session, uint64_t epoch, const StateInfo& info,
                                  absl::Span<const absl::string_view> parts,
                                  Durability durability) {
  std::string state;
  for (const absl::string_view part : parts) state.append(part.data(), part.size());
  if (state.size() > kMaxState) {
    return absl::ResourceExhaustedError(absl::StrCat("session ", session, ": a state of ",
                                                     state.size(), " bytes given, Redis takes ",
                                                     kMaxState));
  }
  StateInfo own = info;
  own.bytes = state.size();
  FaultPoint("redis.put_state.before");
  absl::Status status =
      Call(redis_scripts::kPutState,
           // States are caches: they leave the last tenth to logs.
           {session, absl::StrCat(epoch),
            absl::StrCat(options_.max_bytes - options_.max_bytes / 10), absl::StrCat(info.position),
            Describe(session, own, Seal("state", session, info.position, state)), state},
           durability)
          .status();
  FaultPoint("redis.put_state.after");
  return status;
}

absl::StatusOr<std::string> RedisStore::GetState(absl::string_view session, uint64_t position,
                                                 StateInfo* info) {
  const absl::StatusOr<Reply> reply =
      Call(redis_scripts::kGetState, {session, absl::StrCat(position)});
  if (!reply.ok()) return reply.status();
  absl::string_view seal;
  absl::StatusOr<StateInfo> described =
      ReadInfo(session, Text(Element(**reply, 1)), Text(Element(**reply, 2)), &seal);
  if (!described.ok()) return described.status();
  *info = *std::move(described);
  const absl::string_view state = Text(Element(**reply, 3));
  if (Seal("state", session, info->position, state) != seal) {
    return Damaged(session, absl::StrCat("the state at position ", info->position));
  }
  return std::string(state);
}

absl::StatusOr<std::vector<SessionStore::StateInfo>> RedisStore::ListStates(
    absl::string_view session) {
  const absl::StatusOr<Reply> reply = Call(redis_scripts::kListStates, {session});
  if (!reply.ok()) return reply.status();
  const redisReply& pairs = Element(**reply, 1);
  std::vector<StateInfo> infos;
  for (size_t i = 0; i + 1 < pairs.elements; i += 2) {
    absl::StatusOr<StateInfo> info =
        ReadInfo(session, Text(Element(pairs, i)), Text(Element(pairs, i + 1)));
    if (!info.ok()) return info.status();
    infos.push_back(*std::move(info));
  }
  std::sort(infos.begin(), infos.end(),
            [](const StateInfo& a, const StateInfo& b) { return a.position < b.position; });
  return infos;
}

absl::Status RedisStore::DropState(absl::string_view session, uint64_t epoch, uint64_t position) {
  return Call(redis_scripts::kDropState, {session, absl::StrCat(epoch), absl::StrCat(position)})
      .status();
}

absl::Status RedisStore::SetExpiry(absl::string_view session, uint64_t epoch, uint64_t seconds) {
  return Call(redis_scripts::kSetExpiry, {session, absl::StrCat(epoch), absl::StrCat(seconds)})
      .status();
}

absl::StatusOr<std::vector<std::string>> RedisStore::ListExpired(uint64_t seconds, size_t limit) {
  const absl::StatusOr<Reply> reply =
      Call(redis_scripts::kListExpired, {absl::StrCat(seconds), absl::StrCat(limit)});
  if (!reply.ok()) return reply.status();
  const redisReply& ids = Element(**reply, 1);
  std::vector<std::string> out;
  for (size_t i = 0; i < ids.elements; ++i) out.emplace_back(Text(Element(ids, i)));
  return out;
}

absl::Status RedisStore::Delete(absl::string_view session, uint64_t epoch) {
  FaultPoint("redis.delete.before");
  absl::Status status = Call(redis_scripts::kDelete, {session, absl::StrCat(epoch)}).status();
  FaultPoint("redis.delete.after");
  return status;
}

absl::StatusOr<std::vector<std::string>> RedisStore::List(absl::string_view prefix,
                                                          absl::string_view after, size_t limit) {
  const std::string first =
      after >= prefix && !after.empty() ? absl::StrCat("(", after) : absl::StrCat("[", prefix);
  // No id holds a byte of 255.
  const std::string last = prefix.empty() ? "+" : absl::StrCat("(", prefix, "\xff");
  const absl::StatusOr<Reply> reply =
      Call(redis_scripts::kList,
           {prefix.empty() && after.empty() ? absl::string_view("-") : absl::string_view(first),
            last, absl::StrCat(limit)});
  if (!reply.ok()) return reply.status();
  const redisReply& ids = Element(**reply, 1);
  std::vector<std::string> out;
  for (size_t i = 0; i < ids.elements; ++i) out.emplace_back(Text(Element(ids, i)));
  return out;
}

SessionStore::Usage RedisStore::usage() {
  const std::string index = options_.address.prefix + "index";
  const std::string sums = options_.address.prefix + "usage";
  const RedisConnection::Command commands[] = {{"ZCARD", index}, {"HMGET", sums, "log", "state"}};
  absl::MutexLock lock(&mu_);
  const absl::StatusOr<std::vector<Reply>> replies = connection_.Run(commands);
  if (!replies.ok()) return usage_;
  const auto sum = [&](size_t i) {
    uint64_t bytes = 0;
    const redisReply& reply = Element(*replies->back(), i);
    return reply.type == REDIS_REPLY_STRING && absl::SimpleAtoi(Text(reply), &bytes) ? bytes : 0;
  };
  usage_.sessions = static_cast<uint64_t>(replies->front()->integer);
  usage_.log_bytes = sum(0);
  usage_.state_bytes = usage_.state_file_bytes = sum(1);
  return usage_;
}

// A write after all others, as durable: those are then.
absl::Status RedisStore::Flush() {
  return Call("redis.call('HINCRBY', p .. 'usage', 'state', 0)\nreturn {'OK'}", {},
              Durability::kSync)
      .status();
}

}  // namespace attnd
