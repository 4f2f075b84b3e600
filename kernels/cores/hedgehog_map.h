// The trainable feature map that imitates softmax: a linear layer per head, then exponentials of
// what it gives and of its negation ("The Hedgehog & the Porcupine: Expressive Linear Attentions
// with Softmax Mimicry", 2024).
//
//   y = x W_h (+ b_h),  phi(x) = max(feature_eps, .) of
//   softmax_dim    [softmax(y), softmax(-y)], each over the F features
//   exp_dim        [exp(y - max y), exp(-y + min y)]
//   exp            [exp(y), exp(-y)]
//   softmax_joint  softmax over all 2F of [2y, -2y]
// and of the first half alone unless `fullspace` (softmax_joint: softmax of 2y).
#ifndef ATTND_KERNELS_CORES_HEDGEHOG_MAP_H_
#define ATTND_KERNELS_CORES_HEDGEHOG_MAP_H_

#include <string>
#include <vector>

#include "kernels/primitives/composer.h"

namespace attnd {

// x [B,T,HX,K], whose heads are repeated to H, by weight [H,K,F] and bias [H,F] (undefined: 0) ->
// features [B,T,H,E], E = 2F or F, by the composer's attributes activation, fullspace, feature_eps.
Array HedgehogFeatures(Composer& c, const Array& x, const Array& weight, const Array& bias = {});

// The features of q and of k by the composer's inputs w_q, w_k, b_q and b_k: without w_k the keys
// share the map of the queries.
Array HedgehogQueries(Composer& c, const Array& q);
Array HedgehogKeys(Composer& c, const Array& k);

// `own` attributes, then activation, fullspace and feature_eps.
std::vector<std::string> HedgehogAttributes(std::vector<std::string> own);

// Derived size of the features.
inline constexpr char kHedgehogFeatures[] = "E = select(fullspace, 2 * F, F)";

}  // namespace attnd

#endif  // ATTND_KERNELS_CORES_HEDGEHOG_MAP_H_
