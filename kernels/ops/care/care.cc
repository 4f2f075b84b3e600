#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/core/registry.h"
#include "kernels/cores/entry_check.h"
#include "kernels/cores/feature_maps.h"
#include "kernels/cores/image_conv.h"
#include "kernels/cores/layers.h"
#include "kernels/cores/mean_attention.h"

namespace attnd {
namespace {

constexpr char kInteraction[] = "inter1_norm_weight";

// The lines of an interaction module on `channels` channels.
std::vector<std::string> Interaction(absl::string_view name, absl::string_view channels,
                                     absl::string_view rows) {
  std::vector<std::string> lines;
  const auto add = [&](absl::string_view port, absl::string_view type,
                       absl::string_view distribution = "") {
    const bool first = absl::StrCat(name, port) == kInteraction;
    const bool last = absl::StrCat(name, port).find("inter2_fc2") == 0;
    const std::string condition =
        absl::StrCat(" if has(", kInteraction, ")", last ? " && !last" : "");
    lines.push_back(absl::StrCat(name, port, ": ", type, first ? "?" : condition, distribution));
  };
  const std::string per_channel = absl::StrCat("[", channels, "]");
  add("_norm_weight", absl::StrCat("float", per_channel));
  add("_norm_bias", absl::StrCat("float", per_channel));
  add("_norm_mean", absl::StrCat("float", per_channel));
  add("_norm_var", absl::StrCat("float32", per_channel), " ~positive");
  add("_fc1_weight", absl::StrCat("float[", rows, ",", channels, "]"), " ~small");
  add("_fc1_bias", absl::StrCat("float[", rows, "]"));
  add("_conv_weight", absl::StrCat("float[", rows, ",3,3]"));
  add("_conv_bias", absl::StrCat("float[", rows, "]"));
  add("_fc2_weight", absl::StrCat("float[", channels, ",", rows, "]"), " ~small");
  add("_fc2_bias", absl::StrCat("float", per_channel));
  return lines;
}

const SchemaText& Schema() {
  static const SchemaText schema = [] {
    SchemaText text = {
        .id = "care",
        .paper =
            "CARE Transformer: Mobile-Friendly Linear Visual Transformer via Decoupled Dual "
            "Interaction (2025)",
        .summary = "A unit of linear attention and convolutions on groups of channels",
        .core = "linear_global",
        .definition =
            R"(Channels split among a memory, linear attention and two convolutions, then two interaction modules that mix them (Zhou et al., 2025). x = [mem | a | c3 | c7] along channels:
  c3 <- conv3x3(c3), c7 <- conv7x7(c7)
  a  <- linear attention of elu + 1 features with mean normaliser, v = a; or conv11x1(a) + conv1x11(a) f = [a | c3 | c7],  f <- I1(f),  o = I2([mem | f]),  I(y) = fc2(conv3x3(gelu(fc1(bn(y))))) + y
Convolutions are depthwise.)",
        .inputs = {"x: float[B,N,C]  # channels: memory, attention, 3x3, 7x7",
                   "conv3_weight: float[g,3,3]", "conv3_bias: float[g]",
                   "conv7_weight: float[g,7,7]", "conv7_bias: float[g]",
                   "qk_weight: float[2*g,g] if mixer == 'attention'  # rows of q, then of k",
                   "qk_bias: float[2*g] if mixer == 'attention'",
                   "conv11v_weight: float[g,11,1] if mixer == 'conv'",
                   "conv11v_bias: float[g] if mixer == 'conv'",
                   "conv11h_weight: float[g,1,11] if mixer == 'conv'",
                   "conv11h_bias: float[g] if mixer == 'conv'"},
        .attributes = {"height: int >= 1  # of the image", "width: int >= 1  # of the image",
                       "mixer: {attention, conv} = attention",
                       "head_dim: int = g >= 1  # channels of a head",
                       "last: bool = false  # of the network: no second layer at the end",
                       "eps: float = 1e-6 >= 0  # added to the normaliser",
                       "bn_eps: float = 1e-5 >= 0"},
        .outputs = {"o: float[B,N,CO]"},
        .derived = {"CO = select(last, R2, C)"},
        .rules = {"N == height * width  # height * width tokens",
                  "C >= 3 * g  # three groups of channels, and the memory",
                  "g % head_dim == 0  # head_dim that divides the group",
                  "last -> has(inter1_norm_weight)  # the interaction inputs with last",
                  "has(inter1_norm_weight) -> R1 % (3 * g) == 0  # inter1_fc1_weight with a "
                  "multiple of its columns as rows",
                  "has(inter1_norm_weight) -> R2 % C == 0  # inter2_fc1_weight with a multiple of "
                  "its columns as rows"},
    };
    for (const auto& module :
         {Interaction("inter1", "3*g", "R1"), Interaction("inter2", "C", "R2")}) {
      text.inputs.insert(text.inputs.end(), module.begin(), module.end());
    }
    return text;
  }();
  return schema;
}

absl::Status Check(const BoundCall& call) {
  for (const absl::string_view input : {"inter1_norm_var", "inter2_norm_var"}) {
    const absl::Status status = CheckEntries(
        call, input, [](double variance) { return variance >= 0; }, "variances >= 0");
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

Array Convolved(Composer& c, const Array& x, absl::string_view name) {
  return DepthwiseConv(x, c.In(absl::StrCat(name, "_weight")), c.In(absl::StrCat(name, "_bias")),
                       c.integer("height"), c.integer("width"));
}

Array Attended(Composer& c, const Array& a) {
  const int64_t size = c.integer("head_dim"), group = c.dim("g");
  const Dims heads = {c.dim("B"), c.dim("N"), group / size, size};
  const Array qk = Apply(FeatureMap::kElu1, Dense(a, c.In("qk_weight"), c.In("qk_bias")));
  return MeanAttention(c, qk.Slice(2, 0, group).Reshape(heads),
                       qk.Slice(2, group, group).Reshape(heads), a.Reshape(heads), c.real("eps"))
      .Reshape({c.dim("B"), c.dim("N"), group});
}

Array Interact(Composer& c, absl::string_view name, const Array& y, bool whole) {
  const auto in = [&](absl::string_view part) { return c.In(absl::StrCat(name, part)); };
  const Array normed = BatchNorm(y, in("_norm_weight"), in("_norm_bias"), in("_norm_mean"),
                                 in("_norm_var"), c.real("bn_eps"));
  const Array hidden = Convolved(c, Gelu(Dense(normed, in("_fc1_weight"), in("_fc1_bias"))),
                                 absl::StrCat(name, "_conv"));
  return whole ? Dense(hidden, in("_fc2_weight"), in("_fc2_bias")) + y : hidden;
}

absl::Status Compose(Composer& c) {
  const int64_t group = c.dim("g"), memory = c.dim("C") - 3 * group;
  const Array x = c.In("x");
  const auto channels = [&](int64_t index) { return x.Slice(2, memory + index * group, group); };
  const Array a = channels(0);
  const Array mixed = c.choice("mixer") == "attention"
                          ? Attended(c, a)
                          : Convolved(c, a, "conv11v") + Convolved(c, a, "conv11h");
  Array f = Concat(Concat(mixed, Convolved(c, channels(1), "conv3"), 2),
                   Convolved(c, channels(2), "conv7"), 2);
  const auto with_memory = [&] { return Concat(x.Slice(2, 0, memory), f, 2); };
  if (!c.has(kInteraction)) {
    c.Out("o", with_memory());
    return c.status();
  }
  f = Interact(c, "inter1", f, true);
  c.Out("o", Interact(c, "inter2", with_memory(), !c.flag("last")));
  return c.status();
}

void Draw(RandomSource& source) {
  const int64_t size = source.Uniform(1, 6);
  const int64_t group = source.Dim("g", size * source.Uniform(1, 3));
  if (source.options().random_attributes && group % size == 0) source.Attribute("head_dim", size);
  const int64_t channels = source.Dim("C", 3 * group + source.Uniform(0, 6));
  source.Dim("R1", 3 * group * source.Uniform(1, 2));
  source.Dim("R2", channels * source.Uniform(1, 2));
  if (!source.Wants(kInteraction)) source.Attribute("last", false);
  DrawImage(source, "N");
}

}  // namespace

void RegisterCare(Registry& registry);

void RegisterCare(Registry& registry) {
  Operator& op = registry.AddOfParts(Schema(), Compose);
  op.check = Check;
  op.random = Draw;
}

}  // namespace attnd
