// Random inputs from the schemas of this build.
#ifndef ATTND_CLIENTS_CLI_RANDOM_INPUTS_H_
#define ATTND_CLIENTS_CLI_RANDOM_INPUTS_H_

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "attnd/client.h"

namespace attnd::cli {

struct RandomRequest {
  std::string op;
  uint64_t seed = 0;
  client::DType dtype = v1::FLOAT32;
  std::map<std::string, int64_t> dims;
  std::map<std::string, client::Attribute> attributes;
  // Optional inputs that are given; the others are not.
  std::vector<std::string> with;
  bool packed = false;
  // Used where the operator has the symbol, `dims` does not name it and the rules allow all of them
  // together.
  std::map<std::string, int64_t> usual;
};

// Inputs and attributes. NOT_FOUND for an operator that this build does not know; INVALID_ARGUMENT
// if sizes and attributes contradict its schema.
absl::StatusOr<client::Call> DrawCall(const RandomRequest& request);

}  // namespace attnd::cli

#endif  // ATTND_CLIENTS_CLI_RANDOM_INPUTS_H_
