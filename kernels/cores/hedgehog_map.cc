#include "kernels/cores/hedgehog_map.h"

#include <utility>

#include "kernels/cores/feature_maps.h"

namespace attnd {
namespace {

// One side: of y, or of its negation.
Array OneSide(const std::string& activation, const Array& y) {
  if (activation == "softmax_dim") return Apply(FeatureMap::kSoftmax, y);
  if (activation == "exp_dim") return Exp(y - Max(y, -1));
  if (activation == "exp") return Exp(y);
  return y * 2.0;
}

}  // namespace

Array HedgehogFeatures(Composer& c, const Array& x, const Array& weight, const Array& bias) {
  if (!c.status().ok()) return {};
  const Array heads = x.RepeatTo(2, weight.dim(0)).Permute({0, 2, 1, 3});
  Array y = MatMul(heads, weight).Permute({0, 2, 1, 3});
  if (bias.defined()) y = y + bias;
  const std::string& activation = c.choice("activation");
  Array features = OneSide(activation, y);
  if (c.flag("fullspace")) features = Concat(features, OneSide(activation, -y), -1);
  if (activation == "softmax_joint") features = Apply(FeatureMap::kSoftmax, features);
  return Maximum(features, c.real("feature_eps"));
}

Array HedgehogQueries(Composer& c, const Array& q) {
  return HedgehogFeatures(c, q, c.In("w_q"), c.In("b_q"));
}

Array HedgehogKeys(Composer& c, const Array& k) {
  return c.has("w_k") ? HedgehogFeatures(c, k, c.In("w_k"), c.In("b_k"))
                      : HedgehogFeatures(c, k, c.In("w_q"), c.In("b_q"));
}

std::vector<std::string> HedgehogAttributes(std::vector<std::string> own) {
  own.insert(own.end(), {"activation: {softmax_dim, exp_dim, exp, softmax_joint} = softmax_dim",
                         "fullspace: bool = true  # features of y and of -y",
                         "feature_eps: float = 1e-12 >= 0  # features are at least this"});
  return own;
}

}  // namespace attnd
