// The operators that request fuzzers know: the whole catalogue, and the toy ones with every feature
// of schemas.
#ifndef ATTND_TESTS_FUZZ_FUZZ_REGISTRY_H_
#define ATTND_TESTS_FUZZ_FUZZ_REGISTRY_H_

#include <grpcpp/support/byte_buffer.h>

#include <cstddef>
#include <cstdint>

#include "kernels/core/registry.h"
#include "service/rpc/testing/toy_operators.h"

namespace attnd {

inline const Registry& FuzzRegistry() {
  static Registry registry;
  static const bool registered =
      (RegisterAllOperators(registry), RegisterToyOperators(registry), true);
  (void)registered;
  return registry;
}

inline grpc::ByteBuffer FuzzBuffer(const uint8_t* data, size_t size) {
  const grpc::Slice slice(data, size);
  return grpc::ByteBuffer(&slice, 1);
}

}  // namespace attnd

#endif  // ATTND_TESTS_FUZZ_FUZZ_REGISTRY_H_
