#include "service/session/memory_store.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace attnd {
namespace {

absl::Status NoSession(absl::string_view session) {
  return absl::NotFoundError(absl::StrCat("session ", session, ": not in the store"));
}

}  // namespace

absl::StatusOr<uint64_t> MemoryStore::Acquire(absl::string_view session) {
  absl::MutexLock lock(&mu_);
  return ++sessions_[std::string(session)].epoch;
}

absl::StatusOr<MemoryStore::Kept*> MemoryStore::Find(absl::string_view session, uint64_t epoch) {
  const auto at = sessions_.find(session);
  if (at == sessions_.end()) return NoSession(session);
  if (epoch < at->second.epoch) {
    return absl::AbortedError(absl::StrCat("session ", session, ": epoch ", epoch,
                                           " is over, it is ", at->second.epoch, " now"));
  }
  return &at->second;
}

absl::Status MemoryStore::AppendLocked(absl::string_view session, uint64_t epoch,
                                       const Record& record) {
  const absl::StatusOr<Kept*> kept = Find(session, epoch);
  if (!kept.ok()) return kept.status();
  const uint64_t first = (*kept)->first;
  std::deque<std::string>& log = (*kept)->log;
  const uint64_t end = first + log.size();
  if (record.sequence > end) {
    return absl::InvalidArgumentError(
        absl::StrCat("session ", session, ": record ", record.sequence, " given, expected ", end));
  }
  if (record.sequence == end) {
    log.push_back(record.bytes);
  } else if (record.sequence < first || log[record.sequence - first] != record.bytes) {
    return absl::FailedPreconditionError(
        absl::StrCat("session ", session, ": record ", record.sequence, " is another already"));
  }
  return absl::OkStatus();
}

absl::Status MemoryStore::Append(absl::string_view session, uint64_t epoch, const Record& record,
                                 Durability /*durability*/) {
  absl::MutexLock lock(&mu_);
  return AppendLocked(session, epoch, record);
}

absl::Status MemoryStore::AppendAll(absl::Span<const Entry> entries, Durability /*durability*/) {
  absl::MutexLock lock(&mu_);
  std::map<std::string, Kept, std::less<>> before;
  for (const Entry& entry : entries) {
    const auto at = sessions_.find(entry.session);
    if (at != sessions_.end()) before.insert(*at);
    absl::Status s = AppendLocked(entry.session, entry.epoch, entry.record);
    if (s.ok()) continue;
    for (auto& [id, kept] : before) sessions_[id] = std::move(kept);
    return s;
  }
  return absl::OkStatus();
}

absl::Status MemoryStore::TrimLog(absl::string_view session, uint64_t epoch, const Record& record,
                                  Durability /*durability*/) {
  absl::MutexLock lock(&mu_);
  const absl::StatusOr<Kept*> kept = Find(session, epoch);
  if (!kept.ok()) return kept.status();
  uint64_t& first = (*kept)->first;
  std::deque<std::string>& log = (*kept)->log;
  if (record.sequence < first || record.sequence >= first + log.size()) {
    return absl::InvalidArgumentError(absl::StrCat("session ", session, ": record ",
                                                   record.sequence, " given, expected one of [",
                                                   first, ", ", first + log.size(), ")"));
  }
  for (; first < record.sequence; ++first) log.pop_front();
  log.front() = record.bytes;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<SessionStore::Record>> MemoryStore::ReadLog(absl::string_view session,
                                                                       uint64_t first,
                                                                       uint64_t most) {
  absl::MutexLock lock(&mu_);
  const auto at = sessions_.find(session);
  if (at == sessions_.end()) return NoSession(session);
  std::vector<Record> records;
  const auto& [epoch, expiry, begin, log, states] = at->second;
  for (uint64_t i = std::max(first, begin); i < begin + log.size() && records.size() < most; ++i)
    records.push_back({i, log[i - begin]});
  return records;
}

absl::Status MemoryStore::PutState(absl::string_view session, uint64_t epoch, const StateInfo& info,
                                   absl::Span<const absl::string_view> parts,
                                   Durability /*durability*/) {
  std::string bytes;
  for (const absl::string_view part : parts) bytes.append(part.data(), part.size());
  absl::MutexLock lock(&mu_);
  const absl::StatusOr<Kept*> kept = Find(session, epoch);
  if (!kept.ok()) return kept.status();
  StateInfo own = info;
  own.bytes = bytes.size();
  (*kept)->states[info.position] = {own, std::move(bytes)};
  return absl::OkStatus();
}

absl::StatusOr<std::string> MemoryStore::GetState(absl::string_view session, uint64_t position,
                                                  StateInfo* info) {
  absl::MutexLock lock(&mu_);
  const auto at = sessions_.find(session);
  if (at == sessions_.end()) return NoSession(session);
  const auto after = at->second.states.upper_bound(position);
  if (after == at->second.states.begin()) {
    return absl::NotFoundError(absl::StrCat("session ", session, ": no state up to ", position));
  }
  const auto& [own, bytes] = std::prev(after)->second;
  *info = own;
  return bytes;
}

absl::StatusOr<std::vector<SessionStore::StateInfo>> MemoryStore::ListStates(
    absl::string_view session) {
  absl::MutexLock lock(&mu_);
  const auto at = sessions_.find(session);
  if (at == sessions_.end()) return NoSession(session);
  std::vector<StateInfo> infos;
  for (const auto& [position, state] : at->second.states) infos.push_back(state.first);
  return infos;
}

absl::Status MemoryStore::DropState(absl::string_view session, uint64_t epoch, uint64_t position) {
  absl::MutexLock lock(&mu_);
  const absl::StatusOr<Kept*> kept = Find(session, epoch);
  if (kept.ok()) (*kept)->states.erase(position);
  return kept.status();
}

absl::Status MemoryStore::SetExpiry(absl::string_view session, uint64_t epoch, uint64_t seconds) {
  absl::MutexLock lock(&mu_);
  const absl::StatusOr<Kept*> kept = Find(session, epoch);
  if (kept.ok()) (*kept)->expiry = seconds;
  return kept.status();
}

absl::StatusOr<std::vector<std::string>> MemoryStore::ListExpired(uint64_t seconds, size_t limit) {
  absl::MutexLock lock(&mu_);
  std::vector<std::pair<uint64_t, std::string>> found;
  for (const auto& [id, kept] : sessions_) {
    if (kept.expiry > 0 && kept.expiry <= seconds) found.emplace_back(kept.expiry, id);
  }
  std::sort(found.begin(), found.end());
  std::vector<std::string> ids;
  for (size_t i = 0; i < std::min(limit, found.size()); ++i) ids.push_back(found[i].second);
  return ids;
}

absl::Status MemoryStore::Delete(absl::string_view session, uint64_t epoch) {
  absl::MutexLock lock(&mu_);
  const absl::StatusOr<Kept*> kept = Find(session, epoch);
  if (absl::IsNotFound(kept.status())) return absl::OkStatus();
  if (kept.ok()) sessions_.erase(sessions_.find(session));
  return kept.status();
}

absl::StatusOr<std::vector<std::string>> MemoryStore::List(absl::string_view prefix,
                                                           absl::string_view after, size_t limit) {
  absl::MutexLock lock(&mu_);
  std::vector<std::string> ids;
  for (auto at = sessions_.lower_bound(prefix);
       at != sessions_.end() && ids.size() < limit && absl::StartsWith(at->first, prefix); ++at) {
    if (at->first > after) ids.push_back(at->first);
  }
  return ids;
}

uint64_t MemoryStore::CountSessions() {
  absl::MutexLock lock(&mu_);
  return sessions_.size();
}

SessionStore::Usage MemoryStore::usage() {
  absl::MutexLock lock(&mu_);
  Usage usage = {};
  usage.sessions = sessions_.size();
  for (const auto& [id, kept] : sessions_) {
    for (const std::string& record : kept.log) usage.log_bytes += record.size();
    for (const auto& [position, state] : kept.states) usage.state_bytes += state.second.size();
  }
  usage.state_file_bytes = usage.state_bytes;
  return usage;
}

}  // namespace attnd
