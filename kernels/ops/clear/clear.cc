#include <algorithm>
#include <cmath>
#include <vector>

#include "kernels/core/part_call.h"
#include "kernels/core/registry.h"
#include "kernels/cores/mean_attention.h"
#include "kernels/cores/softmax_composed.h"

namespace attnd {
namespace {

constexpr int64_t kTile = 16;

const SchemaText& Schema() {
  static const SchemaText schema = {
      .id = "clear",
      .paper = "CLEAR: Conv-Like Linearization Revs Pre-Trained Diffusion Transformers Up (2024)",
      .summary = "Softmax attention of an image within discs, with text and pooled keys",
      .core = "softmax",
      .definition =
          R"(Attention of a diffusion transformer in which a token of the image reads all text, the image within a disc around it and, if asked for, the pooled image (Liu et al., 2024). Text reads everything but the pooled image.
  (y,x) reads (y',x') if (y - y')^2 + (x - x')^2 < radius^2
  pooled (Y,X) = sum_{a,c<f} spatial_weight[a,c] . (k or v at (Y f + a, X f + c))
The image is cut in tiles, each with the rectangle of keys that its discs lie in, so that masks and scores take memory for a tile alone.)",
      .inputs = {"q: float[B,T,H,K]  # text first, then the image row by row", "k: float[B,T,HK,K]",
                 "v: float[B,T,HV,V]",
                 "spatial_weight: float[down_factor,down_factor]? if down_factor > 1  # of pooled "
                 "tokens; 1 / down_factor^2 when absent"},
      .attributes = {"height: int >= 1  # of the image", "width: int >= 1  # of the image",
                     "text_length: int = 0 >= 0  # tokens before the image",
                     "radius: float = 16 > 0  # of the disc, not reached",
                     "down_factor: int = 1 >= 1  # side of a pooled block; 1: none are pooled",
                     "scale: float = 1/sqrt(K)  # multiplies q.k", "return_lse: bool = false"},
      .outputs = {"o: float[B,T,H,V]", "lse: float32[B,T,H] if return_lse  # ln of the sum"},
      .rules = {kQueryHeadsRule, "HV == HK  # as many value heads as key heads",
                "T == text_length + height * width  # text_length + height * width tokens",
                "height % down_factor == 0 && width % down_factor == 0  # down_factor that divides "
                "height and width"},
  };
  return schema;
}

// A rectangle of the image.
struct Rectangle {
  int64_t top, left, bottom, right;  // Without the last two.

  int64_t rows() const { return bottom - top; }
  int64_t columns() const { return right - left; }
  int64_t size() const { return rows() * columns(); }
  // Of an image [B,height,width,..].
  Array Of(const Array& image) const {
    return image.Slice(1, top, rows()).Slice(2, left, columns());
  }
};

// Which of `others` keys that all read and of a rectangle's keys the queries of a tile read: bool
// [queries, others + keys].
Tensor DiscMask(const Rectangle& queries, const Rectangle& keys, int64_t others, double radius) {
  const int64_t width = others + keys.size();
  Tensor mask = AllocateHost(DType::kBool, {queries.size(), width}).value();
  bool* row = mask.data<bool>();
  for (int64_t i = 0; i < queries.size(); ++i, row += width) {
    const int64_t y = queries.top + i / queries.columns(), x = queries.left + i % queries.columns();
    std::fill(row, row + others, true);
    for (int64_t j = 0; j < keys.size(); ++j) {
      const int64_t dy = keys.top + j / keys.columns() - y, dx = keys.left + j % keys.columns() - x;
      row[others + j] = static_cast<double>(dy * dy + dx * dx) < radius * radius;
    }
  }
  return mask;
}

class Clear {
 public:
  explicit Clear(Composer& c)
      : c_(c),
        text_(c.integer("text_length")),
        height_(c.integer("height")),
        width_(c.integer("width")) {}

  void Run() {
    const Array q = c_.In("q"), k = c_.In("k"), v = c_.In("v");
    const Array image_q = Image(q), image_k = Image(k), image_v = Image(v);
    // What every token of the image reads.
    const Array all_k = Shared(k, image_k), all_v = Shared(v, image_v);
    o_ = c_.Empty({c_.dim("B"), height_, width_, c_.dim("H"), c_.dim("V")});
    lse_ = c_.Empty({c_.dim("B"), height_, width_, c_.dim("H")});
    for (int64_t top = 0; top < height_; top += kTile) {
      for (int64_t left = 0; left < width_ && c_.status().ok(); left += kTile) {
        Tile({top, left, std::min(top + kTile, height_), std::min(left + kTile, width_)}, image_q,
             image_k, image_v, all_k, all_v);
      }
    }
    Array o = Tokens(o_), lse = Tokens(lse_);
    if (text_ > 0) {
      PartCall attention = Attention(q.Slice(1, 0, text_), k, v);
      o = Concat(attention.Out("o"), o, 1);
      if (c_.flag("return_lse")) lse = Concat(attention.Out("lse"), lse, 1);
    }
    c_.Out("o", o);
    c_.Out("lse", lse);
  }

 private:
  // [B,height,width,H,K] of a sequence [B,T,H,K].
  Array Image(const Array& x) const {
    if (!x.defined()) return {};
    return x.Slice(1, text_, height_ * width_)
        .Reshape({x.dim(0), height_, width_, x.dim(2), x.dim(3)});
  }

  Array Tokens(const Array& image) const {
    if (!image.defined()) return {};
    Dims shape = image.tensor().shape();
    shape.erase(shape.begin() + 1);
    shape[1] = height_ * width_;
    return image.Reshape(shape);
  }

  // The text's keys or values, and the pooled ones.
  Array Shared(const Array& x, const Array& image) const {
    const int64_t f = c_.integer("down_factor");
    if (!x.defined() || !image.defined()) return {};
    const Array text = x.Slice(1, 0, text_);
    if (f == 1) return text;
    const int64_t rows = height_ / f, columns = width_ / f;
    const Array weight =
        c_.has("spatial_weight") ? c_.In("spatial_weight") : c_.Full({f, f}, 1.0 / (f * f));
    const Array blocks = image.Reshape({x.dim(0), rows, f, columns, f, x.dim(2) * x.dim(3)});
    Array pooled = c_.Zeros({x.dim(0), rows, columns, x.dim(2) * x.dim(3)});
    for (int64_t i = 0; i < f * f; ++i) {
      const Array factor = weight.Slice(0, i / f, 1).Slice(1, i % f, 1).Reshape({1});
      pooled = pooled + blocks.Select(4, i % f).Select(2, i / f) * factor;
    }
    return Concat(text, pooled.Reshape({x.dim(0), rows * columns, x.dim(2), x.dim(3)}), 1);
  }

  PartCall Attention(const Array& q, const Array& k, const Array& v) const {
    PartCall attention(c_, "softmax_attention");
    attention.In("q", q).In("k", k).In("v", v);
    attention.PassAttribute("scale").PassAttribute("return_lse");
    return attention;
  }

  void Tile(const Rectangle& tile, const Array& q, const Array& k, const Array& v,
            const Array& all_k, const Array& all_v) const {
    // The furthest row or column that a disc reaches.
    const double radius = c_.real("radius");
    const auto most = static_cast<double>(std::max(height_, width_));
    const auto reach = static_cast<int64_t>(std::ceil(std::min(radius, most))) - 1;
    const Rectangle near = {
        std::max<int64_t>(0, tile.top - reach), std::max<int64_t>(0, tile.left - reach),
        std::min(height_, tile.bottom + reach), std::min(width_, tile.right + reach)};
    const auto row = [](const Rectangle& part, const Array& image) {
      return part.Of(image).Reshape({image.dim(0), part.size(), image.dim(3), image.dim(4)});
    };
    if (!c_.status().ok()) return;
    PartCall attention =
        Attention(row(tile, q), Concat(all_k, row(near, k), 1), Concat(all_v, row(near, v), 1));
    attention.In("mask", c_.FromHost(DiscMask(tile, near, all_k.dim(1), radius)));
    const Array o = attention.Out("o"), lse = attention.Out("lse");
    if (!c_.status().ok()) return;
    tile.Of(o_).Assign(o.Reshape({o.dim(0), tile.rows(), tile.columns(), o.dim(2), o.dim(3)}));
    if (lse.defined()) {
      tile.Of(lse_).Assign(lse.Reshape({o.dim(0), tile.rows(), tile.columns(), o.dim(2)}));
    }
  }

  Composer& c_;
  const int64_t text_, height_, width_;
  Array o_, lse_;  // Of the image.
};

absl::Status Compose(Composer& c) {
  Clear(c).Run();
  return c.status();
}

void Draw(RandomSource& source) {
  source.Attribute("radius", 1 + 5 * source.Uniform01());
  source.Dim("HV", source.Dim("HK", source.Uniform(1, 2)));
  source.Dim("H", *source.dims().Find("HK") * source.Uniform(1, 2));
  if (source.options().dims.contains("T")) {
    source.Attribute("text_length", int64_t{0});
    DrawImage(source, "T");
    return;
  }
  if (source.options().random_attributes) {
    source.Attribute("text_length", source.Uniform(0, 9));
    source.Attribute("down_factor", source.Uniform(1, 3));
  }
  const auto value = [&source](absl::string_view name, int64_t otherwise) {
    const AttrValue* given = source.request().attributes.Find(name);
    return given != nullptr ? std::get<int64_t>(*given) : otherwise;
  };
  const int64_t factor = value("down_factor", 1);
  source.Attribute("height", factor * source.Uniform(1, 9));
  source.Attribute("width", factor * source.Uniform(1, 9));
  source.Dim("T", value("text_length", 0) + value("height", 1) * value("width", 1));
}

}  // namespace

void RegisterClear(Registry& registry);

void RegisterClear(Registry& registry) { registry.AddOfParts(Schema(), Compose).random = Draw; }

}  // namespace attnd
