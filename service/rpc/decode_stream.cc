// Decode and Generate: the events of one decode on their way to a client.
#include <memory>
#include <string>
#include <utility>

#include "service/rpc/event_stream.h"
#include "service/rpc/grpc_status.h"
#include "service/rpc/session_streams.h"

namespace attnd {
namespace {

class DecodeStream final
    : public EventStream<grpc::ServerWriteReactor<v1::DecodeEvent>, v1::DecodeEvent>,
      public DecodeSink {
 public:
  // `begin` hands the stream to the manager.
  template <typename Begin>
  static DecodeStream* Start(Begin begin) {
    auto stream = std::make_shared<DecodeStream>();
    stream->Own(stream);
    DecodeStream* const raw = stream.get();
    begin(std::move(stream));
    return raw;
  }

  Answer Event(v1::DecodeEvent event) override {
    switch (Send(std::move(event))) {
      case Queue::kRoom:
        return Answer::kGoOn;
      case Queue::kFull:
        return Answer::kPause;
      case Queue::kGone:
        break;
    }
    return Answer::kStop;
  }
  Answer Wish() override { return queue() == Queue::kGone ? Answer::kStop : Answer::kGoOn; }

  bool Paused(absl::AnyInvocable<void()> resume) override {
    absl::MutexLock lock(&mu_);
    if (queue() != Queue::kFull) return false;
    resume_ = std::move(resume);
    return true;
  }

  void Done(absl::Status status) override { End(ToGrpcStatus(status)); }

 private:
  void Room() override {
    absl::AnyInvocable<void()> resume;
    {
      absl::MutexLock lock(&mu_);
      if (queue() == Queue::kFull) return;
      resume = std::exchange(resume_, nullptr);
    }
    if (resume) resume();
  }

  absl::Mutex mu_;
  absl::AnyInvocable<void()> resume_ ABSL_GUARDED_BY(mu_);
};

}  // namespace

grpc::ServerWriteReactor<v1::DecodeEvent>* StartDecode(SessionManager& manager,
                                                       const v1::DecodeRequest& request) {
  return DecodeStream::Start([&](auto sink) { manager.Decode(request, std::move(sink)); });
}

grpc::ServerWriteReactor<v1::DecodeEvent>* StartGenerate(SessionManager& manager,
                                                         const v1::GenerateRequest& request) {
  return DecodeStream::Start([&](auto sink) { manager.Generate(request, std::move(sink)); });
}

}  // namespace attnd
