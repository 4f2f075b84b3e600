#include "kernels/core/registry.h"
#include "kernels/cores/rms_norm.h"
#include "kernels/primitives/composer.h"

namespace attnd {
namespace {

constexpr char kShapes[] = "float[D]|[R1,D]|[R2,R1,D]|[R3,R2,R1,D]|[R4,R3,R2,R1,D]";

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "srmsnorm",
      .paper = "TransNormerLLM: A Faster and Better Large Language Model (2023)",
      .summary = "Root-mean-square normalisation without a weight",
      .core = "none",
      .definition =
          R"(Root-mean-square normalisation without a weight (Qin et al., "TransNormerLLM", 2023).
  y = x / sqrt(mean x^2 + eps), or x / (sqrt(mean x^2) + eps))",
      .inputs = {std::string("x: ") + kShapes + "  # normalised over the last axis"},
      .attributes = {"eps: float = 1e-6 >= 0",
                     "eps_position: {inside, outside} = inside  # of the root"},
      .outputs = {std::string("y: ") + kShapes},
      .may_be_zero = "R1 R2 R3 R4",
  };
  return schema;
}

absl::Status Compose(Composer& c) {
  const Array x = c.In("x");
  const double eps = c.real("eps");
  if (c.choice("eps_position") == "inside") {
    c.Out("y", RmsNorm(x, {}, eps));
  } else {
    const Array squares = Sum(Apply(UnaryOp::kSquare, x), -1) / static_cast<double>(c.dim("D"));
    c.Out("y", x / (Sqrt(squares) + eps));
  }
  return c.status();
}

}  // namespace

void RegisterSrmsnorm(Registry& registry);

void RegisterSrmsnorm(Registry& registry) { registry.Add(Schema(), Compose); }

}  // namespace attnd
