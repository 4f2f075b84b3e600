// The normalisation that takes the place of a denominator (Qin et al., "The Devil in Linear
// Transformer", 2022): rows of attention's output, of each head or of all heads together.
//
//   rms        Y / (sqrt(mean Y^2) + eps) * norm_weight + norm_bias
//   gated_rms  that, times sigmoid(norm_gate * Y)
//   layer      (Y - mean) / sqrt(var + eps) * norm_weight + norm_bias
#ifndef ATTND_KERNELS_CORES_OUTPUT_NORM_H_
#define ATTND_KERNELS_CORES_OUTPUT_NORM_H_

#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "kernels/primitives/composer.h"

namespace attnd {

// y [B,T,HO,V] by the composer's attributes norm, norm_scope and eps and its inputs norm_weight,
// norm_bias and norm_gate.
Array OutputNorm(Composer& c, const Array& y);

// `own` ports, then norm_weight, norm_bias and norm_gate; HO and V are sizes of the schema.
std::vector<std::string> OutputNormInputs(std::vector<std::string> own);
// `own` attributes, then norm (with its default), norm_scope and eps.
std::vector<std::string> OutputNormAttributes(std::vector<std::string> own, absl::string_view norm);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_OUTPUT_NORM_H_
