#include "clients/cli/outputs.h"

#include <algorithm>
#include <cmath>
#include <iostream>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "clients/cli/output.h"

namespace attnd::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Statistics {
  double min = std::numeric_limits<double>::infinity();
  double max = -std::numeric_limits<double>::infinity();
  double mean = 0;
  double rms = 0;
  int64_t finite = 0;
  int64_t nan = 0;
  int64_t inf = 0;
};

// Over the finite elements.
Statistics Summarise(const client::Tensor& tensor) {
  Statistics s;
  double sum = 0, squares = 0;
  for (const double value : tensor.ToDoubles()) {
    if (std::isnan(value)) {
      ++s.nan;
    } else if (std::isinf(value)) {
      ++s.inf;
    } else {
      ++s.finite;
      s.min = std::min(s.min, value);
      s.max = std::max(s.max, value);
      sum += value;
      squares += value * value;
    }
  }
  if (s.finite > 0) {
    s.mean = sum / static_cast<double>(s.finite);
    s.rms = std::sqrt(squares / static_cast<double>(s.finite));
  }
  return s;
}

std::string ShapeText(const client::Tensor& tensor) {
  return absl::StrCat("[", absl::StrJoin(tensor.shape, ","), "]");
}

}  // namespace

void PrintOutputs(const client::Result& result) {
  Table table({"OUTPUT", "TYPE", "SHAPE", "MIN", "MAX", "MEAN", "RMS", "NAN", "INF"});
  for (const auto& [name, tensor] : result.outputs) {
    const Statistics s = Summarise(tensor);
    const auto number = [&](double value) { return s.finite > 0 ? Number(value) : ""; };
    table.Add({name, std::string(client::Name(tensor.dtype)), ShapeText(tensor), number(s.min),
               number(s.max), number(s.mean), number(s.rms), absl::StrCat(s.nan),
               absl::StrCat(s.inf)});
  }
  std::cout << table.ToString();
}

Json OutputsJson(const client::Result& result) {
  Json outputs = Json::object();
  for (const auto& [name, tensor] : result.outputs) {
    const Statistics s = Summarise(tensor);
    Json output = {{"dtype", client::Name(tensor.dtype)}, {"shape", tensor.shape}};
    if (s.finite > 0) {
      output.update({{"min", s.min}, {"max", s.max}, {"mean", s.mean}, {"rms", s.rms}});
    }
    output.update({{"nan", s.nan}, {"inf", s.inf}});
    outputs[name] = output;
  }
  return outputs;
}

}  // namespace attnd::cli
