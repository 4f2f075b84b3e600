// A small operator and a worker whose launches a test holds and releases.
#ifndef ATTND_SERVICE_TESTING_FAKE_WORKER_H_
#define ATTND_SERVICE_TESTING_FAKE_WORKER_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "service/router/worker_link.h"

namespace attnd::testing {

// y = 2 x, with x of shape [B,T].
inline constexpr char kDouble[] = "double";
void RegisterDouble(Registry& registry);

CallRequest DoubleRequest(const std::vector<float>& values);
std::vector<float> ToFloats(const Tensor& tensor);

// What a test and its worker share; it outlives the worker.
class FakeControl {
 public:
  // While held, launches wait after they were taken.
  void Hold();
  void Release();
  // Lets those go that wait now, and holds those that follow.
  void LetPass();
  // Waits until so many launches wait.
  void AwaitHeld(int launches);
  // From now on launches that are held end when their lives are over. At first they cannot.
  void HeedLife();
  // Waits until so many did; returns whether they do in time.
  bool AwaitEndedEarly(int launches);

  void SetState(WorkerState state);
  // What launches answer from now on; OK lets them run.
  void SetError(absl::Status error);
  // The kernel that launches name from now on; "twice" at first.
  void SetKernel(std::string kernel);
  // What the worker tells of its devices; nothing at first.
  void SetUses(std::vector<DeviceUse> uses);
  // What Compare reports from now on.
  void SetReport(NumericsReport report);
  // Launches of more than one row (of B) answer this.
  void SetBatchError(absl::Status error);

  // Rows of every launch that ran, in order.
  std::vector<int64_t> launches() const;

 private:
  friend class FakeWorker;
  mutable absl::Mutex mu_;
  bool held_ = false;
  int waiting_ = 0;
  int passed_ = 0;
  bool heeds_life_ = false;
  int ended_early_ = 0;
  absl::Status error_;
  absl::Status batch_error_;
  std::string kernel_ = "twice";
  std::vector<DeviceUse> uses_;
  NumericsReport report_{.kernel = "twice", .within_tolerance = true};
  std::vector<int64_t> launches_;
  WorkerLink::StateObserver observer_;
};

std::unique_ptr<WorkerLink> MakeFakeWorker(std::shared_ptr<FakeControl> control,
                                           std::vector<Lane> lanes);

}  // namespace attnd::testing

#endif  // ATTND_SERVICE_TESTING_FAKE_WORKER_H_
