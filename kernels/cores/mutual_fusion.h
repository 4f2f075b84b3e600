// What the two fusions of GL-DMNet share ("Dual Mutual Learning Network with Global-local Awareness
// for RGB-D Salient Object Detection", 2025).
#ifndef ATTND_KERNELS_CORES_MUTUAL_FUSION_H_
#define ATTND_KERNELS_CORES_MUTUAL_FUSION_H_

#include <string>
#include <vector>

#include "kernels/primitives/composer.h"

namespace attnd {

// sign(x) |x|^power, and 0 for 0.
Array SignedPower(const Array& x, double power);

// max(0, scale * x + shift): a folded batch norm per channel, and its relu.
Array ScaledRelu(const Array& x, const Array& scale, const Array& shift);

// Divides the three by their norms over attribute `normalize_over` and writes them to the outputs
// of these names, then the tail's `o`, where it is given:
//   relu(out3_scale conv3x3(relu(out1_scale (out1_weight [rgb; depth; fused]) + out1_shift)) +
//   out3_shift)
void WriteFused(Composer& c, const Array& rgb, const Array& depth, const Array& fused,
                const std::string& prefix);

// Schema lines: the inputs of the tail, the attributes height, width, moment_power and
// normalize_over, the outputs, and the rule of the image.
std::vector<std::string> FusionInputs(std::vector<std::string> own);
std::vector<std::string> FusionAttributes(std::vector<std::string> own);
std::vector<std::string> FusionOutputs(const std::string& prefix);
std::vector<std::string> FusionRules();

}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_MUTUAL_FUSION_H_
