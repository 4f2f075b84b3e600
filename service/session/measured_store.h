// A store whose calls are counted.
#ifndef ATTND_SERVICE_SESSION_MEASURED_STORE_H_
#define ATTND_SERVICE_SESSION_MEASURED_STORE_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "service/metrics/session_metrics.h"
#include "service/session/session_store.h"

namespace attnd {

class MeasuredStore final : public SessionStore {
 public:
  // `metrics` must outlive the store.
  MeasuredStore(std::unique_ptr<SessionStore> store, SessionMetrics& metrics)
      : store_(std::move(store)), metrics_(metrics) {}

  absl::StatusOr<uint64_t> Acquire(absl::string_view session) override;
  absl::Status Append(absl::string_view session, uint64_t epoch, const Record& record,
                      Durability durability) override;
  absl::Status AppendAll(absl::Span<const Entry> entries, Durability durability) override;
  absl::Status TrimLog(absl::string_view session, uint64_t epoch, const Record& record,
                       Durability durability) override;
  absl::StatusOr<std::vector<Record>> ReadLog(absl::string_view session, uint64_t first,
                                              uint64_t most) override;
  absl::Status PutState(absl::string_view session, uint64_t epoch, const StateInfo& info,
                        absl::Span<const absl::string_view> parts, Durability durability) override;
  absl::StatusOr<std::string> GetState(absl::string_view session, uint64_t position,
                                       StateInfo* info) override;
  absl::StatusOr<std::vector<StateInfo>> ListStates(absl::string_view session) override;
  absl::Status DropState(absl::string_view session, uint64_t epoch, uint64_t position) override;
  absl::Status SetExpiry(absl::string_view session, uint64_t epoch, uint64_t seconds) override;
  absl::StatusOr<std::vector<std::string>> ListExpired(uint64_t seconds, size_t limit) override;
  absl::Status Delete(absl::string_view session, uint64_t epoch) override;
  absl::StatusOr<std::vector<std::string>> List(absl::string_view prefix, absl::string_view after,
                                                size_t limit) override;
  Usage usage() override { return store_->usage(); }
  uint64_t CountSessions() override { return store_->CountSessions(); }
  absl::Status Flush() override;

 private:
  absl::Status Note(absl::string_view op, absl::Status status) {
    metrics_.RecordStoreCall(op, status);
    return status;
  }
  template <typename T>
  absl::StatusOr<T> Note(absl::string_view op, absl::StatusOr<T> result) {
    metrics_.RecordStoreCall(op, result.status());
    return result;
  }
  // A write of `bytes`, timed where it waits for the medium.
  template <typename Write>
  absl::Status Timed(absl::string_view op, Durability durability, prometheus::Counter& counter,
                     size_t bytes, Write write);

  const std::unique_ptr<SessionStore> store_;
  SessionMetrics& metrics_;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_MEASURED_STORE_H_
