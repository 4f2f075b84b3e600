#include <string>

#include "absl/strings/str_cat.h"
#include "kernels/core/part_call.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/rms_norm.h"
#include "kernels/cores/tokens_seen.h"
#include "kernels/cores/window_branch.h"

namespace attnd {
namespace {

constexpr char kAllOfTheState[] = "  # all of the state, or none of it";

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "infinite_vl",
      .paper =
          "InfiniteVL: Synergizing Linear and Sparse Attention for Highly-Efficient, "
          "Unlimited-Input Vision-Language Models (2025)",
      .summary = "A mixer layer with its projections: gated delta rule, or softmax in a window",
      .core = "delta",
      .definition =
          R"(The two token mixers of a constant-memory decoder, projections included ("InfiniteVL: Synergizing Linear and Sparse Attention for Highly-Efficient, Unlimited-Input Vision-Language Models", 2025).
  gdn: q, k, v = silu(conv(W x)); S by gated_delta_rule; y = W_o (rms(o) o_norm silu(w_g x))
  swa: y = W_o softmax_attention(rot(q), rot(k), v; causal, in a window), q, k, v = W x + b)",
      .inputs = {"x: float[B,T,D]",
                 "w_q: float[Q,D] ~small  # num_heads K rows",
                 "w_k: float[E,D] ~small  # as many; swa: num_kv_heads K",
                 "w_v: float[R,D] ~small  # num_heads V rows; swa: num_kv_heads K",
                 "w_o: float[D,O] ~small",
                 "b_q: float[Q] if layer == 'swa'",
                 "b_k: float[E] if layer == 'swa'",
                 "b_v: float[R] if layer == 'swa'",
                 "cos: float32[B,T,K] if layer == 'swa'  # of the absolute positions",
                 "sin: float32[B,T,K] if layer == 'swa'",
                 "w_g: float[R,D] if layer == 'gdn' ~small  # output gate",
                 "w_a: float[num_heads,D] if layer == 'gdn' ~small  # decay",
                 "w_b: float[num_heads,D] if layer == 'gdn' ~small  # write strength",
                 "conv_q: float[Q,4] if layer == 'gdn'  # tap 3 meets the current token",
                 "conv_k: float[Q,4] if layer == 'gdn'",
                 "conv_v: float[R,4] if layer == 'gdn'",
                 "A_log: float32[num_heads] if layer == 'gdn'",
                 "dt_bias: float32[num_heads] if layer == 'gdn'",
                 "o_norm: float[V] if layer == 'gdn'",
                 "initial_state: float32[M,num_heads,K,V]? if layer == 'gdn' ~small  # zeros",
                 "initial_state_conv_q: float32[M,Q,3]? if layer == 'gdn'  # inputs, oldest first",
                 "initial_state_conv_k: float32[M,Q,3]? if layer == 'gdn'",
                 "initial_state_conv_v: float32[M,R,3]? if layer == 'gdn'",
                 "initial_state_k: float[M,window,HK,K]? if layer == 'swa'  # ring of rotated keys",
                 "initial_state_v: float[M,window,HK,K]? if layer == 'swa'",
                 "initial_state_pos: int64[M]? if layer == 'swa'  # tokens seen so far",
                 "cu_seqlens: int32[M+1]?  # packed sequences, B = 1"},
      .attributes = {"layer: {gdn, swa} = gdn", "num_heads: int >= 1",
                     "num_kv_heads: int? >= 1  # swa",
                     "window: int = 8192 >= 1  # swa: positions that a query reads, its own "
                     "included",
                     "norm_eps: float = 1e-5 >= 0  # gdn: inside the root of the norm"},
      .outputs = {"y: float[B,T,D]", "final_state: float32[M,num_heads,K,V] if layer == 'gdn'",
                  "final_state_conv_q: float32[M,Q,3] if layer == 'gdn'",
                  "final_state_conv_k: float32[M,Q,3] if layer == 'gdn'",
                  "final_state_conv_v: float32[M,R,3] if layer == 'gdn'",
                  "final_state_k: float[M,window,HK,K] if layer == 'swa'",
                  "final_state_v: float[M,window,HK,K] if layer == 'swa'",
                  "final_state_pos: int64[M] if layer == 'swa'"},
      .derived = {"K = ceil_div(Q, num_heads)", "V = ceil_div(R, num_heads)",
                  "HK = select(layer == 'swa' && has(num_kv_heads), num_kv_heads, num_heads)"},
      .rules = {"Q % num_heads == 0  # w_q with rows for every head",
                "layer == 'swa' -> has(num_kv_heads)  # num_kv_heads with swa",
                "num_heads % HK == 0  # num_kv_heads that divide num_heads",
                "layer == 'gdn' -> R % num_heads == 0  # w_v with rows for every head",
                "E == HK * K  # w_k with K rows for every head",
                "layer == 'swa' -> R == HK * K  # w_v with K rows for every head",
                "O == select(layer == 'gdn', R, Q)  # w_o with a column for each row of the heads",
                std::string("has(initial_state) == has(initial_state_conv_q)") + kAllOfTheState,
                std::string("has(initial_state) == has(initial_state_conv_k)") + kAllOfTheState,
                std::string("has(initial_state) == has(initial_state_conv_v)") + kAllOfTheState,
                std::string("has(initial_state_k) == has(initial_state_v)") + kAllOfTheState,
                std::string("has(initial_state_k) == has(initial_state_pos)") + kAllOfTheState},
  };
  return schema;
}

// x W^T, [B,T,rows of W].
Array Projected(Composer& c, const Array& x, absl::string_view weight) {
  return MatMul(x, c.In(weight).T());
}

Array Heads(const Array& x, int64_t heads) {
  return x.defined() ? x.Reshape({x.dim(0), x.dim(1), heads, x.dim(2) / heads}) : x;
}

Array Joined(const Array& x) {
  return x.defined() ? x.Reshape({x.dim(0), x.dim(1), x.dim(2) * x.dim(3)}) : x;
}

// silu(conv(W x)) of q, k or v; writes the convolution's state.
Array Convolved(Composer& c, absl::string_view which) {
  PartCall conv(c, "short_conv");
  conv.In("x", Projected(c, c.In("x"), absl::StrCat("w_", which)));
  conv.In("weight", c.In(absl::StrCat("conv_", which)));
  conv.In("initial_state", c.In(absl::StrCat("initial_state_conv_", which)));
  c.Out(absl::StrCat("final_state_conv_", which), conv.Out("final_state"));
  return Heads(conv.Out("o"), c.integer("num_heads"));
}

Array Delta(Composer& c) {
  const Array x = c.In("x");
  PartCall delta(c, "gated_delta_rule");
  delta.In("q", Convolved(c, "q")).In("k", Convolved(c, "k")).In("v", Convolved(c, "v"));
  delta.In("g", Projected(c, x, "w_a")).In("beta", Projected(c, x, "w_b"));
  delta.Pass("A_log").Pass("dt_bias").Pass("initial_state");
  delta.Set("gate", std::string("softplus")).Set("beta_sigmoid", true);
  delta.Set("qk_l2norm", true).Set("qk_l2norm_eps", 1e-6);
  const Array o = RmsNorm(delta.Out("o"), c.In("o_norm"), c.real("norm_eps"));
  c.Out("final_state", delta.Out("final_state"));
  return Joined(o) * Silu(Projected(c, x, "w_g"));
}

// Halves turned: x cos + [-x2, x1] sin.
Array Turned(Composer& c, const Array& x) {
  if (!x.defined()) return {};
  const int64_t half = x.dim(3) / 2;
  const Array turned = Concat(-x.Slice(3, half, half), x.Slice(3, 0, half), -1);
  return x * c.In("cos").Unsqueeze(2) + turned * c.In("sin").Unsqueeze(2);
}

Array Window(Composer& c) {
  const int64_t key_heads = c.dim("HK");
  const auto heads = [&](const char* weight, const char* bias, int64_t count) {
    return Heads(Projected(c, c.In("x"), weight) + c.In(bias), count);
  };
  PartCall window(c, "softmax_attention");
  window.In("q", Turned(c, heads("w_q", "b_q", c.integer("num_heads"))));
  window.In("k", Turned(c, heads("w_k", "b_k", key_heads)));
  window.In("v", heads("w_v", "b_v", key_heads));
  window.Pass("initial_state_k").Pass("initial_state_v").Pass("initial_state_pos");
  window.Set("causal", true).Set("cache", std::string("ring"));
  window.Set("window_left", c.integer("window") - 1);
  WindowStates(c, window);
  return Joined(window.Out("o"));
}

absl::Status Compose(Composer& c) {
  const Array mixed = c.choice("layer") == "gdn" ? Delta(c) : Window(c);
  c.Out("y", Projected(c, mixed, "w_o"));
  return c.status();
}

absl::Status Check(const BoundCall& call) {
  if (call.choice("layer") == "swa" && call.dim("K") % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("infinite_vl: w_q: given K=", call.dim("K"),
                                                   ", expected an even K for the rotation"));
  }
  return CheckTokensSeen(call, "initial_state_pos");
}

void Draw(RandomSource& source) {
  const bool swa = source.options().random_attributes && source.Uniform(0, 1) == 1;
  source.Attribute("layer", std::string(swa ? "swa" : "gdn"));
  source.Together(
      {"initial_state", "initial_state_conv_q", "initial_state_conv_k", "initial_state_conv_v"});
  const bool ring = source.Together({"initial_state_k", "initial_state_v", "initial_state_pos"});
  const int64_t kv_heads = source.Uniform(1, 2), K = 2 * source.Uniform(1, 6);
  const int64_t heads = kv_heads * source.Uniform(1, 2), V = source.Uniform(2, 12);
  const int64_t window = source.Uniform(1, 30);
  source.Attribute("num_heads", heads);
  if (swa) source.Attribute("num_kv_heads", kv_heads);
  source.Attribute("window", window);
  source.Dim("Q", heads * K);
  source.Dim("E", (swa ? kv_heads : heads) * K);
  const int64_t R = source.Dim("R", swa ? kv_heads * K : heads * V);
  source.Dim("O", swa ? heads * K : R);
  source.Dim("D", source.Uniform(4, 24));
  if (!swa || !ring) return;
  const int64_t B = source.Dim("B", source.Uniform(1, 3));
  std::vector<int64_t> seen(
      static_cast<size_t>(source.Dim("M", source.options().packed ? source.Uniform(1, 4) : B)));
  for (int64_t& tokens : seen) tokens = source.Uniform(0, 3 * window);
  source.request().inputs.Set("initial_state_pos",
                              HostTensor<int64_t>({static_cast<int64_t>(seen.size())}, seen));
}

}  // namespace

void RegisterInfiniteVl(Registry& registry);

void RegisterInfiniteVl(Registry& registry) {
  Operator& op = registry.AddOfParts(Schema(), Compose);
  op.check = Check;
  op.random = Draw;
  op.causal = [](const BoundCall&) { return true; };
}

}  // namespace attnd
