#include "bench/hop.h"

#include <unistd.h>

#include <array>
#include <functional>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "bench/calls.h"
#include "bench/load.h"

namespace attnd::bench {
namespace {

// A thread that sends back every byte it gets, and sleeps in between.
class PipeEcho {
 public:
  PipeEcho() {
    if (pipe(there_.data()) != 0 || pipe(back_.data()) != 0) std::abort();
    thread_ = std::thread([this] {
      char byte;
      while (read(there_[0], &byte, 1) == 1 && write(back_[1], &byte, 1) == 1) {
      }
    });
  }
  ~PipeEcho() {
    close(there_[1]);
    thread_.join();
    for (const int fd : {there_[0], back_[0], back_[1]}) close(fd);
  }

  bool Bounce() {
    char byte = 0;
    return write(there_[1], &byte, 1) == 1 && read(back_[0], &byte, 1) == 1;
  }

 private:
  std::array<int, 2> there_, back_;
  std::thread thread_;
};

LoadResult PipeLoad(PipeEcho& echo, absl::Duration duration) {
  LoadResult result;
  const absl::Time begin = absl::Now();
  absl::Time now = begin;
  while (now < begin + duration) {
    const absl::Time start = now;
    const bool ok = echo.Bounce();
    now = absl::Now();
    if (ok) result.latencies_us.push_back(absl::ToDoubleMicroseconds(now - start));
  }
  std::sort(result.latencies_us.begin(), result.latencies_us.end());
  result.calls = static_cast<long>(result.latencies_us.size());
  result.seconds = absl::ToDoubleSeconds(now - begin);
  return result;
}

}  // namespace

nlohmann::json Hop(const std::vector<std::pair<std::string, std::string>>& servers,
                   const std::vector<std::pair<std::string, std::string>>& echo_targets,
                   double seconds) {
  const v1::EvaluateRequest request = SmallRequest();
  const std::string bytes = request.SerializeAsString();
  struct Load {
    std::string name;
    std::function<LoadResult(absl::Duration)> run;
    LoadResult result;
  };
  std::vector<Load> loads;
  const auto add = [&loads](std::string name, StartCall call) {
    loads.push_back({std::move(name),
                     [call = std::move(call)](absl::Duration duration) {
                       return ClosedLoad(call, 1, duration);
                     },
                     {}});
  };
  for (const auto& [name, target] : servers) add(name, EvaluateCalls(target, request));
  for (const auto& [name, target] : echo_targets) {
    add(absl::StrCat(name, " calls"), EchoCalls(target, bytes));
    add(absl::StrCat(name, " stream"), EchoStreamCalls(target, bytes));
  }
  PipeEcho pipe;
  loads.push_back({"pipe", [&pipe](absl::Duration d) { return PipeLoad(pipe, d); }, {}});

  // Rounds alternate, so that what else the machine does hits all.
  constexpr int kRounds = 10;
  for (Load& load : loads) load.run(absl::Seconds(0.2));
  for (int round = 0; round < kRounds; ++round) {
    for (Load& load : loads) load.result.Add(load.run(absl::Seconds(seconds) / kRounds));
  }
  nlohmann::json report = {{"request_bytes", bytes.size()}};
  for (const Load& load : loads) report["loads"][load.name] = Summary(load.result);
  return report;
}

}  // namespace attnd::bench
