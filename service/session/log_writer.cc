#include "service/session/log_writer.h"

#include <algorithm>
#include <utility>

#include "service/session/fault_point.h"

namespace attnd {

LogWriter::LogWriter(SessionStore& store) : store_(store), thread_([this] { Loop(); }) {}

LogWriter::~LogWriter() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  thread_.join();
}

void LogWriter::Write(SessionStore::Entry entry, Durability durability, Done done) {
  absl::MutexLock lock(&mu_);
  items_.push_back({std::move(entry), durability, std::move(done), nullptr});
}

void LogWriter::Run(absl::AnyInvocable<void()> work) {
  absl::MutexLock lock(&mu_);
  items_.push_back({{}, Durability::kNone, nullptr, std::move(work)});
}

void LogWriter::Loop() {
  for (;;) {
    std::vector<Item> items;
    {
      absl::MutexLock lock(&mu_);
      const auto wanted = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) {
        return stopping_ || !items_.empty();
      };
      mu_.Await(absl::Condition(&wanted));
      if (items_.empty()) return;
      items.swap(items_);
    }
    FaultPoint("writer.taken");
    for (size_t i = 0; i < items.size();) {
      if (items[i].work) {
        std::move(items[i++].work)();
        FaultPoint("writer.worked");
        continue;
      }
      size_t end = i;
      while (end < items.size() && !items[end].work) ++end;
      WriteRun(items, i, end);
      i = end;
    }
  }
}

// One write for all; where it is refused, one for each, so that a session with a stale epoch or a
// full quota takes no other down. A medium that could not do as asked in time is not asked again:
// only for those that ask less.
void LogWriter::WriteRun(std::vector<Item>& items, size_t begin, size_t end) {
  Durability durability = Durability::kNone;
  std::vector<SessionStore::Entry> entries;
  for (size_t i = begin; i < end; ++i) {
    durability = std::max(durability, items[i].durability);
    entries.push_back(items[i].entry);
  }
  FaultPoint("writer.batch.before");
  const absl::Status together = store_.AppendAll(entries, durability);
  FaultPoint("writer.batch.after");
  for (size_t i = begin; i < end; ++i) {
    const SessionStore::Entry& entry = items[i].entry;
    const bool settled = together.ok() || end - begin == 1 ||
                         (absl::IsUnavailable(together) && items[i].durability == durability);
    std::move(items[i].done)(
        settled ? together
                : store_.Append(entry.session, entry.epoch, entry.record, items[i].durability));
    FaultPoint("writer.told");
  }
}

}  // namespace attnd
