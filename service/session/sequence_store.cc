#include "service/session/sequence_store.h"

#include <utility>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "kernels/primitives/cpu/primitives_cpu.h"
#include "service/clock.h"
#include "service/overload.h"

namespace attnd {

struct SequenceStore::Sequence {
  Key key;
  NamedTensors states;
  int64_t bytes = 0;
  bool live = false;  // A call has started it, and none has ended it.
  bool busy = false;  // A turn is held.
  std::deque<Waiting> waiting;
  absl::Time idle_since;
  std::list<Sequence*>::iterator idle_place;  // Valid while live and not busy.
};

namespace {

std::string Subject(absl::string_view op, absl::string_view id) {
  return absl::StrCat(op, ": sequence_id: given ", absl::CEscape(id));
}

}  // namespace

SequenceStore::Turn::~Turn() {
  if (sequence_ != nullptr) store_->Leave(sequence_);
}

absl::Status SequenceStore::Turn::Commit(const NamedTensors& states, bool end) {
  return store_->Store(*sequence_, states, end);
}

SequenceStore::SequenceStore(const SequenceLimits& limits)
    : limits_(limits), expirer_([this] { ExpireLoop(); }) {}

SequenceStore::~SequenceStore() {
  {
    absl::MutexLock lock(&mu_);
    stopping_ = true;
  }
  expirer_.join();
}

void SequenceStore::Enter(absl::string_view op, absl::string_view id, bool start, Ready ready) {
  absl::ReleasableMutexLock lock(&mu_);
  const Key key(op, id);
  auto place = sequences_.find(key);
  if (place == sequences_.end()) {
    if (start && sequences_.size() >= limits_.max_sequences) {
      lock.Release();
      return ready(
          OverloadError(absl::StrCat(Subject(op, id), ", but ", limits_.max_sequences,
                                     " sequences are kept already, the limit: end some, or wait")));
    }
    auto sequence = std::make_shared<Sequence>();
    sequence->key = key;
    if (start) place = sequences_.emplace(key, sequence).first;
    absl::StatusOr<Turn> turn = Admit(sequence, start);
    lock.Release();
    return ready(std::move(turn));
  }
  const std::shared_ptr<Sequence> sequence = place->second;
  if (!sequence->busy) {
    absl::StatusOr<Turn> turn = Admit(sequence, start);
    lock.Release();
    return ready(std::move(turn));
  }
  if (sequence->waiting.size() >= limits_.max_waiting) {
    lock.Release();
    return ready(OverloadError(absl::StrCat(Subject(op, id), ", for which ", limits_.max_waiting,
                                            " calls wait already, the limit")));
  }
  sequence->waiting.push_back({start, std::move(ready)});
}

absl::StatusOr<SequenceStore::Turn> SequenceStore::Admit(const std::shared_ptr<Sequence>& sequence,
                                                         bool start) {
  if (!start && !sequence->live) {
    return absl::InvalidArgumentError(
        absl::StrCat(Subject(sequence->key.first, sequence->key.second),
                     ", expected a sequence under way: the first call of a sequence sets "
                     "sequence_start (one that "
                     "ended, or was idle for ",
                     absl::FormatDuration(limits_.idle), ", starts anew)"));
  }
  if (sequence->live) idle_.erase(sequence->idle_place);
  sequence->busy = true;
  return Turn(this, sequence, start ? NamedTensors() : sequence->states);
}

void SequenceStore::Leave(const std::shared_ptr<Sequence>& sequence) {
  std::vector<std::pair<Ready, absl::StatusOr<Turn>>> next;
  {
    absl::MutexLock lock(&mu_);
    sequence->busy = false;
    if (sequence->live) {
      sequence->idle_since = MonotonicNow();
      sequence->idle_place = idle_.insert(idle_.end(), sequence.get());
    }
    while (!sequence->busy && !sequence->waiting.empty()) {
      Waiting waiting = std::move(sequence->waiting.front());
      sequence->waiting.pop_front();
      next.emplace_back(std::move(waiting.ready), Admit(sequence, waiting.start));
    }
    if (!sequence->busy && !sequence->live) sequences_.erase(sequence->key);
  }
  for (auto& [ready, turn] : next) ready(std::move(turn));
}

absl::Status SequenceStore::Store(Sequence& sequence, const NamedTensors& states, bool end) {
  // Copies, because outputs may be views on the memory of a whole batch.
  NamedTensors copies;
  int64_t bytes = 0;
  if (!end) {
    for (const auto& [name, tensor] : states) {
      absl::StatusOr<Tensor> copy = AllocateHost(tensor.dtype(), tensor.shape());
      if (!copy.ok()) return copy.status();
      cpu::Copy(tensor, *copy);
      bytes += copy->byte_size();
      copies.Set(name, *std::move(copy));
    }
  }
  absl::MutexLock lock(&mu_);
  if (bytes > sequence.bytes && bytes_ - sequence.bytes + bytes > limits_.max_bytes) {
    return OverloadError(absl::StrCat(Subject(sequence.key.first, sequence.key.second),
                                      " with a state of ", bytes,
                                      " bytes, but the states of all sequences may have ",
                                      limits_.max_bytes, " bytes and have ", bytes_));
  }
  bytes_ += bytes - sequence.bytes;
  sequence.bytes = bytes;
  std::swap(sequence.states, copies);  // What was there is freed outside the lock.
  sequence.live = !end;
  return absl::OkStatus();
}

void SequenceStore::ExpireLoop() {
  absl::MutexLock lock(&mu_);
  const auto woken = [this]()
                         ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return stopping_ || !idle_.empty(); };
  while (!stopping_) {
    mu_.Await(absl::Condition(&woken));
    const absl::Time now = MonotonicNow();
    while (!idle_.empty() && idle_.front()->idle_since + limits_.idle <= now) {
      Sequence& sequence = *idle_.front();
      idle_.pop_front();
      bytes_ -= sequence.bytes;
      ++expired_;
      const Key key = sequence.key;  // A copy: erasing by a reference into the entry is not.
      sequences_.erase(key);
    }
    if (!idle_.empty()) {
      const absl::Duration left = idle_.front()->idle_since + limits_.idle - now;
      mu_.AwaitWithTimeout(absl::Condition(&stopping_), left);
    }
  }
}

SequenceStore::Usage SequenceStore::usage() const {
  absl::MutexLock lock(&mu_);
  return {sequences_.size(), bytes_, expired_};
}

}  // namespace attnd
