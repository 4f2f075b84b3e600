#include "service/rpc/call_stream.h"

namespace attnd {

CallStream* CallStream::Start(Order order, int max_calls, Handler handler) {
  auto stream = std::make_shared<CallStream>(order, max_calls, std::move(handler));
  stream->self_ = stream;
  stream->Proceed();
  return stream.get();
}

void CallStream::OnReadDone(bool ok) {
  Place place;
  {
    absl::MutexLock lock(&mu_);
    ok = ok && !finished_;
    if (ok) place = pending_.emplace(pending_.end());
  }
  if (ok) {
    grpc::ByteBuffer request;
    request.Swap(&request_);
    handler_(request, cancel_,
             [self = self_, place](Answer answer) { self->OnAnswer(place, std::move(answer)); });
  }
  {
    // Only now: answers come from other threads, and the next request must not overtake this one
    // on its way into the handler.
    absl::MutexLock lock(&mu_);
    reading_ = false;
    no_more_requests_ = no_more_requests_ || !ok;
  }
  Proceed();
}

void CallStream::OnWriteDone(bool ok) {
  {
    absl::MutexLock lock(&mu_);
    writing_ = false;
    ready_.pop_front();
    broken_ = broken_ || !ok;
  }
  Proceed();
}

void CallStream::OnAnswer(Place place, Answer answer) {
  {
    absl::MutexLock lock(&mu_);
    place->answer = std::move(answer);
    place->ready = true;
    if (order_ == Order::kAsReady) {
      ready_.splice(ready_.end(), pending_, place);
    } else {
      while (!pending_.empty() && pending_.front().ready) {
        ready_.splice(ready_.end(), pending_, pending_.begin());
      }
    }
  }
  Proceed();
}

void CallStream::Proceed() {
  // Under the lock to the end: no read or write may start after the end that another thread starts,
  // which takes the call from under them.
  absl::MutexLock lock(&mu_);
  if (finished_) return;
  if (!writing_) {
    if (!ready_.empty() && status_.ok()) status_ = ready_.front().answer.status;
    if (!status_.ok() || broken_) {
      cancel_->Cancel();
      ready_.clear();
    } else if (!ready_.empty()) {
      writing_ = true;
      StartWrite(&ready_.front().answer.message);
    }
  }
  const bool ending = !status_.ok() || broken_;
  if (!reading_ && !no_more_requests_ && !ending && pending_.size() + ready_.size() < max_calls_) {
    reading_ = true;
    StartRead(&request_);
  }
  // A read that is still out does not hold up an end for a reason: finishing ends it.
  if (!writing_ && pending_.empty() && ready_.empty() && (ending || no_more_requests_)) {
    finished_ = true;
    Finish(status_);
  }
}

}  // namespace attnd
