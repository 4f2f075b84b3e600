// Every primitive on every backend of this machine, against a plain loop in float64 over strided,
// broadcast inputs.
#include "kernels/primitives/primitives.h"

#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "kernels/testing/operator_testing.h"

namespace attnd::testing {
namespace {

using Params = std::tuple<Device, DType>;

class PrimitivesTest : public ::testing::TestWithParam<Params> {
 protected:
  void SetUp() override {
    backend_ = BackendOf(std::get<0>(GetParam()));
    if (backend_ == nullptr) GTEST_SKIP() << "no " << Name(std::get<0>(GetParam())) << " device";
    random_.seed(BaseSeed());
  }

  Backend& backend() { return *backend_; }
  DType type() const { return std::get<1>(GetParam()); }
  double tolerance() const { return type() == DType::kFloat64 ? 1e-13 : 2e-6; }

  Tensor Allocate(Dims shape, DType dtype) {
    return backend().Allocate(dtype, std::move(shape)).value();
  }
  Tensor Allocate(Dims shape) { return Allocate(std::move(shape), type()); }

  Tensor Upload(const Tensor& host) {
    Tensor device = Allocate(host.shape(), host.dtype());
    EXPECT_TRUE(backend().Upload(host, device).ok());
    return device;
  }

  // Normal values in the compute type, in the backend's memory.
  Tensor Normal(Dims shape, double scale = 1) {
    std::normal_distribution<double> normal(0, scale);
    std::vector<double> values(static_cast<size_t>(CheckedElementCount(shape).value()));
    for (double& value : values) value = normal(random_);
    return Upload(FromDoubles(type(), std::move(shape), values));
  }

  Tensor RandomBools(Dims shape) {
    Tensor host = AllocateHost(DType::kBool, std::move(shape)).value();
    for (int64_t i = 0; i < host.num_elements(); ++i) host.data<bool>()[i] = random_() % 2 == 0;
    return Upload(host);
  }

  // Any view of the backend's memory as float64 on the host, row-major.
  std::vector<double> Fetch(const Tensor& view) {
    const Tensor dense = Allocate(view.shape(), view.dtype());
    backend().Copy(view, dense);
    const Tensor host = AllocateHost(view.dtype(), view.shape()).value();
    EXPECT_TRUE(backend().Download(dense, host).ok());
    return ToDoubles(host);
  }

  void ExpectNear(const std::vector<double>& got, const std::vector<double>& expected) {
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) {
      if (std::isnan(expected[i])) {
        EXPECT_TRUE(std::isnan(got[i])) << i;
      } else if (std::isinf(expected[i])) {
        EXPECT_EQ(got[i], expected[i]) << i;
      } else {
        EXPECT_NEAR(got[i], expected[i], tolerance() * (1 + std::abs(expected[i])))
            << "element " << i;
      }
    }
  }

  std::mt19937_64 random_;

 private:
  Backend* backend_ = nullptr;
};

TEST_P(PrimitivesTest, CopyConvertsBetweenAllTypes) {
  const std::vector<double> values = {0, 1, -2, 3.5, 100, -0.25};
  for (DType from : {DType::kBool, DType::kInt32, DType::kInt64, DType::kFloat16, DType::kBFloat16,
                     DType::kFloat32, DType::kFloat64}) {
    for (DType to : {DType::kBool, DType::kInt32, DType::kInt64, DType::kFloat16, DType::kBFloat16,
                     DType::kFloat32, DType::kFloat64}) {
      const Tensor host = FromDoubles(from, {2, 3}, values);
      const Tensor out = Allocate({2, 3}, to);
      backend().Copy(Upload(host), out);
      const Tensor expected = AllocateHost(to, {2, 3}).value();
      Cpu().Copy(host, expected);
      EXPECT_EQ(Fetch(out), ToDoubles(expected)) << Name(from) << " to " << Name(to);
    }
  }
}

TEST_P(PrimitivesTest, CopyRoundsHalfTypesToNearestEven) {
  std::vector<double> values;
  values.reserve(2000);
  for (int i = 0; i < 2000; ++i)
    values.push_back(std::ldexp(static_cast<double>(random_() % 100000) - 50000,
                                static_cast<int>(random_() % 40) - 30));
  values.insert(values.end(), {65504, 65519, 65520, -70000, 6e-8, 2.9e-8,
                               std::numeric_limits<double>::infinity()});
  const Tensor host = FromDoubles(DType::kFloat32, {static_cast<int64_t>(values.size())}, values);
  for (DType to : {DType::kFloat16, DType::kBFloat16}) {
    const Tensor out = Allocate(host.shape(), to);
    backend().Copy(Upload(host), out);
    std::vector<double> expected;
    for (int64_t i = 0; i < host.num_elements(); ++i) {
      const float f = host.data<float>()[i];
      expected.push_back(to == DType::kFloat16 ? ToFloat(ToHalf(f)) : ToFloat(ToBFloat16(f)));
    }
    EXPECT_EQ(Fetch(out), expected) << Name(to);
  }
}

TEST_P(PrimitivesTest, UnaryOnStridedInputs) {
  const Tensor x = Normal({5, 3, 7}, 3).Permute({2, 0, 1}).Slice(0, 1, 5);
  const std::vector<double> in = Fetch(x);
  const std::vector<std::pair<UnaryOp, std::function<double(double)>>> cases = {
      {UnaryOp::kNeg, [](double v) { return -v; }},
      {UnaryOp::kAbs, [](double v) { return std::abs(v); }},
      {UnaryOp::kExp, [](double v) { return std::exp(v); }},
      {UnaryOp::kSin, [](double v) { return std::sin(v); }},
      {UnaryOp::kCos, [](double v) { return std::cos(v); }},
      {UnaryOp::kTanh, [](double v) { return std::tanh(v); }},
      {UnaryOp::kErf, [](double v) { return std::erf(v); }},
      {UnaryOp::kGelu, [](double v) { return v * (1 + std::erf(v / std::sqrt(2.0))) / 2; }},
      {UnaryOp::kSquare, [](double v) { return v * v; }},
      {UnaryOp::kReciprocal, [](double v) { return 1 / v; }},
      {UnaryOp::kSigmoid, [](double v) { return 1 / (1 + std::exp(-v)); }},
      {UnaryOp::kSoftplus,
       [](double v) { return std::max(v, 0.0) + std::log1p(std::exp(-std::abs(v))); }},
      {UnaryOp::kSilu, [](double v) { return v / (1 + std::exp(-v)); }},
      {UnaryOp::kElu1, [](double v) { return v > 0 ? v + 1 : std::exp(v); }},
      {UnaryOp::kRelu, [](double v) { return std::max(v, 0.0); }},
      {UnaryOp::kFloor, [](double v) { return std::floor(v); }},
  };
  for (const auto& [op, f] : cases) {
    SCOPED_TRACE(static_cast<int>(op));
    const Tensor out = Allocate({5, 5, 3});
    backend().Unary(op, x, out);
    std::vector<double> expected;
    expected.reserve(in.size());
    for (double v : in) expected.push_back(f(v));
    ExpectNear(Fetch(out), expected);
  }
  const Tensor positive = Allocate({5, 5, 3});
  backend().Unary(UnaryOp::kAbs, x, positive);
  for (UnaryOp op : {UnaryOp::kLog, UnaryOp::kLog1p, UnaryOp::kSqrt}) {
    const Tensor out = Allocate({5, 5, 3});
    backend().Unary(op, positive, out);
    std::vector<double> expected;
    for (double v : in) {
      v = std::abs(v);
      expected.push_back(op == UnaryOp::kLog     ? std::log(v)
                         : op == UnaryOp::kLog1p ? std::log1p(v)
                                                 : std::sqrt(v));
    }
    ExpectNear(Fetch(out), expected);
  }
}

TEST_P(PrimitivesTest, UnaryExtremes) {
  const double inf = std::numeric_limits<double>::infinity();
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const Tensor x = Upload(FromDoubles(type(), {5}, {-inf, -200, 200, inf, nan}));
  const Tensor out = Allocate({5});
  backend().Unary(UnaryOp::kSigmoid, x, out);
  ExpectNear(Fetch(out), {0, 0, 1, 1, nan});
  backend().Unary(UnaryOp::kSoftplus, x, out);
  ExpectNear(Fetch(out), {0, 0, 200, inf, nan});
  backend().Unary(UnaryOp::kRelu, x, out);
  ExpectNear(Fetch(out), {0, 0, 200, inf, nan});
}

TEST_P(PrimitivesTest, BinaryBroadcasts) {
  const Tensor a = Normal({4, 1, 5});
  const Tensor b = Normal({3, 5}).Transpose(0, 1).Transpose(0, 1);
  const std::vector<double> x = Fetch(a.Expand({4, 3, 5}));
  const std::vector<double> y = Fetch(b.Expand({4, 3, 5}));
  const std::vector<std::pair<BinaryOp, std::function<double(double, double)>>> cases = {
      {BinaryOp::kAdd, [](double p, double q) { return p + q; }},
      {BinaryOp::kSub, [](double p, double q) { return p - q; }},
      {BinaryOp::kMul, [](double p, double q) { return p * q; }},
      {BinaryOp::kDiv, [](double p, double q) { return p / q; }},
      {BinaryOp::kMax, [](double p, double q) { return std::max(p, q); }},
      {BinaryOp::kMin, [](double p, double q) { return std::min(p, q); }},
      {BinaryOp::kLess, [](double p, double q) { return p < q; }},
      {BinaryOp::kLessEqual, [](double p, double q) { return p <= q; }},
      {BinaryOp::kEqual, [](double p, double q) { return p == q; }},
  };
  for (const auto& [op, f] : cases) {
    SCOPED_TRACE(static_cast<int>(op));
    const Tensor out =
        op >= BinaryOp::kLess ? Allocate({4, 3, 5}, DType::kBool) : Allocate({4, 3, 5});
    backend().Binary(op, a, b, out);
    std::vector<double> expected;
    for (size_t i = 0; i < x.size(); ++i) expected.push_back(f(x[i], y[i]));
    ExpectNear(Fetch(out), expected);
  }
}

TEST_P(PrimitivesTest, IntegersAndBools) {
  const Tensor a = Upload(HostTensor<int64_t>({4}, {7, -7, 5, 0}));
  const Tensor b = Upload(HostTensor<int64_t>({1}, {3}));
  const Tensor out = Allocate({4}, DType::kInt64);
  backend().Binary(BinaryOp::kMod, a, b, out);
  EXPECT_EQ(Fetch(out), (std::vector<double>{1, 2, 2, 0}));
  const Tensor p = RandomBools({6, 7});
  const Tensor q = RandomBools({1, 7});
  const Tensor both = Allocate({6, 7}, DType::kBool);
  backend().Binary(BinaryOp::kAnd, p, q, both);
  const std::vector<double> x = Fetch(p), y = Fetch(q), got = Fetch(both);
  for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(got[i], x[i] * y[i % 7]);
  backend().Unary(UnaryOp::kNot, p, both);
  const std::vector<double> inverted = Fetch(both);
  for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(inverted[i], 1 - x[i]);
}

TEST_P(PrimitivesTest, WhereBroadcasts) {
  const Tensor condition = RandomBools({4, 1});
  const Tensor a = Normal({4, 6});
  const Tensor b = Normal({1});
  const Tensor out = Allocate({4, 6});
  backend().Where(condition, a, b, out);
  const std::vector<double> c = Fetch(condition), x = Fetch(a), y = Fetch(b), got = Fetch(out);
  for (size_t i = 0; i < got.size(); ++i) EXPECT_EQ(got[i], c[i / 6] != 0 ? x[i] : y[0]);
}

TEST_P(PrimitivesTest, ReduceAndCumSumOverEveryAxis) {
  const Tensor x = Normal({6, 5, 41}).Transpose(0, 1);
  const std::vector<double> in = Fetch(x);
  const int64_t size[3] = {5, 6, 41};
  for (int axis = 0; axis < 3; ++axis) {
    SCOPED_TRACE(axis);
    Dims shape = x.shape();
    shape[axis] = 1;
    const Tensor sum = Allocate(shape), most = Allocate(shape), running = Allocate(x.shape());
    backend().Reduce(ReduceOp::kSum, x, axis, sum);
    backend().Reduce(ReduceOp::kMax, x, axis, most);
    backend().CumSum(x, axis, running);
    std::vector<double> expected_sum(static_cast<size_t>(sum.num_elements()), 0);
    std::vector<double> expected_max(expected_sum.size(), -std::numeric_limits<double>::infinity());
    std::vector<double> expected_running(in.size());
    for (size_t i = 0; i < in.size(); ++i) {
      int64_t index[3] = {static_cast<int64_t>(i) / (6 * 41), static_cast<int64_t>(i) / 41 % 6,
                          static_cast<int64_t>(i) % 41};
      index[axis] = 0;
      size_t row = 0;
      for (int d = 0; d < 3; ++d)
        row = row * static_cast<size_t>(d == axis ? 1 : size[d]) + static_cast<size_t>(index[d]);
      expected_sum[row] += in[i];
      expected_max[row] = std::max(expected_max[row], in[i]);
      expected_running[i] = expected_sum[row];
    }
    ExpectNear(Fetch(sum), expected_sum);
    ExpectNear(Fetch(most), expected_max);
    ExpectNear(Fetch(running), expected_running);
  }
}

TEST_P(PrimitivesTest, EmptyReductions) {
  const Tensor x = Allocate({3, 0});
  const Tensor out = Allocate({3, 1});
  backend().Reduce(ReduceOp::kSum, x, 1, out);
  EXPECT_EQ(Fetch(out), (std::vector<double>{0, 0, 0}));
  backend().Reduce(ReduceOp::kMax, x, 1, out);
  EXPECT_EQ(Fetch(out)[0], -std::numeric_limits<double>::infinity());
  const Tensor product = Allocate({3, 4});
  backend().MatMul(x, Allocate({0, 4}), product, 1, 0);
  EXPECT_EQ(Fetch(product), std::vector<double>(12, 0));
}

TEST_P(PrimitivesTest, SoftmaxWithMaskAndLse) {
  for (int64_t n : {1, 7, 300}) {
    const Tensor x = Normal({2, 9, n}, 40);
    Tensor mask = RandomBools({9, n});
    // The last row may attend to nothing.
    backend().Fill(0, mask.Slice(0, 8, 1));
    const Tensor out = Allocate({2, 9, n}), lse = Allocate({2, 9, 1});
    backend().Softmax(x, mask, out, lse);
    const std::vector<double> in = Fetch(x), allowed = Fetch(mask), got = Fetch(out),
                              sums = Fetch(lse);
    for (int64_t row = 0; row < 18; ++row) {
      double most = -std::numeric_limits<double>::infinity(), sum = 0;
      const auto at = [&](int64_t j) { return static_cast<size_t>(row * n + j); };
      const auto may = [&](int64_t j) {
        return allowed[static_cast<size_t>(row % 9 * n + j)] != 0;
      };
      for (int64_t j = 0; j < n; ++j)
        if (may(j)) most = std::max(most, in[at(j)]);
      for (int64_t j = 0; j < n; ++j)
        if (may(j)) sum += std::exp(in[at(j)] - most);
      for (int64_t j = 0; j < n; ++j) {
        EXPECT_NEAR(got[at(j)], may(j) ? std::exp(in[at(j)] - most) / sum : 0, tolerance() * 4);
      }
      if (std::isinf(most))
        EXPECT_EQ(sums[static_cast<size_t>(row)], most);
      else
        EXPECT_NEAR(sums[static_cast<size_t>(row)], most + std::log(sum),
                    tolerance() * (4 + std::abs(most)));
    }
  }
}

TEST_P(PrimitivesTest, MatMulStridedBroadcastAndAccumulating) {
  for (const auto& [m, n, k] : std::vector<std::tuple<int64_t, int64_t, int64_t>>{
           {1, 1, 1}, {5, 7, 3}, {64, 64, 64}, {65, 33, 129}, {1, 40, 17}, {130, 1, 70}}) {
    SCOPED_TRACE(::testing::Message() << m << "x" << n << "x" << k);
    const Tensor a = Normal({3, 1, k, m}).Transpose(-1, -2);
    const Tensor b = Normal({2, k, n});
    const Tensor out = Normal({3, 2, m, n});
    const std::vector<double> x = Fetch(a), y = Fetch(b), before = Fetch(out);
    backend().MatMul(a, b, out, 0.5, -2);
    std::vector<double> expected(before.size());
    double norm = 0, difference = 0;
    const std::vector<double> got = Fetch(out);
    for (int64_t p = 0; p < 6; ++p) {
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          double sum = 0;
          for (int64_t l = 0; l < k; ++l) {
            sum += x[static_cast<size_t>((p / 2 * m + i) * k + l)] *
                   y[static_cast<size_t>((p % 2 * k + l) * n + j)];
          }
          const size_t at = static_cast<size_t>((p * m + i) * n + j);
          const double want = 0.5 * sum - 2 * before[at];
          difference += (got[at] - want) * (got[at] - want);
          norm += want * want;
        }
      }
    }
    EXPECT_LE(std::sqrt(difference / norm), tolerance());
  }
}

TEST_P(PrimitivesTest, MatMulBitsDoNotDependOnTheBatch) {
  const Tensor a = Normal({5, 37, 50}), b = Normal({5, 50, 29});
  const Tensor together = Allocate({5, 37, 29}), alone = Allocate({37, 29});
  backend().MatMul(a, b, together, 1, 0);
  backend().MatMul(a.Select(0, 3), b.Select(0, 3), alone, 1, 0);
  EXPECT_EQ(Fetch(together.Select(0, 3)), Fetch(alone));
}

TEST_P(PrimitivesTest, SolveUnitLowerInverts) {
  const int64_t n = 33;
  const Tensor a = Normal({2, n, n}, 0.2), b = Normal({2, n, 5}), out = Allocate({2, n, 5});
  backend().SolveUnitLower(a, b, out);
  const std::vector<double> x = Fetch(a), y = Fetch(b), got = Fetch(out);
  for (int64_t p = 0; p < 2; ++p) {
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < 5; ++j) {
        double sum = got[static_cast<size_t>((p * n + i) * 5 + j)];
        for (int64_t l = 0; l < i; ++l) {
          sum += x[static_cast<size_t>((p * n + i) * n + l)] *
                 got[static_cast<size_t>((p * n + l) * 5 + j)];
        }
        EXPECT_NEAR(sum, y[static_cast<size_t>((p * n + i) * 5 + j)], 20 * tolerance());
      }
    }
  }
}

TEST_P(PrimitivesTest, GatherFillIota) {
  const Tensor x = Normal({3, 6, 2});
  const Tensor index = Upload(HostTensor<int64_t>({4}, {5, 0, 0, 3}));
  const Tensor out = Allocate({3, 4, 2});
  backend().Gather(x, index, 1, out);
  const std::vector<double> in = Fetch(x), got = Fetch(out);
  const size_t from[4] = {5, 0, 0, 3};
  for (size_t i = 0; i < got.size(); ++i)
    EXPECT_EQ(got[i], in[i / 8 * 12 + from[i / 2 % 4] * 2 + i % 2]);
  const Tensor ramp = Allocate({5});
  backend().Iota(2, -0.5, ramp);
  EXPECT_EQ(Fetch(ramp), (std::vector<double>{2, 1.5, 1, 0.5, 0}));
  backend().Fill(7, out.Select(1, 2));
  EXPECT_EQ(Fetch(out.Select(1, 2)), std::vector<double>(6, 7));
  EXPECT_EQ(Fetch(out.Select(1, 1)), Fetch(x.Select(1, 0)));
}

TEST_P(PrimitivesTest, SortDescendingPutsTiesInOrderAndNanLast) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  const double infinity = std::numeric_limits<double>::infinity();
  const Tensor x =
      Upload(FromDoubles(type(), {2, 6}, {1, 3, nan, 3, -infinity, infinity, 0, 0, 0, -1, 0, 2}));
  const Tensor out = Allocate({2, 6}, DType::kInt64);
  backend().SortDescending(x, out);
  EXPECT_EQ(Fetch(out), (std::vector<double>{5, 1, 3, 0, 2, 4, 5, 0, 1, 2, 4, 3}));
  // Rows of a view, longer than a block of threads.
  const Tensor wide = Normal({300, 4}).Transpose(0, 1);
  const Tensor order = Allocate({4, 300}, DType::kInt64);
  backend().SortDescending(wide, order);
  const std::vector<double> values = Fetch(wide), got = Fetch(order);
  for (size_t row = 0; row < 4; ++row) {
    for (size_t i = 1; i < 300; ++i) {
      EXPECT_GE(values[row * 300 + static_cast<size_t>(got[row * 300 + i - 1])],
                values[row * 300 + static_cast<size_t>(got[row * 300 + i])]);
    }
  }
}

TEST_P(PrimitivesTest, ScansAreTheirLoops) {
  constexpr size_t kN = 2, kT = 37, kD = 300;
  const Tensor factor = Normal({kN, kD, kT}, 0.5).Transpose(1, 2);
  const Tensor x = Normal({kN, kT, kD}, 5), initial = Normal({kN, kD});
  const Tensor out = Allocate({kN, kT, kD}), logs = Allocate({kN, kT, kD});
  const std::vector<double> a = Fetch(factor), u = Fetch(x), before = Fetch(initial);
  for (const bool with_initial : {false, true}) {
    backend().LinearScan(factor, x, with_initial ? initial : Tensor(), out);
    backend().LogSumExpScan(x, with_initial ? initial : Tensor(), logs);
    std::vector<double> linear(a.size()), sums(a.size());
    for (size_t n = 0; n < kN; ++n) {
      for (size_t c = 0; c < kD; ++c) {
        double h = with_initial ? before[n * kD + c] : 0;
        double z = with_initial ? std::exp(before[n * kD + c]) : 0;
        for (size_t t = 0; t < kT; ++t) {
          const size_t at = (n * kT + t) * kD + c;
          linear[at] = h = a[at] * h + u[at];
          z += std::exp(u[at]);
          sums[at] = std::log(z);
        }
      }
    }
    ExpectNear(Fetch(out), linear);
    ExpectNear(Fetch(logs), sums);
  }
}

TEST_P(PrimitivesTest, LogSumExpScanStartsFromNothingAndKeepsHugeLogits) {
  const double infinity = std::numeric_limits<double>::infinity();
  const Tensor x = Upload(FromDoubles(type(), {1, 5, 1}, {-infinity, -1000, 1000, 999, infinity}));
  const Tensor out = Allocate({1, 5, 1});
  backend().LogSumExpScan(x, Tensor(), out);
  ExpectNear(Fetch(out), {-infinity, -1000, 1000, 1000 + std::log1p(std::exp(-1)), infinity});
}

TEST_P(PrimitivesTest, MemoryIsReusedAndCounted) {
  const int64_t before = backend().allocated_bytes();
  {
    const Tensor held = Allocate({1000});
    EXPECT_GE(backend().allocated_bytes(), before + 4000);
    EXPECT_GE(backend().peak_allocated_bytes(), backend().allocated_bytes());
  }
  EXPECT_EQ(backend().allocated_bytes(), before);
  const absl::StatusOr<Tensor> impossible = backend().Allocate(type(), {int64_t{1} << 46});
  EXPECT_EQ(impossible.status().code(), absl::StatusCode::kResourceExhausted);
}

INSTANTIATE_TEST_SUITE_P(All, PrimitivesTest,
                         ::testing::Combine(::testing::Values(Device::kCpu, Device::kCuda),
                                            ::testing::Values(DType::kFloat32, DType::kFloat64)),
                         [](const auto& info) {
                           return std::string(Name(std::get<0>(info.param))) + "_" +
                                  std::string(Name(std::get<1>(info.param)));
                         });

}  // namespace
}  // namespace attnd::testing
