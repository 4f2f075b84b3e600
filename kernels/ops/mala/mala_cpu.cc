#include "kernels/core/registry.h"
#include "kernels/cores/lepe.h"
#include "kernels/cores/linear_global.h"
#include "kernels/cores/rope.h"
#include "kernels/primitives/cpu/parallel.h"
#include "kernels/primitives/cpu/vector_math.h"

namespace attnd {
namespace {

// Turns features by the row and the column of their token.
auto AxialTurn(int64_t key_size, int64_t width, double base) {
  return
      [key_size, width, frequencies = RopeFrequencies(RopePairs::kInterleaved, key_size / 2, base)](
          int64_t begin, int64_t count, float* features) {
        cpu::Scratch scratch;
        const int64_t quarter = key_size / 4;
        float* cos = scratch.Take<float>(2 * quarter);
        float* sin = scratch.Take<float>(2 * quarter);
        for (int64_t i = 0; i < count; ++i) {
          const int64_t y = (begin + i) / width, x = (begin + i) % width;
          cpu::RopeRow(frequencies, static_cast<double>(y), cos, sin);
          cpu::RopeRow(frequencies, static_cast<double>(x), cos + quarter, sin + quarter);
          cpu::RotateRow(RopePairs::kInterleaved, cos, sin, key_size, features + i * key_size);
        }
      };
}

absl::Status Run(Backend& backend, const BoundCall& call, const NamedTensors& outputs) {
  cpu::LinearGlobalCall core;
  core.q = call.input("q");
  core.k = call.input("k");
  core.v = call.input("v");
  core.o = *outputs.Find("o");
  core.feature_map = FeatureMap::kElu1;
  if (call.choice("rope") == "axial2d") {
    core.turn = AxialTurn(call.dim("K"), call.integer("width"), call.real("rope_base"));
  }
  const auto weight = static_cast<float>(call.real("scale") / static_cast<double>(call.dim("S")));
  const auto eps = static_cast<float>(call.real("eps"));
  core.readout = [&, weight, eps](const cpu::LinearReadout& read) {
    const int64_t size = read.value_size;
    cpu::Scratch scratch;
    float* gate = scratch.Take<float>(size);
    for (int64_t i = 0; i < read.count; ++i) {
      float* y = read.y + i * size;
      const float z =
          weight * cpu::DotRow(read.phi + i * read.key_size, read.key_sum, read.key_size);
      cpu::ScaleRow(y, weight * (1.0f + 1.0f / (z + eps)), size);
      cpu::AxpyRow(-z, read.value_mean, y, size);
    }
    if (call.has("lepe_weight")) {
      cpu::AddLepe(core.v, call.input("lepe_weight"), call.input("lepe_bias"),
                   call.integer("height"), call.integer("width"), read.row, read.head, read.begin,
                   read.count, read.y);
    }
    const Tensor& gates = call.input("gate");
    for (int64_t i = 0; gates.defined() && i < read.count; ++i) {
      const int64_t at =
          ((read.row * gates.dim(1) + read.begin + i) * gates.dim(2) + read.head) * size;
      cpu::LoadRow(gates.data<char>() + at * static_cast<int64_t>(SizeOf(gates.dtype())),
                   gates.dtype(), gate, size);
      cpu::MulRow(read.y + i * size, gate, read.y + i * size, size);
    }
  };
  return cpu::LinearGlobal(backend, core);
}

}  // namespace

void RegisterMalaCpu(Registry& registry);

void RegisterMalaCpu(Registry& registry) {
  registry.AddKernel("mala",
                     {"global_cpu", Device::kCpu, [](const BoundCall&) { return true; }, Run});
}

}  // namespace attnd
