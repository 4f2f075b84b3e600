// What the linear operators of the vision literature share: linear attention of all tokens whose
// sums are means over the keys, positions of an image in the numerator alone, and a depthwise
// convolution of the values beside it.
#ifndef ATTND_KERNELS_CORES_MEAN_ATTENTION_H_
#define ATTND_KERNELS_CORES_MEAN_ATTENTION_H_

#include <functional>
#include <string>
#include <vector>

#include "kernels/core/random_call.h"
#include "kernels/primitives/composer.h"

namespace attnd {

// q [B,T,H,K], k [B,S,H,K]: features -> q_i · sum_j k_j, [B,T,H,1].
Array KeyMass(const Array& q, const Array& k);

// For features q [B,T,H,K] and k [B,S,H,K], v [B,S,H,V]:
//   o_i = (1/S) sum_j (R_i q_i · R_j k_j) v_j / (q_i · (1/S) sum_j k_j + eps)
// `turn` gives R q or R k; empty: identity. Calls linear_attention: O((T + S) K V).
Array MeanAttention(Composer& c, const Array& q, const Array& k, const Array& v, double eps,
                    const std::function<Array(const Array&)>& turn = {});

// The same without the denominator, times `scale`.
Array MeanProduct(Composer& c, const Array& q, const Array& k, const Array& v, double scale = 1);

// By attribute `rope`: nothing for "none"; for "axial2d" the turn of AxialRopeAngles (rope.h).
std::function<Array(const Array&)> AxialTurn(Composer& c);

// o, plus Lepe (lepe.h) of v if `lepe_weight` is given.
Array WithLepe(Composer& c, const Array& o, const Array& v);

// Schema lines for all of this, on an image of T = S tokens: inputs lepe_weight and lepe_bias;
// attributes rope, rope_base, height and width; and rules.
std::vector<std::string> AxialInputs(std::vector<std::string> own);
std::vector<std::string> AxialAttributes(std::vector<std::string> own);
std::vector<std::string> AxialRules(std::vector<std::string> own);

// Random calls of operators with these lines: an image whenever something needs one.
void DrawAxial(RandomSource& source);

// Sets height and width to those of a small image of `tokens` (a symbol) tokens; the count.
int64_t DrawImage(RandomSource& source, absl::string_view tokens);

}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_MEAN_ATTENTION_H_
