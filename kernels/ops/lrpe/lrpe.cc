#include "kernels/cores/lrpe.h"

#include <algorithm>

#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/grid.h"
#include "kernels/cores/tokens_seen.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "lrpe",
      .paper = "Linearized Relative Positional Encoding (2023)",
      .summary = "Relative positions for linear attention: a unitary transform by position",
      .core = "none",
      .definition =
          R"(Linearised relative positions of queries or keys (Qin et al., 2023; see cores/lrpe.h). angle[t,h,i] = (pos + t) theta[h,i];  y = [x cos, x sin], or x with its halves turned)",
      .inputs = {"x: float[B,T,H,K]  # queries or keys, after the feature map",
                 "theta: float32[HT,E]?  # angles per position, of each head or of all; in a "
                 "sequence those that are missing are 0",
                 "initial_state_pos: int64[M]? if !has(width)  # position of the first token; 0",
                 "cu_seqlens: int32[M+1]? if !has(width)  # packed sequences, B = 1"},
      .attributes = GridAttributes(
          {"kind: {cosine, rotate} = cosine  # cosine doubles the head size",
           "theta_rule: {head, shared} = head  # of the default theta: base^(-2 (h n + i) / (H "
           "n)), or base^(-2 i / K)",
           "base: float = 10000 > 0",
           "prefix: int = 0 >= 0  # leading tokens of angle 0, before a grid"}),
      .outputs = {"y: float[B,T,H,Y]", "final_state_pos: int64[M] if !has(width)"},
      .derived = {"Y = select(kind == 'cosine', 2 * K, K)",
                  "n = select(kind == 'cosine', K, ceil_div(K, 2))",
                  "axes = select(has(depth), 3, select(has(height), 2, 1))",
                  "least = ceil_div(n, axes)"},
      .rules = GridRules({"kind == 'rotate' -> K % 2 == 0  # an even K with rotate",
                          "has(theta) -> HT == 1 || HT == H  # theta of every head, or of all",
                          "has(theta) && !has(width) -> E <= n  # no more angles than a row has",
                          "has(theta) && has(width) -> E >= least  # angles for a row from all "
                          "axes",
                          "prefix == 0 || has(width)  # a prefix with a grid"},
                         "T - prefix"),
  };
  return schema;
}

absl::Status Compose(Composer& c) {
  const bool grid = c.call().has_attribute("width");
  const LrpeForm form = {c.choice("kind") == "cosine" ? LrpeKind::kCosine : LrpeKind::kRotate,
                         c.dim("K"), c.dim("axes")};
  Array theta = c.In("theta");
  if (!c.has("theta")) {
    theta = c.choice("theta_rule") == "head" ? LrpeThetaByHead(c, form, c.dim("H"), c.real("base"))
                                             : SharedLrpeTheta(c, form, c.real("base"));
  }
  const int64_t prefix = c.integer("prefix"), B = c.dim("B"), T = c.dim("T");
  const Array seen = c.In("initial_state_pos");
  const Array angles = grid ? LrpeGridAngles(c, form, theta, GridOf(c.call(), T - prefix), prefix)
                            : LrpeAngles(c, form, theta, seen, B, T);
  c.Out("y", EncodeLrpe(form, c.In("x"), angles));
  const Array start = seen.defined() ? c.Cast(seen, DType::kFloat64) : c.Zeros({B});
  c.Out("final_state_pos", start + static_cast<double>(T));
  return c.status();
}

void Draw(RandomSource& source) {
  const int64_t K = source.Dim("K", 2 * source.Uniform(1, 10));
  const int64_t heads = source.Dim("H", source.Uniform(1, 4));
  source.Dim("HT", source.Uniform(0, 1) == 0 ? 1 : heads);
  int64_t axes = 0;
  // Grids in a few of a test's calls: they carry no state.
  if (source.options().random_attributes && !source.options().packed && source.Uniform(0, 3) == 0 &&
      !source.options().dims.contains("T")) {
    const int64_t prefix = source.Uniform(0, 3);
    source.Attribute("prefix", prefix);
    axes = DrawGrid(source, "T", source.Uniform(1, 3), prefix);
  }
  const AttrValue* kind = source.request().attributes.Find("kind");
  const bool rotate = kind != nullptr && *kind == AttrValue(std::string("rotate"));
  const int64_t n = rotate ? K / 2 : K;
  source.Dim("E", axes > 0 ? n : source.Uniform(1, n));
}

}  // namespace

void RegisterLrpe(Registry& registry);

void RegisterLrpe(Registry& registry) {
  Operator& op = registry.Add(Schema(), Compose);
  op.check = [](const BoundCall& call) { return CheckTokensSeen(call, "initial_state_pos"); };
  op.random = Draw;
  op.causal = [](const BoundCall& call) { return !call.has_attribute("width"); };
}

}  // namespace attnd
