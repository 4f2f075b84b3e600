#include "service/session/measured_store.h"

#include "absl/time/clock.h"

namespace attnd {

template <typename Write>
absl::Status MeasuredStore::Timed(absl::string_view op, Durability durability,
                                  prometheus::Counter& counter, size_t bytes, Write write) {
  const absl::Time start = absl::Now();
  absl::Status status = Note(op, write());
  if (!status.ok()) return status;
  counter.Increment(static_cast<double>(bytes));
  if (durability == Durability::kSync) {
    metrics_.sync.Observe(absl::ToDoubleSeconds(absl::Now() - start));
  }
  return status;
}

absl::StatusOr<uint64_t> MeasuredStore::Acquire(absl::string_view session) {
  return Note("acquire", store_->Acquire(session));
}

absl::Status MeasuredStore::Append(absl::string_view session, uint64_t epoch, const Record& record,
                                   Durability durability) {
  return Timed("append", durability, metrics_.log_bytes, record.bytes.size(),
               [&] { return store_->Append(session, epoch, record, durability); });
}

absl::Status MeasuredStore::AppendAll(absl::Span<const Entry> entries, Durability durability) {
  size_t bytes = 0;
  for (const Entry& entry : entries) bytes += entry.record.bytes.size();
  return Timed("append", durability, metrics_.log_bytes, bytes,
               [&] { return store_->AppendAll(entries, durability); });
}

absl::Status MeasuredStore::TrimLog(absl::string_view session, uint64_t epoch, const Record& record,
                                    Durability durability) {
  return Timed("trim_log", durability, metrics_.log_bytes, record.bytes.size(),
               [&] { return store_->TrimLog(session, epoch, record, durability); });
}

absl::StatusOr<std::vector<SessionStore::Record>> MeasuredStore::ReadLog(absl::string_view session,
                                                                         uint64_t first,
                                                                         uint64_t most) {
  return Note("read_log", store_->ReadLog(session, first, most));
}

absl::Status MeasuredStore::PutState(absl::string_view session, uint64_t epoch,
                                     const StateInfo& info,
                                     absl::Span<const absl::string_view> parts,
                                     Durability durability) {
  size_t bytes = 0;
  for (const absl::string_view part : parts) bytes += part.size();
  return Timed("put_state", durability, metrics_.state_bytes, bytes,
               [&] { return store_->PutState(session, epoch, info, parts, durability); });
}

absl::StatusOr<std::string> MeasuredStore::GetState(absl::string_view session, uint64_t position,
                                                    StateInfo* info) {
  return Note("get_state", store_->GetState(session, position, info));
}

absl::StatusOr<std::vector<SessionStore::StateInfo>> MeasuredStore::ListStates(
    absl::string_view session) {
  return Note("list_states", store_->ListStates(session));
}

absl::Status MeasuredStore::DropState(absl::string_view session, uint64_t epoch,
                                      uint64_t position) {
  return Note("drop_state", store_->DropState(session, epoch, position));
}

absl::Status MeasuredStore::SetExpiry(absl::string_view session, uint64_t epoch, uint64_t seconds) {
  return Note("set_expiry", store_->SetExpiry(session, epoch, seconds));
}

absl::StatusOr<std::vector<std::string>> MeasuredStore::ListExpired(uint64_t seconds,
                                                                    size_t limit) {
  return Note("list_expired", store_->ListExpired(seconds, limit));
}

absl::Status MeasuredStore::Delete(absl::string_view session, uint64_t epoch) {
  return Note("delete", store_->Delete(session, epoch));
}

absl::StatusOr<std::vector<std::string>> MeasuredStore::List(absl::string_view prefix,
                                                             absl::string_view after,
                                                             size_t limit) {
  return Note("list", store_->List(prefix, after, limit));
}

absl::Status MeasuredStore::Flush() { return Note("flush", store_->Flush()); }

}  // namespace attnd
