// Small operators whose schemas use every feature of the grammar, so that handlers can be tested
// without the catalogue.
#ifndef ATTND_SERVICE_RPC_TESTING_TOY_OPERATORS_H_
#define ATTND_SERVICE_RPC_TESTING_TOY_OPERATORS_H_

#include "kernels/core/registry.h"

namespace attnd {

// "toy_recurrence": o_t = scale q_t + s_t with s_t = s_{t-1} + v_t; two states (s, and the count n
// of tokens), packed sequences, conditional ports, attributes of every type. "toy_select": o = q;
// an index list whose values are checked, a mask, required attributes.
void RegisterToyOperators(Registry& registry);

}  // namespace attnd

#endif  // ATTND_SERVICE_RPC_TESTING_TOY_OPERATORS_H_
