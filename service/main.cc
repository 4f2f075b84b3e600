// attnd serve | router | worker | version
#include <cstdio>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "service/config.h"
#include "service/log.h"
#include "service/process.h"
#include "service/stop_signal.h"
#include "service/version.h"

int main(int argc, char** argv) {
  // Debian's abseil is built with checks that make every lock, gRPC's too, pay for a global one.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  const attnd::StopSignal stop;
  const attnd::ParsedConfig parsed =
      attnd::ParseConfig(std::vector<std::string>(argv + 1, argv + argc));
  if (parsed.end) {
    std::fputs(parsed.text.c_str(), parsed.exit_code == 0 ? stdout : stderr);
    return parsed.exit_code;
  }
  if (parsed.config.mode == attnd::Mode::kVersion) {
    std::printf("attnd %s\n", std::string(attnd::kVersion).c_str());
    return 0;
  }
  attnd::ConfigureLog(parsed.config.log_level, parsed.config.log_format);
  return attnd::RunProcess(parsed.config, stop);
}
