// Causal attention with data-dependent decay over random tokens, then once more from the state that
// the first call handed back:   example [host:port]
#include <cmath>
#include <cstdint>
#include <iostream>
#include <random>
#include <utility>
#include <vector>

#include "attnd/client.h"

using attnd::client::Call;
using attnd::client::Client;
using attnd::client::Tensor;

int main(int argc, char** argv) {
  const auto client = Client::Connect(argc > 1 ? argv[1] : "localhost:8001");
  if (!client.ok()) {
    std::cerr << client.status() << "\n";
    return 1;
  }
  std::mt19937 generator(1);
  std::normal_distribution<float> normal;
  const auto random = [&](std::vector<int64_t> shape, float low, float factor) {
    size_t count = 1;
    for (int64_t size : shape) count *= size;
    std::vector<float> values(count);
    for (float& value : values) value = low + factor * std::abs(normal(generator));
    return Tensor::Of<float>(std::move(shape), values);
  };

  // [batch, tokens, heads, head size]
  Call call{.op = "gla",
            .inputs = {{"q", random({1, 128, 4, 32}, 0, 1)},
                       {"k", random({1, 128, 4, 32}, 0, 1)},
                       {"v", random({1, 128, 4, 32}, 0, 1)},
                       {"g", random({1, 128, 4}, 0, -0.1f)}}};
  const auto first = client->Evaluate(call);
  if (!first.ok()) {
    std::cerr << first.status() << "\n";
    return 1;
  }
  call.inputs["initial_state"] = first->outputs.at("final_state");
  const auto second = client->Evaluate(std::move(call));
  if (!second.ok()) {
    std::cerr << second.status() << "\n";
    return 1;
  }
  for (const auto& [name, tensor] : second->outputs) {
    std::cout << name << ": " << tensor.DebugString() << "\n";
  }
  std::cout << "kernel " << second->kernel << " on " << second->device << "\n";
  return 0;
}
