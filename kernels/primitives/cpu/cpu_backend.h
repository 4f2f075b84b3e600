// The CPU backend.
#ifndef ATTND_KERNELS_PRIMITIVES_CPU_CPU_BACKEND_H_
#define ATTND_KERNELS_PRIMITIVES_CPU_CPU_BACKEND_H_

#include <memory>

#include "kernels/primitives/primitives.h"

namespace attnd {

struct CpuOptions {
  int threads = 0;                 // 0: all cores.
  int64_t memory_limit_bytes = 0;  // 0: none. Beyond it Allocate answers RESOURCE_EXHAUSTED.
  std::string memory_limit_name = "limit";  // What that answer calls it.
};

// Thread-safe: several calls may run on one backend at a time and share its threads.
std::unique_ptr<Backend> CreateCpuBackend(const CpuOptions& options = {});

}  // namespace attnd

#endif  // ATTND_KERNELS_PRIMITIVES_CPU_CPU_BACKEND_H_
