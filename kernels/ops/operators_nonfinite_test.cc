// Inputs that hold NaN or infinity are legal: they reach what depends on them, and nothing else.
// What is masked, not listed, later in time or of another head, row or channel must not be touched:
// a product with a weight of zero is where a kernel goes wrong, for zero times infinity is NaN.
#include <cmath>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "kernels/ops/operators_test.h"

namespace attnd::testing {
namespace {

constexpr int kCases = 9;
constexpr double kInfinity = std::numeric_limits<double>::infinity();

// The request with one element of an input replaced.
CallRequest WithElement(const CallRequest& request, absl::string_view input, size_t at,
                        double value, DType dtype) {
  CallRequest changed = request;
  const Tensor& tensor = *request.inputs.Find(input);
  std::vector<double> values = ToDoubles(tensor);
  values[at] = value;
  changed.inputs.Set(input, FromDoubles(dtype, tensor.shape(), values));
  return changed;
}

// What outputs are to be if an element becomes `special`. Where two stand-ins for it, a moderate
// and a huge one of its sign (of both signs for NaN), give the same, the output does not depend on
// the element and is as it was; elsewhere it follows the definition.
class Expectation {
 public:
  // `weighted`: the outputs are sums of positive weights times the input's elements. What no
  // stand-in changes then does not read it; and infinite sums are infinite, of the same sign.
  // Elsewhere what changes nothing while it is finite may do so when it is not (the score of a
  // query's only key, a factor of zero), and infinities of both signs may meet that do not meet in
  // the definition.
  Expectation(const CallRequest& request, absl::string_view input, size_t at, double special,
              bool weighted)
      : weighted_(weighted) {
    const double was = std::abs(ToDoubles(*request.inputs.Find(input))[at]);
    const double sign = special < 0 ? -1 : 1;
    std::vector<double> stand_ins = {special, sign * (was + 1), sign * kHuge};
    if (std::isnan(special)) stand_ins.push_back(-kHuge);
    for (double value : stand_ins) {
      absl::StatusOr<Evaluation> reference = EvaluateReference(
          Find(request.op), Cpu(), WithElement(request, input, at, value, DType::kFloat64));
      if (!reference.ok()) return;
      references_.push_back(*std::move(reference));
    }
    legal_ = true;
  }

  // Whether the operator takes the element and its stand-ins.
  bool legal() const { return legal_; }

  ::testing::AssertionResult Meets(const OpSpec& spec, DType dtype,
                                   const Evaluation& result) const {
    for (const auto& [name, tensor] : result.outputs) {
      if (!IsFloating(tensor.dtype())) continue;
      const std::vector<double> got = ToDoubles(tensor);
      std::vector<std::vector<double>> references;
      for (const Evaluation& evaluation : references_) {
        references.push_back(ToDoubles(Output(evaluation, name)));
      }
      const std::vector<double>&defined = references[0], &before = references[1];
      double difference = 0, norm = 0;
      for (size_t i = 0; i < got.size(); ++i) {
        bool depends = false;
        for (size_t other = 2; other < references.size(); ++other) {
          depends |= !(references[other][i] == before[i]);
        }
        double expected = depends || !weighted_ ? defined[i] : before[i];
        if (std::isfinite(before[i])) norm += before[i] * before[i];
        if (!depends && !weighted_ && !std::isfinite(expected)) {
          if (!std::isfinite(got[i])) continue;
          expected = before[i];
        }
        bool as_expected = std::isfinite(got[i]) == std::isfinite(expected);
        // What does not read the element keeps its infinities too: the log-sum of an empty row.
        if (!std::isfinite(expected) && (weighted_ || !depends)) {
          as_expected = std::isnan(expected) ? std::isnan(got[i]) : got[i] == expected;
        }
        if (!as_expected) {
          return ::testing::AssertionFailure()
                 << name << " of kernel " << result.kernel << " at " << i << ": given " << got[i]
                 << ", expected " << expected << (depends ? "" : ", as the element is not read");
        }
        if (std::isfinite(expected)) difference += (got[i] - expected) * (got[i] - expected);
      }
      const double error = norm > 0 ? std::sqrt(difference / norm) : std::sqrt(difference);
      if (!(error <= Tolerance(spec, dtype))) {
        return ::testing::AssertionFailure() << name << " of kernel " << result.kernel
                                             << " is off by " << error << " where it is finite";
      }
    }
    return ::testing::AssertionSuccess();
  }

 private:
  // Beyond what decays over a call's tokens make vanish.
  static constexpr double kHuge = 1e100;

  bool weighted_;
  bool legal_ = false;
  std::vector<Evaluation> references_;  // Of the element itself, then of its stand-ins.
};

class NonFiniteTest : public OperatorTest {
 protected:
  bool Weighted(absl::string_view input) const {
    const std::string& core = op().spec.text().core;
    // Not where a norm may follow, or a variant may be of another family.
    for (const char* more : {"norm", "variant"}) {
      if (op().spec.FindAttribute(more) != nullptr) return false;
    }
    return input == "v" && (core == "softmax" || core == "block_sparse");
  }

  // Kernels that take the same random calls.
  std::vector<std::vector<std::string>> Groups() const {
    std::vector<std::vector<std::string>> groups(1);
    for (const std::string& kernel : kernels()) {
      if (ExampleOf(kernel) == nullptr) {
        groups[0].push_back(kernel);
      } else {
        groups.push_back({kernel});
      }
    }
    return groups;
  }
};

TEST_P(NonFiniteTest, OneElementReachesWhatDependsOnItAndNothingElse) {
  if (op().spec.text().core == "sparse_estimated") {
    GTEST_SKIP() << "its choice hangs on an estimate, which float32 and float64 round differently "
                    "around what is not finite";
  }
  constexpr double kSpecial[] = {kInfinity, -kInfinity, std::numeric_limits<double>::quiet_NaN()};
  constexpr DType kTypes[] = {DType::kFloat32, DType::kFloat16, DType::kBFloat16};
  for (const std::vector<std::string>& group : Groups()) {
    int tested = 0;
    for (int i = 0; i < kCases; ++i) {
      RandomOptions options = Options(i, group[0]);
      if (ExampleOf(group[0]) == nullptr) options.dtype = kTypes[(i / 3) % 3];
      const CallRequest request = RandomFor(group[0], options);
      size_t draw = options.seed;
      for (const auto& [input, tensor] : request.inputs) {
        if (!IsFloating(tensor.dtype()) || tensor.num_elements() == 0) continue;
        draw = draw * 6364136223846793005u + 1442695040888963407u;
        const size_t at = (draw >> 33) % static_cast<size_t>(tensor.num_elements());
        const double special = kSpecial[(draw >> 20) % 3];
        const Expectation expectation(request, input, at, special, Weighted(input));
        if (!expectation.legal()) continue;
        CallRequest changed = WithElement(request, input, at, special, tensor.dtype());
        for (const std::string& kernel : group) {
          if (!Takes(changed, kernel)) continue;
          ++tested;
          EXPECT_TRUE(expectation.Meets(op().spec, options.dtype, RunCall(changed, backend())))
              << input << "[" << at << "] = " << special << ", case " << i << ", seed "
              << options.seed;
        }
      }
    }
    EXPECT_GE(tested, kCases) << group[0];
  }
}

INSTANTIATE_FOR_ALL_OPERATORS(NonFiniteTest);

}  // namespace
}  // namespace attnd::testing
