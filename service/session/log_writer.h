// One thread that brings records to the store: what many sessions append at a time is one write.
#ifndef ATTND_SERVICE_SESSION_LOG_WRITER_H_
#define ATTND_SERVICE_SESSION_LOG_WRITER_H_

#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/any_invocable.h"
#include "absl/synchronization/mutex.h"
#include "service/session/session_store.h"

namespace attnd {

class LogWriter {
 public:
  using Done = absl::AnyInvocable<void(absl::Status)>;

  // `store` must outlive the writer.
  explicit LogWriter(SessionStore& store);
  // What was handed over is written first.
  ~LogWriter();

  // Appends the record in its turn; `done` is called on the writer's thread when it is as durable
  // as asked. Records of one session are written in the order of these calls.
  void Write(SessionStore::Entry entry, Durability durability, Done done) ABSL_LOCKS_EXCLUDED(mu_);

  // Runs on the writer's thread, behind what was handed over before: reads of the store, say.
  void Run(absl::AnyInvocable<void()> work) ABSL_LOCKS_EXCLUDED(mu_);

 private:
  struct Item {
    SessionStore::Entry entry;
    Durability durability = Durability::kNone;
    Done done;
    absl::AnyInvocable<void()> work;  // Instead of a record.
  };

  void Loop() ABSL_LOCKS_EXCLUDED(mu_);
  void WriteRun(std::vector<Item>& items, size_t begin, size_t end);

  SessionStore& store_;
  absl::Mutex mu_;
  std::vector<Item> items_ ABSL_GUARDED_BY(mu_);
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_LOG_WRITER_H_
