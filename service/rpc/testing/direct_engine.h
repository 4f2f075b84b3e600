// An engine without queue or workers: evaluates in the caller's thread, or when a test says so.
#ifndef ATTND_SERVICE_RPC_TESTING_DIRECT_ENGINE_H_
#define ATTND_SERVICE_RPC_TESTING_DIRECT_ENGINE_H_

#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "kernels/primitives/cpu/cpu_backend.h"
#include "service/engine.h"

namespace attnd {

class DirectEngine final : public Engine {
 public:
  enum class Catalogue : uint8_t { kToys, kAll };
  explicit DirectEngine(Catalogue catalogue = Catalogue::kToys);

  void Evaluate(EngineCall call, Done done) override;
  void Compare(EngineCall call, const RandomCompare* random, CompareDone done) override;
  const Registry& registry() const override { return registry_; }
  std::vector<KernelName> KernelsOf(absl::string_view op) const override {
    return {{"toy_cpu", "cpu"}};
  }
  bool ready() const override { return ready_; }
  OpStatistics Statistics(absl::string_view op) const override;
  void NoteDropped(Dropped what) override ABSL_LOCKS_EXCLUDED(mu_);

  // From now on calls wait until Release, which runs the `index`-th that waits.
  void Hold(bool hold) ABSL_LOCKS_EXCLUDED(mu_);
  void Release(size_t index = 0) ABSL_LOCKS_EXCLUDED(mu_);
  size_t held() const ABSL_LOCKS_EXCLUDED(mu_);
  bool AwaitHeld(size_t count) const ABSL_LOCKS_EXCLUDED(mu_);  // False after ten seconds.
  const EngineCall& held_call(size_t index) const ABSL_LOCKS_EXCLUDED(mu_);

  // Waits for the next call that ends in its handler, in their order; none after ten seconds.
  std::optional<Dropped> NextDropped() ABSL_LOCKS_EXCLUDED(mu_);

  // Answers every call with this instead; OK: evaluates.
  void FailWith(absl::Status status) ABSL_LOCKS_EXCLUDED(mu_);
  void set_ready(bool ready) { ready_ = ready; }

 private:
  struct Held {
    EngineCall call;
    Done done;
  };
  void Run(EngineCall call, Done done);

  Registry registry_;
  std::unique_ptr<Backend> cpu_ = CreateCpuBackend();
  std::atomic<bool> ready_{true};
  mutable absl::Mutex mu_;
  bool hold_ ABSL_GUARDED_BY(mu_) = false;
  absl::Status failure_ ABSL_GUARDED_BY(mu_);
  std::deque<Held> held_ ABSL_GUARDED_BY(mu_);
  std::deque<Dropped> dropped_ ABSL_GUARDED_BY(mu_);
  uint64_t successes_ ABSL_GUARDED_BY(mu_) = 0;
  uint64_t failures_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace attnd

#endif  // ATTND_SERVICE_RPC_TESTING_DIRECT_ENGINE_H_
