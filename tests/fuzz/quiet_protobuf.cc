// Protobuf writes a line about everything that it cannot parse, which is most of what fuzzers give
// it.
#include <google/protobuf/stubs/logging.h>

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  google::protobuf::SetLogHandler(nullptr);
  return 0;
}
