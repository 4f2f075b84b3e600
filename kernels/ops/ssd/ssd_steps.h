// What ssd does to its steps before the recurrence and to its read-out after it, in arrays: one
// form for the definition and the kernels of every backend.
#ifndef ATTND_KERNELS_OPS_SSD_SSD_STEPS_H_
#define ATTND_KERNELS_OPS_SSD_SSD_STEPS_H_

#include "kernels/primitives/composer.h"

namespace attnd {

struct SsdSteps {
  Array dt;         // dt' [B,T,H]: biased, through softplus if asked for, clamped.
  Array log_decay;  // dt' a [B,T,H]
};

SsdSteps SsdStepsOf(Composer& c);

// (y + d x) silu(z) of y, x [B,T,H,P], with what the call has of d and z.
Array SsdReadout(Composer& c, const Array& y, const Array& x);

}  // namespace attnd

#endif  // ATTND_KERNELS_OPS_SSD_SSD_STEPS_H_
