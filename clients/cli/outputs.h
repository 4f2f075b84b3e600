// An operator's outputs in figures, for people and as JSON.
#ifndef ATTND_CLIENTS_CLI_OUTPUTS_H_
#define ATTND_CLIENTS_CLI_OUTPUTS_H_

#include "attnd/client.h"
#include "nlohmann/json.hpp"

namespace attnd::cli {

// A table: type, shape, and what its finite elements are like.
void PrintOutputs(const client::Result& result);
// The same by the outputs' names.
nlohmann::ordered_json OutputsJson(const client::Result& result);

}  // namespace attnd::cli

#endif  // ATTND_CLIENTS_CLI_OUTPUTS_H_
