// The non-causal core of linear attention on CUDA: the sums of linear_global.h, taken over fixed
// slices of the keys and added in order, then one read-out per query. Products are float32 (three
// TF32 products on the tensor cores) whatever the type of the tensors.
#ifndef ATTND_KERNELS_CORES_LINEAR_GLOBAL_CUDA_H_
#define ATTND_KERNELS_CORES_LINEAR_GLOBAL_CUDA_H_

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/core/tensor.h"
#include "kernels/cores/feature_maps.h"
#include "kernels/primitives/primitives.h"

namespace attnd::cuda {

// The largest head size of queries, keys and values.
inline constexpr int64_t kMaxLinearGlobalHeadSize = 256;

// Axial rotary positions (rope.h: AxialRopeAngles) of the features that enter products; K is a
// multiple of 4.
struct AxialTurn {
  Tensor
      rows;  // float32 [height,K/4,2]: cosine and sine of the pairs that turn with a token's row.
  Tensor columns;  // float32 [width,K/4,2]: of the pairs that turn with its column.
};

// What becomes of y_i = M^T R_i phi(q_i), with d_i = phi(q_i).z (never turned) and S the number of
// keys:
enum class LinearReadout : uint8_t {
  kScale,      // o_i = scale y_i
  kNormalize,  // o_i = scale y_i / (scale d_i + eps)
  kRectify,    // o_i = (1 + 1/(r_i + eps)) (scale/S) y_i - r_i mean,  r_i = (scale/S) d_i: "mala"
  kWeight,     // o_i = query_weight_i y_i
};

// Then, where given, o_i += conv(v)_i and o_i *= gate_i: a depthwise convolution of the values laid
// out as an image, one odd kernel per channel h V + c, zeros beyond the border.
struct LinearEpilogue {
  Tensor conv_weight;  // [H V,kh,kw], of the call's type.
  Tensor conv_bias;    // [H V]
  Tensor gate;         // [B,T,H,V]
  int64_t height = 0;
  int64_t width = 0;
};

struct LinearGlobalCall {
  // Contiguous, of one type: float32, float16 or bfloat16.
  Tensor q;  // [B,T,H,K]
  Tensor k;  // [B,S,HK,K]
  Tensor v;  // [B,S,HV,V]
  Tensor o;  // [B,T,HO,V], HO = max(H,HK,HV); fewer heads are shared by consecutive ones.

  FeatureMap feature_map = FeatureMap::kIdentity;
  Tensor key_mask;      // bool [B,S]: the keys that count. Undefined: all.
  Tensor key_weight;    // w: float32 [B,max(HK,HV),S]. Undefined: 1.
  Tensor query_weight;  // float32 [B,HO,T], for kWeight.
  AxialTurn turn;       // Undefined tensors: no turn.

  LinearReadout readout = LinearReadout::kScale;
  double scale = 1;
  double eps = 0;
  LinearEpilogue epilogue;
};

// Queues the computation on the backend's stream. RESOURCE_EXHAUSTED if the sums do not fit in
// memory or a size exceeds the limits of a launch; INTERNAL if a launch fails.
absl::Status LinearGlobal(Backend& backend, const LinearGlobalCall& call);

}  // namespace attnd::cuda

#endif  // ATTND_KERNELS_CORES_LINEAR_GLOBAL_CUDA_H_
