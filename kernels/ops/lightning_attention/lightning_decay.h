// The log decays of lightning_attention's attributes.
#ifndef ATTND_KERNELS_OPS_LIGHTNING_ATTENTION_LIGHTNING_DECAY_H_
#define ATTND_KERNELS_OPS_LIGHTNING_ATTENTION_LIGHTNING_DECAY_H_

#include "kernels/core/call.h"

namespace attnd {

// float64 [HO] on the host, by `decay`, `layer_idx` and `num_layers`; for calls without g.
Tensor LightningDecays(const BoundCall& call);

}  // namespace attnd

#endif  // ATTND_KERNELS_OPS_LIGHTNING_ATTENTION_LIGHTNING_DECAY_H_
