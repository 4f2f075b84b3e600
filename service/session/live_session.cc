#include "service/session/live_session.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace attnd {

absl::Status LiveSession::Enter(size_t max_waiting, absl::AnyInvocable<void()> run) {
  {
    absl::MutexLock lock(&mu_);
    used_ = absl::Now();
    if (busy_) {
      if (waiting_.size() >= max_waiting) {
        return absl::ResourceExhaustedError(
            absl::StrCat("session ", id_, ": ", waiting_.size(),
                         " calls wait for their turn: repeat the call later"));
      }
      waiting_.push_back(std::move(run));
      return absl::OkStatus();
    }
    busy_ = true;
  }
  std::move(run)();
  return absl::OkStatus();
}

void LiveSession::Leave() {
  absl::AnyInvocable<void()> next;
  {
    absl::MutexLock lock(&mu_);
    used_ = absl::Now();
    if (waiting_.empty()) {
      busy_ = false;
      return;
    }
    next = std::move(waiting_.front());
    waiting_.pop_front();
  }
  std::move(next)();
}

bool LiveSession::idle() const {
  absl::MutexLock lock(&mu_);
  return !busy_;
}

absl::Status LiveSession::Apply(const v1::SessionRecord& record, const SessionLog* parent) {
  absl::MutexLock lock(&mu_);
  return log_.Apply(record, parent);
}

void LiveSession::set_durable(uint64_t position) {
  absl::MutexLock lock(&mu_);
  durable_ = position;
}

void LiveSession::TakeBackTo(uint64_t most) {
  anchors.erase(anchors.upper_bound(most), anchors.end());
  op_states.erase(op_states.upper_bound(most), op_states.end());
  has_read = std::min(has_read, most);
  if (stored > most) stored = 0;
  if (state.has_value() && static_cast<uint64_t>(state->position()) > most) state.reset();
  NoteStateBytes();
}

void LiveSession::NoteStateBytes() {
  int64_t bytes = state.has_value() ? state->byte_size() : 0;
  for (const auto& [position, anchor] : anchors) bytes += anchor->byte_size();
  for (const auto& [name, pin] : pinned) bytes += pin->byte_size();
  for (const auto& [position, kept] : op_states) bytes += kept->byte_size();
  for (const auto& [name, pin] : op_pinned) bytes += pin->byte_size();
  if (op_base != nullptr) bytes += op_base->byte_size();
  absl::MutexLock lock(&mu_);
  state_bytes_ = bytes;
  in_memory_ = state.has_value() || !anchors.empty() || !op_states.empty();
}

int64_t LiveSession::state_bytes() const {
  absl::MutexLock lock(&mu_);
  return state_bytes_;
}

LiveSession::Standing LiveSession::standing() const {
  absl::MutexLock lock(&mu_);
  return {!busy_, used_, log_.created().idle_seconds(), expiry_, state_bytes_, log_.byte_size()};
}

void LiveSession::set_expiry(double seconds) {
  absl::MutexLock lock(&mu_);
  expiry_ = seconds;
}

bool LiveSession::forgotten() const {
  absl::MutexLock lock(&mu_);
  return forgotten_;
}

void LiveSession::set_forgotten() {
  absl::MutexLock lock(&mu_);
  forgotten_ = true;
}

v1::Session LiveSession::Describe() const {
  absl::MutexLock lock(&mu_);
  v1::Session out;
  const v1::SessionRecord::Created& created = log_.created();
  out.set_session(id_);
  out.set_model(created.model());
  out.set_op(created.op());
  *out.mutable_attributes() = created.attributes();
  out.set_kernel(created.kernel());
  out.set_oldest_position(log_.is_operator() ? log_.path().base() : 0);
  out.set_position(log_.position());
  out.set_durable_position(std::min<uint64_t>(durable_, log_.position()));
  out.set_state_bytes(static_cast<uint64_t>(state_bytes_));
  out.set_tier(in_memory_ ? "host" : "store");
  out.set_durability(created.durability());
  out.set_seed(created.seed());
  out.set_weights_hash(created.weights_hash());
  out.set_parent(created.parent());
  out.set_forked_at(created.forked_at());
  *out.mutable_labels() = created.labels();
  if (created.idle_seconds() > 0) {
    out.set_expires_in_seconds(created.idle_seconds() - absl::ToDoubleSeconds(absl::Now() - used_));
  }
  return out;
}

}  // namespace attnd
