// Sessions' cores: any cutting gives the same bits, and the values are those of the recurrences and
// of softmax in float64.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "hwy/highway.h"
#include "kernels/cores/replay_attention.h"
#include "kernels/cores/replay_recurrence.h"
#include "kernels/primitives/cpu/ordered_product.h"

namespace attnd::cpu {
namespace {

using Floats = std::vector<float>;

class Draw {
 public:
  Draw() : seed_(std::random_device()()), random_(seed_) {
    ::testing::Test::RecordProperty("seed", static_cast<int>(seed_));
    std::printf("seed %u\n", seed_);
  }
  Floats Normal(int64_t n, float scale = 1) {
    std::normal_distribution<float> normal(0, scale);
    Floats x(static_cast<size_t>(n));
    for (float& v : x) v = normal(random_);
    return x;
  }
  Floats Uniform(int64_t n, float low, float high) {
    std::uniform_real_distribution<float> uniform(low, high);
    Floats x(static_cast<size_t>(n));
    for (float& v : x) v = uniform(random_);
    return x;
  }
  int64_t Below(int64_t n) { return std::uniform_int_distribution<int64_t>(0, n - 1)(random_); }

 private:
  unsigned seed_;
  std::mt19937 random_;
};

// Runs `body` with each instruction set that this machine has, that the kernels are compiled for,
// and that fuses multiplication and addition.
template <typename Body>
void WithEachTarget(const Body& body) {
  for (const int64_t target : hwy::SupportedAndGeneratedTargets()) {
    if (target > HWY_AVX2) continue;
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    body();
  }
  hwy::SetSupportedTargetsForTest(0);
}

bool SameBits(const Floats& a, const Floats& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

double RelativeError(const Floats& got, const std::vector<double>& expected) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error += std::pow(got[i] - expected[i], 2);
    norm += std::pow(expected[i], 2);
  }
  return std::sqrt(error / norm);
}

TEST(OrderedProductTest, BitsOfAnElementDependOnItsRowAndColumnAlone) {
  Draw draw;
  for (const auto& [m, n, k] : {std::array<int64_t, 3>{7, 100, 33}, {1, 31, 64}, {13, 65, 1}}) {
    const Floats a = draw.Normal(m * k), b = draw.Normal(k * n), start = draw.Normal(m * n);
    Floats c = start;
    OrderedProduct(m, n, k, a.data(), k, b.data(), n, c.data(), n, true);
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        float chain = start[static_cast<size_t>(i * n + j)];
        for (int64_t l = 0; l < k; ++l) {
          chain =
              std::fma(a[static_cast<size_t>(i * k + l)], b[static_cast<size_t>(l * n + j)], chain);
        }
        ASSERT_EQ(c[static_cast<size_t>(i * n + j)], chain)
            << i << "," << j << " of " << m << "x" << n;
      }
    }
  }
}

TEST(PackedMatrixTest, OneRowHasTheBitsItHasAmongMany) {
  Draw draw;
  constexpr int64_t kRows = 64, kIn = 77, kOut = 1000;
  const Floats weight = draw.Normal(kOut * kIn), x = draw.Normal(kRows * kIn);
  for (const DType dtype : {DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    Tensor w = AllocateHost(dtype, {kOut, kIn}).value();
    Floats exact(weight.size());
    for (size_t i = 0; i < weight.size(); ++i) {
      if (dtype == DType::kFloat32) {
        exact[i] = w.data<float>()[i] = weight[i];
      } else if (dtype == DType::kFloat16) {
        exact[i] = ToFloat(w.data<Half>()[i] = ToHalf(weight[i]));
      } else {
        exact[i] = ToFloat(w.data<BFloat16>()[i] = ToBFloat16(weight[i]));
      }
    }
    const PackedMatrix packed = PackedMatrix::Pack({w}).value();
    const Tensor back = packed.Unpack().value();
    ASSERT_EQ(back.dtype(), dtype == DType::kBFloat16 ? dtype : DType::kFloat32);
    for (size_t i = 0; i < exact.size(); ++i) {
      const float weight_back =
          dtype == DType::kBFloat16 ? ToFloat(back.data<BFloat16>()[i]) : back.data<float>()[i];
      ASSERT_EQ(weight_back, exact[i]) << Name(dtype);
    }
    Floats all(kRows * kOut), one(kOut);
    packed.Multiply(x.data(), kRows, all.data());
    for (int64_t r = 0; r < kRows; ++r) {
      packed.Multiply(x.data() + r * kIn, 1, one.data());
      ASSERT_TRUE(SameBits(one, {all.begin() + r * kOut, all.begin() + (r + 1) * kOut}));
    }
    WithEachTarget([&] {
      Floats some(kRows * kOut);
      for (int64_t rows = 1; rows <= kRows; ++rows) {
        packed.Multiply(x.data(), rows, some.data());
        ASSERT_TRUE(std::equal(some.begin(), some.begin() + rows * kOut, all.begin())) << rows;
      }
    });
    for (int64_t o = 0; o < kOut; ++o) {
      float chain = 0;
      for (int64_t i = 0; i < kIn; ++i) {
        chain = std::fma(x[static_cast<size_t>(i)], exact[static_cast<size_t>(o * kIn + i)], chain);
      }
      ASSERT_EQ(all[static_cast<size_t>(o)], chain) << Name(dtype);
    }
  }
  EXPECT_FALSE(PackedMatrix::Pack({AllocateHost(DType::kInt32, {2, 2}).value()}).ok());
}

struct Case {
  const char* name;
  Decay decay;
  bool delta;
  bool normalise;
  int64_t value_size = 40;
};

class ReplayTest : public ::testing::TestWithParam<Case> {
 protected:
  static constexpr int64_t kT = 200, kK = 24;
  const int64_t kV = GetParam().value_size;

  ReplayTest() {
    shape_.key_size = kK;
    shape_.value_size = kV;
    shape_.decay = GetParam().decay;
    shape_.delta = GetParam().delta;
    shape_.normalise = GetParam().normalise;
    gates_ = shape_.decay == Decay::kVector ? kK : 1;
    q_ = draw_.Normal(kT * kK);
    k_ = draw_.Normal(kT * kK, 0.2f);
    v_ = draw_.Normal(kT * kV);
    g_ = draw_.Uniform(kT * gates_, -2, 0);
    g_[70] = -std::numeric_limits<float>::infinity();
    beta_ = draw_.Uniform(kT, 0, 1);
    start_ = Floats(static_cast<size_t>(ReplayLayout(shape_).size), 0.0f);
    const Floats anchor = draw_.Normal(ReplayLayout(shape_).anchor);
    std::copy(anchor.begin(), anchor.end(), start_.begin());
  }

  // Runs tokens [begin, end) that follow `begin` others.
  void Advance(int64_t begin, int64_t end, Floats& state) {
    ReplayRows rows;
    rows.count = end - begin;
    rows.q = q_.data() + begin * kK;
    rows.k = k_.data() + begin * kK;
    rows.v = v_.data() + begin * kV;
    rows.q_stride = rows.k_stride = kK;
    rows.v_stride = rows.y_stride = kV;
    if (shape_.decay != Decay::kNone) rows.g = g_.data() + begin * gates_;
    rows.g_stride = gates_;
    if (shape_.delta) rows.beta = beta_.data() + begin;
    rows.beta_stride = rows.dots_stride = 1;
    rows.y = y_.data() + begin * kV;
    rows.dots = dots_.data() + begin;
    // Of whatever shape what comes next is, it is only asked for.
    rows.next_state = draw_.Below(2) == 0 ? nullptr : start_.data();
    Replay(shape_, begin, rows, state.data());
  }

  Draw draw_;
  ReplayShape shape_;
  int64_t gates_;
  Floats q_, k_, v_, g_, beta_, start_;
  Floats y_ = Floats(static_cast<size_t>(kT * kV)), dots_ = Floats(kT);
};

TEST_P(ReplayTest, EveryInstructionSetGivesTheSameBits) {
  Floats whole = start_;
  Advance(0, kT, whole);
  const Floats y = y_, dots = dots_;
  WithEachTarget([&] {
    Floats state = start_;
    for (int64_t t = 0; t < kT; ++t) Advance(t, t + 1, state);
    EXPECT_TRUE(SameBits(whole, state));
    EXPECT_TRUE(SameBits(y, y_));
    if (shape_.normalise) {
      EXPECT_LT(RelativeError(dots_, {dots.begin(), dots.end()}), 1e-6);
    }
  });
}

TEST_P(ReplayTest, AnyCuttingGivesTheSameBits) {
  Floats whole = start_;
  Advance(0, kT, whole);
  const Floats y = y_, dots = dots_;
  for (int round = 0; round < 8; ++round) {
    Floats state = start_;
    y_.assign(y_.size(), std::nanf(""));
    dots_.assign(dots_.size(), 0);
    for (int64_t at = 0; at < kT;) {
      const int64_t end = std::min(kT, at + (round == 0 ? 1 : 1 + draw_.Below(round * 30)));
      Advance(at, end, state);
      at = end;
    }
    EXPECT_TRUE(SameBits(y, y_));
    if (shape_.normalise) {
      EXPECT_TRUE(SameBits(dots, dots_));
    }
    // Beyond the running chunk's tokens the state holds what the previous chunk left.
    EXPECT_TRUE(SameBits(whole, state));
  }
}

TEST_P(ReplayTest, FollowsTheRecurrence) {
  std::vector<double> s(start_.begin(), start_.begin() + kK * kV), z(kK),
      y(static_cast<size_t>(kT * kV)), dots(kT);
  if (shape_.normalise) std::copy_n(start_.begin() + kK * kV, kK, z.begin());
  for (int64_t t = 0; t < kT; ++t) {
    for (int64_t c = 0; c < kK; ++c) {
      const double decay =
          shape_.decay == Decay::kNone
              ? 1
              : std::exp(g_[static_cast<size_t>(t * gates_ + (gates_ == 1 ? 0 : c))]);
      for (int64_t j = 0; j < kV; ++j) s[c * kV + j] *= decay;
      z[c] = z[c] * decay + k_[t * kK + c];
      dots[t] += q_[t * kK + c] * z[c];
    }
    for (int64_t j = 0; j < kV; ++j) {
      double u = v_[t * kV + j];
      if (shape_.delta) {
        for (int64_t c = 0; c < kK; ++c) u -= s[c * kV + j] * k_[t * kK + c];
        u *= beta_[t];
      }
      for (int64_t c = 0; c < kK; ++c) {
        s[c * kV + j] += k_[t * kK + c] * u;
        y[t * kV + j] += s[c * kV + j] * q_[t * kK + c];
      }
    }
  }
  Floats state = start_;
  Advance(0, kT, state);
  EXPECT_LT(RelativeError(y_, y), 1e-5);
  if (shape_.normalise) {
    EXPECT_LT(RelativeError(dots_, dots), 1e-5);
  }
}

INSTANTIATE_TEST_SUITE_P(Families, ReplayTest,
                         ::testing::Values(Case{"linear", Decay::kNone, false, false},
                                           Case{"normalised", Decay::kNone, false, true},
                                           Case{"scalar", Decay::kScalar, false, true},
                                           Case{"vector", Decay::kVector, false, false},
                                           Case{"delta", Decay::kNone, true, false},
                                           Case{"gated_delta", Decay::kScalar, true, false},
                                           Case{"wide_linear", Decay::kScalar, false, true, 75},
                                           Case{"wide_delta", Decay::kScalar, true, false, 64},
                                           Case{"wider_delta", Decay::kVector, true, false, 137},
                                           Case{"kda", Decay::kVector, true, false}),
                         [](const auto& info) { return info.param.name; });

// Values of their own, and latents whose first channels are the values.
class ReplayAttentionTest : public ::testing::TestWithParam<bool> {};

TEST_P(ReplayAttentionTest, IsSoftmaxOverTheWindow) {
  Draw draw;
  const bool latent = GetParam();
  constexpr int64_t kT = 150, kK = 20;
  const int64_t V = latent ? 13 : 28;
  const ReplayHeads heads{kK, V, latent};
  const Floats q = draw.Normal(kT * kK), k = draw.Normal(kT * kK);
  const Floats v = latent ? k : draw.Normal(kT * V);
  const int64_t v_stride = latent ? kK : V;
  for (const int64_t left : {int64_t{-1}, int64_t{0}, int64_t{70}}) {
    std::vector<Floats> memory(3, Floats(static_cast<size_t>(heads.page_size()), std::nanf("")));
    std::vector<const float*> pages;
    pages.reserve(memory.size());
    for (const Floats& page : memory) pages.push_back(page.data());
    for (int64_t t = 0; t < kT; ++t) {
      WritePage(heads, t, k.data() + t * kK, v.data() + t * v_stride,
                memory[static_cast<size_t>(t / kPage)].data());
      Floats o(static_cast<size_t>(V));
      ReplayQuery(heads, t, left, pages, q.data() + t * kK, o.data());
      std::vector<double> expected(static_cast<size_t>(V));
      double sum = 0;
      const int64_t first = left < 0 ? 0 : std::max<int64_t>(0, t - left);
      for (int64_t s = first; s <= t; ++s) {
        double dot = 0;
        for (int64_t c = 0; c < kK; ++c) dot += double{q[t * kK + c]} * k[s * kK + c];
        sum += std::exp(dot);
        for (int64_t j = 0; j < V; ++j) expected[j] += std::exp(dot) * v[s * v_stride + j];
      }
      for (double& e : expected) e /= sum;
      ASSERT_LT(RelativeError(o, expected), 1e-5) << t << " window " << left;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Pages, ReplayAttentionTest, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "latent" : "heads"; });

}  // namespace
}  // namespace attnd::cpu
