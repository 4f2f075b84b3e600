#include "kernels/core/tensor.h"

#include <limits>
#include <numeric>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace attnd {
namespace {

Tensor Ramp(Dims shape) {
  Tensor tensor = AllocateHost(DType::kInt64, std::move(shape)).value();
  std::iota(tensor.data<int64_t>(), tensor.data<int64_t>() + tensor.num_elements(), 0);
  return tensor;
}

TEST(TensorTest, ViewsShareElements) {
  const Tensor whole = Ramp({2, 3, 4});
  const Tensor part = whole.Slice(1, 1, 2).Select(0, 1);
  EXPECT_EQ(part.shape(), (Dims{2, 4}));
  EXPECT_EQ(*part.data<int64_t>(), 16);
  EXPECT_EQ(part.Transpose(0, 1).strides(), (Dims{1, 4}));
  EXPECT_FALSE(whole.Slice(2, 0, 2).is_contiguous());
  EXPECT_TRUE(whole.Slice(0, 1, 1).is_contiguous());
}

TEST(TensorTest, ExpandRepeatsWithoutCopying) {
  const Tensor wide = Ramp({3, 1}).Expand({2, 3, 5});
  EXPECT_EQ(wide.strides(), (Dims{0, 1, 0}));
}

TEST(TensorTest, SplitAxisWorksOnAnyStrides) {
  const Tensor split = Ramp({6, 2}).Transpose(0, 1).SplitAxis(1, 3);
  EXPECT_EQ(split.shape(), (Dims{2, 2, 3}));
  EXPECT_EQ(split.strides(), (Dims{1, 6, 2}));
}

TEST(TensorTest, AViewKeepsItsMemoryAlive) {
  Tensor view;
  {
    const Tensor owner = Ramp({4});
    view = owner.Slice(0, 3, 1);
  }
  EXPECT_EQ(*view.data<int64_t>(), 3);
}

TEST(TensorTest, SizesAreCheckedBeforeAnythingIsAllocated) {
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(CheckedElementCount({kMost, 2}).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(CheckedElementCount({-1}).status().code(), absl::StatusCode::kOutOfRange);
  EXPECT_EQ(CheckedElementCount({kMost, 0, kMost}).value(), 0);
  EXPECT_EQ(CheckedByteSize(DType::kFloat64, {kMost / 4}).status().code(),
            absl::StatusCode::kOutOfRange);
  EXPECT_EQ(AllocateHost(DType::kFloat32, {int64_t{1} << 50}).status().code(),
            absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace attnd
