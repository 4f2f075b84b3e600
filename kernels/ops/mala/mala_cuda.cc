#include <cmath>
#include <vector>

#include "kernels/core/registry.h"
#include "kernels/cores/linear_global_cuda.h"
#include "kernels/cores/rope.h"
#include "kernels/cuda/launch.h"

namespace attnd {
namespace {

// Cosine and sine of every coordinate of an axis of the image and every frequency.
absl::StatusOr<Tensor> AxisAngles(Backend& backend, int64_t length,
                                  const std::vector<double>& frequencies) {
  std::vector<float> angles;
  angles.reserve(static_cast<size_t>(length) * frequencies.size() * 2);
  for (int64_t x = 0; x < length; ++x) {
    for (double frequency : frequencies) {
      angles.push_back(static_cast<float>(std::cos(static_cast<double>(x) * frequency)));
      angles.push_back(static_cast<float>(std::sin(static_cast<double>(x) * frequency)));
    }
  }
  absl::StatusOr<Tensor> table = cuda::UploadTable<float>(backend, DType::kFloat32, angles);
  if (!table.ok()) return table;
  return table->Reshape({length, static_cast<int64_t>(frequencies.size()), 2});
}

absl::Status Run(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  cuda::LinearGlobalCall core;
  core.q = call.input("q");
  core.k = call.input("k");
  core.v = call.input("v");
  core.o = *outputs.Find("o");
  core.feature_map = FeatureMap::kElu1;
  core.readout = cuda::LinearReadout::kRectify;
  core.scale = call.real("scale");
  core.eps = call.real("eps");
  if (call.choice("rope") == "axial2d") {
    const std::vector<double> frequencies =
        RopeFrequencies(RopePairs::kInterleaved, call.dim("K") / 2, call.real("rope_base"));
    absl::StatusOr<Tensor> rows = AxisAngles(backend, call.integer("height"), frequencies);
    if (!rows.ok()) return rows.status();
    absl::StatusOr<Tensor> columns = AxisAngles(backend, call.integer("width"), frequencies);
    if (!columns.ok()) return columns.status();
    core.turn = {*std::move(rows), *std::move(columns)};
  }
  core.epilogue.gate = call.input("gate");
  if (call.has("lepe_weight")) {
    core.epilogue.conv_weight = call.input("lepe_weight");
    core.epilogue.conv_bias = call.input("lepe_bias");
    core.epilogue.height = call.integer("height");
    core.epilogue.width = call.integer("width");
  }
  return cuda::LinearGlobal(backend, core);
}

}  // namespace

void RegisterMalaCuda(Registry& registry);

void RegisterMalaCuda(Registry& registry) {
  registry.AddKernel("mala", {"global_cuda", Device::kCuda,
                              [](const BoundCall& call) {
                                return call.dim("K") <= cuda::kMaxLinearGlobalHeadSize &&
                                       call.dim("V") <= cuda::kMaxLinearGlobalHeadSize;
                              },
                              Run});
}

}  // namespace attnd
