// Schemas as attnd.v1 tells them.
#ifndef ATTND_SERVICE_RPC_DESCRIBE_H_
#define ATTND_SERVICE_RPC_DESCRIBE_H_

#include <vector>

#include "attnd/v1/operators.pb.h"
#include "kernels/core/op_spec.h"
#include "service/engine.h"

namespace attnd {

v1::OperatorSummary Summarise(const OpSpec& spec, const std::vector<Engine::KernelName>& kernels);
v1::OperatorDescription Describe(const OpSpec& spec,
                                 const std::vector<Engine::KernelName>& kernels);

// An attribute's default as text; empty if it has none.
std::string DefaultText(const AttrSpec& attribute);

}  // namespace attnd

#endif  // ATTND_SERVICE_RPC_DESCRIBE_H_
