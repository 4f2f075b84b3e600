// Logs of operators' sessions without their first inputs: one record tells what the first ones did.
#include <utility>

#include "service/session/session_log.h"

namespace attnd {

uint64_t SessionLog::BytesBehind(uint64_t position) const {
  const size_t next = path_.StepsUpTo(position);
  return next == path_.steps().size() ? 0 : log_bytes_ - path_.steps()[next].offset;
}

SessionLog::Trim SessionLog::TrimmedTo(uint64_t position) const {
  const absl::Span<const InputPath::Step> kept = path_.steps().subspan(path_.StepsUpTo(position));
  Trim trim;
  trim.position = position;
  // Its place is that of the last record whose inputs go.
  trim.first = (kept.empty() ? size_ : kept.front().record) - 1;
  trim.record.set_idempotency_key(creation_key_);
  trim.record.set_request_hash(creation_.hash);
  v1::SessionRecord::Trimmed& trimmed = *trim.record.mutable_trimmed();
  *trimmed.mutable_created() = created_;
  trimmed.mutable_created()->set_begin_hash(path_.HashAt(position));
  trimmed.set_size(size_);
  trimmed.set_log_bytes(BytesBehind(position));
  const uint64_t dropped = log_bytes_ - trimmed.log_bytes();
  for (const InputPath::Step& step : kept) {
    v1::SessionRecord::Trimmed::Step& out = *trimmed.add_steps();
    out.set_end(step.end);
    out.set_record(step.record);
    out.set_hash(step.hash);
    out.set_offset(step.offset - dropped);
  }
  const auto add = [&](const std::string& key, const Request& request) {
    v1::SessionRecord::Trimmed::Request& out = *trimmed.add_requests();
    out.set_key(key);
    out.set_hash(request.hash);
    out.set_position(request.position);
    out.set_end(request.end);
  };
  for (const std::string& key : order_) add(key, keyed_.find(key)->second);
  for (const auto& [begin, request] : unkeyed_) add("", request);
  for (const auto& [name, snapshot] : snapshots_) {
    v1::SessionRecord::Trimmed::Snapshot& out = *trimmed.add_snapshots();
    out.set_snapshot(name);
    out.set_position(snapshot.position());
    out.set_chain_hash(snapshot.chain_hash);
    out.set_shared(snapshot.position() >= position &&
                   path_.HashAt(snapshot.position()) == snapshot.chain_hash);
  }
  return trim;
}

void SessionLog::ApplyTrimmed(const v1::SessionRecord& record) {
  const v1::SessionRecord::Trimmed& trimmed = record.trimmed();
  SessionLog log;
  log.created_ = trimmed.created();
  log.chain_hash_ = ChainHashOf(log.created_.seed(), {});
  log.marks_ = {log.chain_hash_};
  log.creation_.hash = record.request_hash();
  log.creation_key_ = record.idempotency_key();
  log.path_ = InputPath(log.created_.state().position(), log.created_.begin_hash());
  log.created_.clear_state();
  for (const auto& step : trimmed.steps()) {
    log.path_.Push({step.end(), step.record(), step.hash(), step.offset()});
  }
  for (const auto& request : trimmed.requests()) {
    const Request known{request.hash(), request.position(), request.end()};
    if (request.key().empty()) {
      log.unkeyed_[request.position()] = known;
    } else {
      log.keyed_[request.key()] = known;
      log.order_.push_back(request.key());
    }
  }
  for (const auto& snapshot : trimmed.snapshots()) {
    auto path = std::make_shared<InputPath>(snapshot.position(), snapshot.chain_hash());
    if (snapshot.shared()) {
      *path = log.path_;
      path->Truncate(snapshot.position());
    }
    log.snapshots_[snapshot.snapshot()] = {nullptr, snapshot.chain_hash(), std::move(path)};
  }
  log.size_ = trimmed.size();
  log.log_bytes_ = trimmed.log_bytes();
  log.first_record_ =
      (log.path_.steps().empty() ? log.size_ : log.path_.steps().front().record) - 1;
  *this = std::move(log);
}

}  // namespace attnd
