#include "kernels/core/registry.h"
#include "kernels/cores/scan_state.h"
#include "kernels/primitives/composer.h"

namespace attnd {
namespace {

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "qlstm",
      .paper =
          "Understanding the differences in Foundation Models: Attention, State Space Models, and "
          "Recurrent Neural Networks (2024)",
      .summary = "Quasi-LSTM: a recurrence per channel whose gates see the input alone",
      .core = "scan",
      .definition =
          R"(An LSTM whose gates see the input alone, so that it runs as a scan (Sieber et al., 2024). h_t = a_t h_{t-1} + w_t act(x_t),  o_t = gelu(gate_t) sigmoid(o_t) outact(h_t)
  a = sigmoid(-f)^max(alpha,0) = exp(-max(alpha,0) softplus(f)), or sigmoid(f);  w = sigmoid(i), or 1 - a)",
      .inputs = {"x: float[B,T,D]  # candidate", "f: float[B,T,D]  # forget logit",
                 "i: float[B,T,D] if !tied  # input logit",
                 "o: float[B,T,D]?  # output logit; no output gate when absent",
                 "gate: float[B,T,D]?  # the output is multiplied by gelu(gate)",
                 "alpha: float32[]|[1]? if reversed ~positive  # exponent of the forget gate; 1",
                 "initial_state: float32[M,D]? ~small  # zeros when absent",
                 "cu_seqlens: int32[M+1]?  # packed sequences, B = 1"},
      .attributes = {"reversed: bool = true  # forget gate sigmoid(-f)^max(alpha,0), or sigmoid(f)",
                     "tied: bool = false  # input gate 1 - a, or sigmoid(i)",
                     "activation: {none, tanh} = none  # of x",
                     "output_activation: {none, tanh} = none  # of the state, before the gates"},
      .outputs = {"o: float[B,T,D]", "final_state: float32[M,D]"},
  };
  return schema;
}

Array Activated(const std::string& activation, const Array& x) {
  return activation == "tanh" ? Apply(UnaryOp::kTanh, x) : x;
}

absl::Status Compose(Composer& c) {
  const Array f = c.In("f"), initial = c.In("initial_state");
  Array keep, complement;
  if (!c.flag("reversed")) {
    keep = Sigmoid(f);
    complement = Sigmoid(-f);
  } else if (!c.has("alpha")) {
    keep = Sigmoid(-f);
    complement = Sigmoid(f);
  } else {
    const Array alpha = Maximum(c.In("alpha").Reshape({1}), 0.0);
    keep = Exp(-(alpha * Softplus(f)));
    complement = 1.0 - keep;
  }
  const Array write = c.flag("tied") ? complement : Sigmoid(c.In("i"));
  const Array h = LinearScan(keep, write * Activated(c.choice("activation"), c.In("x")), initial);
  Array o = Activated(c.choice("output_activation"), h);
  if (c.has("o")) o = o * Sigmoid(c.In("o"));
  if (c.has("gate")) o = o * Gelu(c.In("gate"));
  c.Out("o", o);
  c.Out("final_state", LastOr(c, h, initial));
  return c.status();
}

}  // namespace

void RegisterQlstm(Registry& registry);

void RegisterQlstm(Registry& registry) {
  registry.Add(Schema(), Compose).causal = [](const BoundCall&) { return true; };
}

}  // namespace attnd
