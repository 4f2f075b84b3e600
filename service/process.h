// A whole process of the service, from its configuration to its exit code.
#ifndef ATTND_SERVICE_PROCESS_H_
#define ATTND_SERVICE_PROCESS_H_

#include "service/config.h"
#include "service/stop_signal.h"

namespace attnd {

// Serves until a signal comes, then drains. Returns the exit code: 0 after a drain, 1 if it could
// not start.
int RunProcess(const Config& config, const StopSignal& stop);

}  // namespace attnd

#endif  // ATTND_SERVICE_PROCESS_H_
