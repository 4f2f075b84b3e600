#include "kernels/cores/mutual_fusion.h"

#include "kernels/cores/image_conv.h"
#include "kernels/cores/layers.h"

namespace attnd {

Array SignedPower(const Array& x, double power) {
  if (!x.defined()) return {};
  Composer& c = *x.composer();
  const Array zero = c.Scalar(0), magnitude = Pow(Apply(UnaryOp::kAbs, x), c.Scalar(power));
  return Where(Equal(x, zero), zero, Where(x < zero, -magnitude, magnitude));
}

Array ScaledRelu(const Array& x, const Array& scale, const Array& shift) {
  return Maximum(x * scale + shift, 0.0);
}

void WriteFused(Composer& c, const Array& rgb, const Array& depth, const Array& fused,
                const std::string& prefix) {
  const int axis = c.choice("normalize_over") == "channel" ? 2 : 1;
  const auto unit = [axis](const Array& x) {
    return x / Maximum(Sqrt(Sum(Apply(UnaryOp::kSquare, x), axis)), 1e-12);
  };
  const Array a = unit(rgb), b = unit(depth), f = unit(fused);
  c.Out(prefix + "_rgb", a);
  c.Out(prefix + "_depth", b);
  c.Out(prefix + "_fused", f);
  if (!c.has("out1_weight")) return;
  const Array y = ScaledRelu(Dense(Concat(Concat(a, b, 2), f, 2), c.In("out1_weight")),
                             c.In("out1_scale"), c.In("out1_shift"));
  c.Out("o", ScaledRelu(Conv(y, c.In("out3_weight"), c.integer("height"), c.integer("width")),
                        c.In("out3_scale"), c.In("out3_shift")));
}

std::vector<std::string> FusionInputs(std::vector<std::string> own) {
  own.insert(
      own.end(),
      {"out1_weight: float[C,3*C]?  # tail: 1x1 over the three outputs",
       "out1_scale: float[C] if has(out1_weight)", "out1_shift: float[C] if has(out1_weight)",
       "out3_weight: float[C,C,3,3] if has(out1_weight)",
       "out3_scale: float[C] if has(out1_weight)", "out3_shift: float[C] if has(out1_weight)"});
  return own;
}

std::vector<std::string> FusionAttributes(std::vector<std::string> own) {
  own.insert(own.begin(),
             {"height: int >= 1  # of the image", "width: int >= 1  # of the image",
              "moment_power: float = 0.5  # p in sign(x) |x|^p",
              "normalize_over: {channel, position} = channel  # axis of the outputs' unit norm"});
  return own;
}

std::vector<std::string> FusionOutputs(const std::string& prefix) {
  return {prefix + "_rgb: float[B,N,C]", prefix + "_depth: float[B,N,C]",
          prefix + "_fused: float[B,N,C]", "o: float[B,N,C] if has(out1_weight)  # of the tail"};
}

std::vector<std::string> FusionRules() { return {"N == height * width  # height * width tokens"}; }

}  // namespace attnd
