#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/core/part_call.h"
#include "kernels/core/random_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/block_choice.h"
#include "kernels/cores/layers.h"
#include "kernels/cores/resize.h"
#include "kernels/cores/softmax_composed.h"

namespace attnd {
namespace {

constexpr double kLayerNormEps = 1e-5;

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "sea",
      .paper = "SEA: Sparse Linear Attention with Estimated Attention Mask (2024)",
      .summary = "Sparse attention to the keys that a linear attention and a decoder estimate",
      .core = "sparse_estimated",
      .definition =
          R"(A linear attention feeds a small decoder that estimates the attention matrix in a compressed width; its top entries, stretched to the true width, choose the keys of an exact sparse attention, which is mixed with an average ("SEA: Sparse Linear Attention with Estimated Attention Mask", 2024). Steps are numbered as in the operator's definition.)",
      .inputs = {"q: float[B,T,H,K]",
                 "k: float[B,T,H,K]",
                 "v: float[B,T,H,K]",
                 "projection: float[R,K]  # random features",
                 "enc_w: float[3*K,2*K] ~small  # encoder",
                 "enc_b: float[2*K]",
                 "enc_ln_w: float[2*K]",
                 "enc_ln_b: float[2*K]",
                 "row_w: float[2*K,D]  # rows of the compressed matrix",
                 "row_b: float[D]",
                 "scaler_w: float[2*K,2]  # gates of the mix",
                 "scaler_b: float[2]",
                 "conv1_w: float[C,C,3,3]",
                 "conv1_b: float[C]",
                 "conv2_w: float[C,C,3,3]",
                 "conv2_b: float[C]",
                 "conv3_w: float[H,C,CK,CK]",
                 "conv3_b: float[H]",
                 "cnn_ln1_w: float[PQ] if causal",
                 "cnn_ln1_b: float[PQ] if causal",
                 "cnn_ln2_w: float[PC] if causal",
                 "cnn_ln2_b: float[PC] if causal",
                 "v_pos: float[TP,K] if causal  # learned position values"},
      .attributes = {"causal: bool = false",
                     "predictor_length: int = 128 >= 2  # compressed width P",
                     "top_k: int = 7 >= 1  # keys per query and head, on average",
                     "budget: {item, query}?  # over what the top entries are drawn; absent: item, "
                     "query if causal",
                     "scale: float = 1/sqrt(K)  # multiplies q.k", "return_mask: bool = false"},
      .outputs = {"o: float[B,T,H,K]", "estimate: float32[B,H,T,predictor_length] if return_mask",
                  "token_mask: bool[B,H,T,T] if return_mask  # keys that were read"},
      .derived = {"C = select(causal, 2 * H, 4 * H)",
                  "D = select(causal, floor(predictor_length / 2), 2 * predictor_length)",
                  "PQ = floor(predictor_length / 4)", "PC = predictor_length"},
      .rules = {"predictor_length % select(causal, 4, 2) == 0  # a multiple of 2, of 4 if causal",
                "has(budget) && budget == 'item' -> !causal  # a budget of the whole item without "
                "causal",
                "CK == select(causal, 1, 3)  # conv3 of 1 by 1 if causal, else 3 by 3",
                "causal -> TP >= T  # position values for every token"},
      .float32_tolerance = 1e-4,
  };
  return schema;
}

class Sea {
 public:
  explicit Sea(Composer& c)
      : c_(c),
        causal_(c.flag("causal")),
        rows_(c.dim("B")),
        tokens_(c.dim("T")),
        heads_(c.dim("H")),
        size_(c.dim("K")),
        width_(c.integer("predictor_length")),
        q_(c.In("q")),
        k_(c.In("k")),
        v_(c.In("v")) {}

  absl::Status Run() {
    const Array encoded = Encoded();
    const Array estimate = Softmax(causal_ ? CausalCnn(Image(encoded)) : Cnn(Image(encoded)));
    const Array kept = Kept(estimate);
    Array token_mask;
    if (c_.flag("return_mask")) {
      token_mask = c_.Cast(c_.Zeros({rows_, heads_, tokens_, tokens_}), DType::kBool);
    }
    const Array attended = Attended(kept, token_mask);
    const Array gates = Sigmoid(MatMul(encoded, c_.In("scaler_w")) + c_.In("scaler_b"));
    const Array inner = gates.Slice(-1, 0, 1), outer = gates.Slice(-1, 1, 1);
    c_.Out("o", outer * inner * attended + (1.0 - outer) * Average(estimate));
    c_.Out("estimate", estimate);
    c_.Out("token_mask", token_mask);
    return c_.status();
  }

 private:
  // 1. [T,K]
  Array Positions() const {
    if (causal_) return c_.In("v_pos").Slice(0, 0, tokens_);
    std::vector<double> values;
    for (int64_t t = 0; t < tokens_; ++t) {
      const double at = tokens_ == 1 ? 0
                                     : static_cast<double>(t) / static_cast<double>(tokens_ - 1) *
                                           static_cast<double>(size_ - 1);
      for (int64_t i = 0; i < size_; ++i) {
        values.push_back(std::max(0.0, 1 - std::abs(at - static_cast<double>(i))));
      }
    }
    return c_.FromHost(HostTensor<double>({tokens_, size_}, values));
  }

  // Random features of x [B,T,H,K] -> [B,T,H,R]; of keys or of queries.
  Array Features(const Array& x, bool keys) const {
    const auto size = static_cast<double>(size_);
    const Array dots = MatMul(x * std::pow(size, -0.25), c_.In("projection").T());
    if (causal_) return Apply(UnaryOp::kRelu, dots) + 1e-3;
    const Array norm = Sum(Apply(UnaryOp::kSquare, x), -1) / (2 * std::sqrt(size));
    Array most = Max(dots, -1);
    if (keys) most = Max(most, 1);
    return (Exp(dots - norm - most) + 1e-4) / std::sqrt(static_cast<double>(c_.dim("R")));
  }

  // 2. and 3. [B,T,H,2K]
  Array Encoded() const {
    const Dims shape = {rows_, tokens_, heads_, size_};
    const Array ones = c_.Full({rows_, tokens_, heads_, 1}, 1);
    const Array values = Concat(Positions().Unsqueeze(1).Expand(shape), v_, -1);
    const Array queries = Features(causal_ ? q_ * c_.real("scale") : q_, false);
    PartCall attention(c_, "linear_attention");
    attention.In("q", queries).In("k", Features(k_, true)).In("v", Concat(values, ones, -1));
    attention.Set("causal", causal_).Set("scale", 1.0);
    const Array sums = attention.Out("o");
    Array divisor = sums.Slice(-1, 2 * size_, 1);
    if (causal_) divisor = divisor + Sum(queries, -1) * 1e-6;
    const Array context = sums.Slice(-1, 0, 2 * size_) / divisor;
    const Array dense = MatMul(Concat(context, v_, -1), c_.In("enc_w")) + c_.In("enc_b");
    return Gelu(LayerNorm(dense, c_.In("enc_ln_w"), c_.In("enc_ln_b"), kLayerNormEps));
  }

  // 4. [B,C,T,D heads / C]
  Array Image(const Array& encoded) const {
    const Array y = MatMul(encoded, c_.In("row_w")) + c_.In("row_b");
    const int64_t channels = c_.dim("C");
    return y.Reshape({rows_, tokens_, channels, heads_ * c_.dim("D") / channels}).Transpose(1, 2);
  }

  // Cross-correlation of x [B,C,n,w] with 3 by 3 kernels: output row t reads rows first + step t +
  // spread {0, 1, 2} and columns as far apart, both zeros outside; the columns stay.
  Array Conv(const Array& x, const char* weights, const char* biases, int64_t rows, int64_t first,
             int64_t step, int64_t spread) const {
    const Array weight = c_.In(weights);
    const int64_t height = x.dim(2), columns = x.dim(3), above = std::max<int64_t>(0, -first);
    const int64_t below =
        std::max<int64_t>(0, first + step * (rows - 1) + 2 * spread - (height - 1));
    const Array padded = c_.Zeros({rows_, x.dim(1), above + height + below, columns + 2 * spread});
    padded.Slice(2, above, height).Slice(3, spread, columns).Assign(x);
    Array sum = c_.In(biases).Reshape({weight.dim(0), 1});
    for (int64_t r = 0; r < 3; ++r) {
      std::vector<int64_t> index;
      for (int64_t t = 0; t < rows; ++t) index.push_back(above + first + step * t + spread * r);
      const Array lines = Gather(padded, c_.FromHost(HostTensor<int64_t>({rows}, index)), 2);
      for (int64_t s = 0; s < 3; ++s) {
        const Array shifted = lines.Slice(3, spread * s, columns);
        sum = sum + MatMul(weight.Select(2, r).Select(2, s),
                           shifted.Reshape({rows_, x.dim(1), rows * columns}));
      }
    }
    return sum.Reshape({rows_, weight.dim(0), rows, columns});
  }

  // 5. [B,C,T,P/2] -> [B,H,T,P]
  Array Cnn(const Array& image) const {
    const int64_t half = (tokens_ + 1) / 2;
    Array x = Apply(UnaryOp::kRelu, Conv(image, "conv1_w", "conv1_b", half, -1, 2, 1));
    x = Apply(UnaryOp::kRelu, Conv(x, "conv2_w", "conv2_b", half, -1, 1, 1));
    x = Conv(x.RepeatTo(2, 2 * half), "conv3_w", "conv3_b", 2 * half, -1, 1, 1);
    return ResizeLinear(ResizeLinear(x, 2, tokens_), 3, width_);
  }

  // [B,C,T,P/4] -> [B,H,T,P]
  Array CausalCnn(const Array& image) const {
    Array x = LayerNorm(image, c_.In("cnn_ln1_w"), c_.In("cnn_ln1_b"), kLayerNormEps);
    x = Apply(UnaryOp::kRelu, Conv(x, "conv1_w", "conv1_b", tokens_, -4, 1, 2));
    x = Apply(UnaryOp::kRelu, Conv(x, "conv2_w", "conv2_b", tokens_, -4, 1, 2));
    x = x.RepeatTo(3, width_);
    const Array padded = c_.Zeros({rows_, x.dim(1), tokens_, width_ + 2});
    padded.Slice(3, 1, width_).Assign(x);
    const Array weight = c_.In("conv3_w").Reshape({heads_, x.dim(1)});
    const Array mixed = MatMul(weight, padded.Reshape({rows_, x.dim(1), tokens_ * (width_ + 2)})) +
                        c_.In("conv3_b").Reshape({heads_, 1});
    x = MatMul(mixed.Reshape({rows_, heads_, tokens_, width_ + 2}), Pooling());
    return LayerNorm(x, c_.In("cnn_ln2_w"), c_.In("cnn_ln2_b"), kLayerNormEps);
  }

  // [P+2,P]: adaptive averages.
  Array Pooling() const {
    const int64_t wide = width_ + 2;
    std::vector<double> shares(static_cast<size_t>(wide * width_));
    for (int64_t i = 0; i < width_; ++i) {
      const int64_t begin = i * wide / width_, end = ((i + 1) * wide + width_ - 1) / width_;
      for (int64_t m = begin; m < end; ++m) {
        shares[static_cast<size_t>(m * width_ + i)] = 1 / static_cast<double>(end - begin);
      }
    }
    return c_.FromHost(HostTensor<double>({wide, width_}, shares));
  }

  // 7. bool [B,H,T,P]
  Array Kept(const Array& estimate) const {
    const auto budget = [this](int64_t length) {
      const double share = static_cast<double>(c_.integer("top_k")) * static_cast<double>(width_) /
                           static_cast<double>(length);
      return std::nearbyint(static_cast<double>(heads_) * share);
    };
    const Dims shape = estimate.tensor().shape();
    const bool query =
        causal_ || (c_.call().has_attribute("budget") && c_.choice("budget") == "query");
    if (!query) {
      const double all = static_cast<double>(heads_ * tokens_ * width_);
      const double count = static_cast<double>(heads_) * static_cast<double>(width_) *
                           static_cast<double>(c_.integer("top_k"));
      return Largest(estimate.Reshape({rows_, heads_ * tokens_ * width_}), {},
                     static_cast<int64_t>(std::min(all, count)))
          .Reshape(shape);
    }
    std::vector<int64_t> counts;
    for (int64_t i = 0; i < tokens_; ++i) {
      const double most = static_cast<double>(heads_ * width_);
      counts.push_back(
          static_cast<int64_t>(std::clamp(budget(causal_ ? i + 1 : tokens_), 1.0, most)));
    }
    const Array by_query = estimate.Transpose(1, 2).Reshape({rows_, tokens_, heads_ * width_});
    const Array number = c_.FromHost(HostTensor<int64_t>({tokens_, 1}, counts));
    return (Ranks(by_query) < number).Reshape({rows_, tokens_, heads_, width_}).Transpose(1, 2);
  }

  // 8. The column of every one of `keys` keys under a length.
  void Columns(int64_t length, int64_t keys, std::vector<int64_t>* columns) const {
    for (int64_t j = 0; j < keys; ++j) {
      const double at = (static_cast<double>(j) + 0.5) / static_cast<double>(length) *
                        static_cast<double>(width_);
      columns->push_back(
          std::clamp<int64_t>(static_cast<int64_t>(std::floor(at - 1e-4)), 0, width_ - 1));
    }
  }

  // bool [B,H,count,keys] of queries [begin, begin + count).
  Array Allowed(const Array& kept, int64_t begin, int64_t count, int64_t keys) const {
    const Array rows = kept.Slice(2, begin, count);
    std::vector<int64_t> columns;
    if (!causal_) {
      Columns(tokens_, keys, &columns);
      return Gather(rows, c_.FromHost(HostTensor<int64_t>({keys}, columns)), 3);
    }
    for (int64_t i = begin; i < begin + count; ++i) Columns(i + 1, keys, &columns);
    const Array index = c_.FromHost(HostTensor<int64_t>({count, keys}, columns));
    const Array stretched =
        TakeRows(rows.Unsqueeze(-1), index.Expand({rows_, heads_, count, keys})).Select(-1, 0);
    return stretched && WindowPairs(c_, count, keys, true, -1, -1);
  }

  // 9. [B,T,H,K], some rows of scores at a time.
  Array Attended(const Array& kept, const Array& token_mask) const {
    constexpr int64_t kRows = 64;
    const Array o = c_.Empty({rows_, tokens_, heads_, size_});
    for (int64_t begin = 0; begin < tokens_ && c_.status().ok(); begin += kRows) {
      const int64_t count = std::min(kRows, tokens_ - begin);
      const int64_t keys = causal_ ? begin + count : tokens_;
      const Array allowed = Allowed(kept, begin, count, keys);
      const SoftmaxResult result = ComposeSoftmax(c_, {.q = q_.Slice(1, begin, count),
                                                       .k = k_.Slice(1, 0, keys),
                                                       .v = v_.Slice(1, 0, keys),
                                                       .allowed = allowed,
                                                       .scale = c_.real("scale")});
      o.Slice(1, begin, count).Assign(result.o);
      if (token_mask.defined()) {
        token_mask.Slice(2, begin, count).Slice(3, 0, keys).Assign(allowed);
      }
    }
    return o;
  }

  // 10. Broadcasts to [B,T,H,K].
  Array Average(const Array& estimate) const {
    if (causal_) return CumSum(v_, 1) / c_.Iota(tokens_, 1).Reshape({tokens_, 1, 1});
    const Array mean = Sum(estimate, 2) / static_cast<double>(tokens_);  // [B,H,1,P]
    std::vector<int64_t> columns;
    Columns(tokens_, tokens_, &columns);
    const Array weights = Gather(mean, c_.FromHost(HostTensor<int64_t>({tokens_}, columns)), 3);
    return MatMul(weights, v_.Transpose(1, 2)).Transpose(1, 2);
  }

  Composer& c_;
  const bool causal_;
  const int64_t rows_, tokens_, heads_, size_, width_;
  const Array q_, k_, v_;
};

// Budgets that keep everything where results are compared with those of another precision: rounding
// would exchange entries of the estimate. Long sequences have small ones.
void Draw(RandomSource& source) {
  const AttrValue* given = source.request().attributes.Find("causal");
  const bool causal = given != nullptr && std::get<bool>(*given);
  const int64_t width = 4 * source.Uniform(1, 3);
  source.Attribute("predictor_length", width);
  const AttrValue* chosen = source.request().attributes.Find("predictor_length");
  const int64_t in_force = std::get<int64_t>(*chosen);
  if (source.options().random_attributes && !causal && source.Uniform(0, 1) == 0) {
    source.Attribute("budget", std::string("query"));
  }
  const int64_t heads = source.Dim("H", source.Uniform(1, 2));
  source.Dim("B", source.Uniform(1, 2));
  const int64_t tokens = source.Dim("T", source.Uniform(1, 14));
  // Every key is kept: rounding would swap near-equal estimates of random inputs.
  source.Attribute("top_k", tokens);
  source.Dim("K", source.Uniform(2, 8));
  source.Dim("C", (causal ? 2 : 4) * heads);
  source.Dim("D", causal ? in_force / 2 : 2 * in_force);
  source.Dim("CK", causal ? 1 : 3);
  source.Dim("PQ", in_force / 4);
  source.Dim("PC", in_force);
  source.Dim("TP", tokens + source.Uniform(0, 3));
}

}  // namespace

void RegisterSea(Registry& registry);

void RegisterSea(Registry& registry) {
  Operator& op = registry.AddOfParts(Schema(), [](Composer& c) {
    if (c.dim("T") == 0) return c.status();  // Outputs are empty.
    return Sea(c).Run();
  });
  op.random = Draw;
  op.causal = [](const BoundCall& call) { return call.flag("causal"); };
}

}  // namespace attnd
