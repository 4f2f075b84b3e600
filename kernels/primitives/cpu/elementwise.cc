// Copy, Fill, Iota, Unary, Binary, Where.
#include <algorithm>
#include <array>
#include <cmath>
#include <functional>
#include <type_traits>

#include "kernels/primitives/cpu/primitives_cpu.h"
#include "kernels/primitives/cpu/strided.h"

namespace attnd::cpu {
namespace {

template <typename T>
constexpr bool kIsHalf = std::is_same_v<T, Half> || std::is_same_v<T, BFloat16>;

template <typename To, typename From>
To Convert(From x) {
  if constexpr (std::is_same_v<To, From>) {
    return x;
  } else if constexpr (kIsHalf<From>) {
    return Convert<To>(ToFloat(x));
  } else if constexpr (std::is_same_v<To, Half>) {
    return ToHalf(static_cast<float>(x));
  } else if constexpr (std::is_same_v<To, BFloat16>) {
    return ToBFloat16(static_cast<float>(x));
  } else if constexpr (std::is_same_v<To, bool>) {
    return x != From(0);
  } else {
    return static_cast<To>(x);
  }
}

template <typename T>
bool IsNan(T x) {
  if constexpr (std::is_floating_point_v<T>) return std::isnan(x);
  return false;
}

template <typename T>
T Sigmoid(T x) {
  // e^-|x| never overflows.
  const T e = std::exp(-std::abs(x));
  return (x >= T(0) ? T(1) : e) / (T(1) + e);
}

template <typename T>
T Evaluate(UnaryOp op, T x) {
  switch (op) {
    case UnaryOp::kNeg:
      return -x;
    case UnaryOp::kAbs:
      return std::abs(x);
    case UnaryOp::kExp:
      return std::exp(x);
    case UnaryOp::kLog:
      return std::log(x);
    case UnaryOp::kLog1p:
      return std::log1p(x);
    case UnaryOp::kSqrt:
      return std::sqrt(x);
    case UnaryOp::kReciprocal:
      return T(1) / x;
    case UnaryOp::kSquare:
      return x * x;
    case UnaryOp::kSin:
      return std::sin(x);
    case UnaryOp::kCos:
      return std::cos(x);
    case UnaryOp::kTanh:
      return std::tanh(x);
    case UnaryOp::kSigmoid:
      return Sigmoid(x);
    case UnaryOp::kSoftplus:
      return (x > T(0) ? x : T(0)) + std::log1p(std::exp(-std::abs(x))) +
             (std::isnan(x) ? x : T(0));
    case UnaryOp::kSilu:
      return x * Sigmoid(x);
    case UnaryOp::kElu1:
      return x > T(0) ? x + T(1) : std::exp(x);
    case UnaryOp::kRelu:
      return x < T(0) ? T(0) : x;
    case UnaryOp::kFloor:
      return std::floor(x);
    case UnaryOp::kErf:
      return std::erf(x);
    case UnaryOp::kGelu:
      // erfc keeps the digits of the left tail, and -inf its 0.
      return x < T(-40) ? T(0) : x * std::erfc(-x * T(M_SQRT1_2)) / T(2);
    case UnaryOp::kNot:
      break;
  }
  return x;
}

// One instantiation of the loop per operation, so that the switch stays outside of it.
template <typename T, UnaryOp... kOps>
void DispatchUnary(UnaryOp op, const Tensor& x, const Tensor& out) {
  const StridedLoop<2> loop(out.shape(), {&x, &out});
  const auto run = [&]<UnaryOp kOp>() {
    if (op != kOp) return;
    loop.Run(8, [](const auto& at, const auto& strides, int64_t n) {
      MapRun<T, T>(at, strides, n, [](T value) { return Evaluate<T>(kOp, value); });
    });
  };
  (run.template operator()<kOps>(), ...);
}

template <typename In, typename Out, typename F>
void Zip(const Tensor& a, const Tensor& b, const Tensor& out, F f) {
  StridedLoop<3>(out.shape(), {&a, &b, &out})
      .Run(2, [f](const auto& at, const auto& strides, int64_t n) {
        ZipRun<In, Out>(at, strides, n, f);
      });
}

template <typename T>
T FlooredMod(T a, T b) {
  return a - b * std::floor(a / b);
}

template <typename T>
void BinaryArithmetic(BinaryOp op, const Tensor& a, const Tensor& b, const Tensor& out) {
  switch (op) {
    case BinaryOp::kAdd:
      return Zip<T, T>(a, b, out, [](T x, T y) { return x + y; });
    case BinaryOp::kSub:
      return Zip<T, T>(a, b, out, [](T x, T y) { return x - y; });
    case BinaryOp::kMul:
      return Zip<T, T>(a, b, out, [](T x, T y) { return x * y; });
    case BinaryOp::kDiv:
      return Zip<T, T>(a, b, out, [](T x, T y) {
        if constexpr (std::is_integral_v<T>)
          return y == 0 ? T(0) : static_cast<T>(x / y);
        else
          return x / y;
      });
    case BinaryOp::kMax:
      return Zip<T, T>(a, b, out, [](T x, T y) { return x > y || IsNan(x) ? x : y; });
    case BinaryOp::kMin:
      return Zip<T, T>(a, b, out, [](T x, T y) { return x < y || IsNan(x) ? x : y; });
    case BinaryOp::kPow:
      return Zip<T, T>(a, b, out, [](T x, T y) { return static_cast<T>(std::pow(x, y)); });
    case BinaryOp::kMod:
      return Zip<T, T>(a, b, out, [](T x, T y) {
        if constexpr (std::is_integral_v<T>)
          return y == 0 ? T(0) : static_cast<T>(((x % y) + y) % y);
        else
          return FlooredMod(x, y);
      });
    default:
      PrimitiveBug("Binary", out);
  }
}

template <typename T>
void BinaryComparison(BinaryOp op, const Tensor& a, const Tensor& b, const Tensor& out) {
  switch (op) {
    case BinaryOp::kLess:
      return Zip<T, bool>(a, b, out, [](T x, T y) { return x < y; });
    case BinaryOp::kLessEqual:
      return Zip<T, bool>(a, b, out, [](T x, T y) { return x <= y; });
    case BinaryOp::kEqual:
      return Zip<T, bool>(a, b, out, [](T x, T y) { return x == y; });
    case BinaryOp::kAnd:
      return Zip<T, bool>(a, b, out, [](T x, T y) { return x && y; });
    case BinaryOp::kOr:
      return Zip<T, bool>(a, b, out, [](T x, T y) { return x || y; });
    default:
      PrimitiveBug("Binary", a);
  }
}

}  // namespace

void Copy(const Tensor& x, const Tensor& out) {
  const StridedLoop<2> loop(out.shape(), {&x, &out});
  WithType(x.dtype(), [&](auto from) {
    WithType(out.dtype(), [&](auto to) {
      using From = decltype(from);
      using To = decltype(to);
      loop.Run(1, [](const auto& at, const auto& strides, int64_t n) {
        MapRun<From, To>(at, strides, n, [](From value) { return Convert<To>(value); });
      });
    });
  });
}

void Fill(double value, const Tensor& out) {
  WithType(out.dtype(), [&](auto to) {
    using To = decltype(to);
    const To converted = Convert<To>(value);
    StridedLoop<1>(out.shape(), {&out})
        .Run(1, [converted](const auto& at, const auto& strides, int64_t n) {
          for (int64_t i = 0; i < n; ++i)
            *reinterpret_cast<To*>(at[0] + i * strides[0]) = converted;
        });
  });
}

void Iota(double start, double step, const Tensor& out) {
  WithType(out.dtype(), [&](auto to) {
    using To = decltype(to);
    for (int64_t i = 0; i < out.dim(0); ++i) {
      out.data<To>()[i * out.stride(0)] = Convert<To>(start + static_cast<double>(i) * step);
    }
  });
}

void Unary(UnaryOp op, const Tensor& x, const Tensor& out) {
  if (op == UnaryOp::kNot) {
    StridedLoop<2>(out.shape(), {&x, &out})
        .Run(1, [](const auto& at, const auto& strides, int64_t n) {
          MapRun<bool, bool>(at, strides, n, std::logical_not<bool>());
        });
    return;
  }
  if (x.dtype() != out.dtype()) PrimitiveBug("Unary", x);
  WithComputeType("Unary", out, [&](auto t) {
    using T = decltype(t);
    DispatchUnary<T, UnaryOp::kNeg, UnaryOp::kAbs, UnaryOp::kExp, UnaryOp::kLog, UnaryOp::kLog1p,
                  UnaryOp::kSqrt, UnaryOp::kReciprocal, UnaryOp::kSquare, UnaryOp::kSin,
                  UnaryOp::kCos, UnaryOp::kTanh, UnaryOp::kSigmoid, UnaryOp::kSoftplus,
                  UnaryOp::kSilu, UnaryOp::kElu1, UnaryOp::kRelu, UnaryOp::kFloor, UnaryOp::kErf,
                  UnaryOp::kGelu>(op, x, out);
  });
}

void Binary(BinaryOp op, const Tensor& a, const Tensor& b, const Tensor& out) {
  if (a.dtype() != b.dtype()) PrimitiveBug("Binary", b);
  const bool compares = op >= BinaryOp::kLess;
  const auto run = [&](auto t) {
    using T = decltype(t);
    if (compares) {
      BinaryComparison<T>(op, a, b, out);
    } else if constexpr (!std::is_same_v<T, bool>) {
      BinaryArithmetic<T>(op, a, b, out);
    }
  };
  switch (a.dtype()) {
    case DType::kBool:
      return run(bool{});
    case DType::kInt64:
      return run(int64_t{});
    default:
      return WithComputeType("Binary", a, run);
  }
}

void Where(const Tensor& condition, const Tensor& a, const Tensor& b, const Tensor& out) {
  const StridedLoop<4> loop(out.shape(), {&condition, &a, &b, &out});
  WithType(out.dtype(), [&](auto t) {
    using T = decltype(t);
    loop.Run(2, [](const auto& at, const auto& strides, int64_t n) {
      for (int64_t i = 0; i < n; ++i) {
        const bool which = *reinterpret_cast<const bool*>(at[0] + i * strides[0]);
        const size_t from = which ? 1 : 2;
        *reinterpret_cast<T*>(at[3] + i * strides[3]) =
            *reinterpret_cast<const T*>(at[from] + i * strides[from]);
      }
    });
  });
}

}  // namespace attnd::cpu
