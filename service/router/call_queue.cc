#include "service/router/call_queue.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace attnd {

absl::Status CallQueue::Push(CallList& one) {
  const QueuedCall& call = one.front();
  if (calls_ >= limits_.max_calls) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the queue is full: ", calls_, " calls wait, the limit is ", limits_.max_calls));
  }
  if (call.bytes > limits_.max_bytes - bytes_) {
    return absl::ResourceExhaustedError(absl::StrCat("the queue is full: ", bytes_,
                                                     " bytes wait, the call needs ", call.bytes,
                                                     ", the limit is ", limits_.max_bytes));
  }
  ++calls_;
  bytes_ += call.bytes;
  if (!call.batch_key.empty()) ++waiting_by_key_[call.batch_key];
  CallList& to = list(call.lane, static_cast<int>(call.priority));
  to.splice(to.end(), one);
  return absl::OkStatus();
}

void CallQueue::Unlink(CallList& from, CallList::iterator call, CallList& to) {
  --calls_;
  bytes_ -= call->bytes;
  if (!call->batch_key.empty()) {
    auto found = waiting_by_key_.find(call->batch_key);
    if (--found->second == 0) waiting_by_key_.erase(found);
  }
  to.splice(to.end(), from, call);
}

CallList CallQueue::Take(Lane lane, absl::Time now, CallList& dead) {
  CallList batch;
  // How many calls with the head's key are still to be met; the walk ends with the last of them.
  size_t partners = 0;
  int64_t bytes = 0;
  for (int priority = kPriorities - 1; priority >= 0; --priority) {
    CallList& waiting = list(lane, priority);
    for (auto call = waiting.begin(); call != waiting.end();) {
      const auto here = call++;
      const bool partner = !batch.empty() && here->batch_key == batch.front().batch_key;
      if (!batch.empty() && !partner) continue;
      if (partner) --partners;
      if (here->dead(now)) {
        Unlink(waiting, here, dead);
      } else if (batch.empty()) {
        if (!here->batch_key.empty()) partners = waiting_by_key_[here->batch_key] - 1;
        bytes = here->bytes;
        Unlink(waiting, here, batch);
      } else {
        bytes += here->bytes;
        if (bytes > limits_.max_batch_bytes) return batch;
        Unlink(waiting, here, batch);
      }
      if (!batch.empty() && (partners == 0 || batch.size() >= limits_.max_batch_calls))
        return batch;
    }
  }
  return batch;
}

CallList CallQueue::Sweep(absl::Time now) {
  CallList dead;
  for (auto& priorities : lists_) {
    for (CallList& waiting : priorities) {
      for (auto call = waiting.begin(); call != waiting.end();) {
        const auto here = call++;
        if (here->dead(now)) Unlink(waiting, here, dead);
      }
    }
  }
  return dead;
}

CallList CallQueue::Clear() {
  CallList all;
  for (auto& priorities : lists_) {
    for (CallList& waiting : priorities) all.splice(all.end(), waiting);
  }
  waiting_by_key_.clear();
  calls_ = 0;
  bytes_ = 0;
  return all;
}

bool CallQueue::empty(Lane lane) const {
  for (const CallList& waiting : lists_[static_cast<int>(lane)]) {
    if (!waiting.empty()) return false;
  }
  return true;
}

size_t CallQueue::calls(Lane lane) const {
  size_t calls = 0;
  for (const CallList& waiting : lists_[static_cast<int>(lane)]) calls += waiting.size();
  return calls;
}

size_t CallQueue::waiting(const std::string& batch_key) const {
  const auto found = waiting_by_key_.find(batch_key);
  return found == waiting_by_key_.end() ? 0 : found->second;
}

size_t CallQueue::calls(int priority) const {
  size_t calls = 0;
  for (const auto& priorities : lists_) calls += priorities[priority].size();
  return calls;
}

}  // namespace attnd
