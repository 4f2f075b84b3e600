#ifndef ATTND_SERVICE_MACHINE_MEMORY_H_
#define ATTND_SERVICE_MACHINE_MEMORY_H_

#include <cstdint>
#include <string>

namespace attnd {

// Bytes of memory that this process may have: the machine's, or the limit of one of its control
// groups (version 1 or 2) where that is less. 0 if neither can be read. Files are looked up under
// `root`.
int64_t MachineMemory(const std::string& root = "/");

}  // namespace attnd

#endif  // ATTND_SERVICE_MACHINE_MEMORY_H_
