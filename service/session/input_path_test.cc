#include "service/session/input_path.h"

#include <gtest/gtest.h>

namespace attnd {
namespace {

TEST(InputPathTest, EndsAreWhereStepsEnd) {
  InputPath path(10, "base");
  EXPECT_EQ(path.position(), 10u);
  EXPECT_TRUE(path.HasEnd(10));
  path.Push(3, 1, "a");
  path.Push(2, 2, "b");
  EXPECT_EQ(path.position(), 15u);
  for (uint64_t position = 0; position < 20; ++position) {
    const bool end = position == 10 || position == 13 || position == 15;
    EXPECT_EQ(path.HasEnd(position), end) << position;
    EXPECT_EQ(path.HashAt(position).empty(), !end) << position;
  }
  EXPECT_EQ(path.HashAt(10), "base");
  EXPECT_EQ(path.HashAt(15), path.hash());
  EXPECT_EQ(path.EndsAround(11), "10 and 13");
  EXPECT_EQ(path.EndsAround(14), "13 and 15");
  EXPECT_EQ(path.StepsUpTo(12), 0u);
  EXPECT_EQ(path.StepsUpTo(13), 1u);
}

TEST(InputPathTest, HashesAreOfEverythingBefore) {
  InputPath one(0, "seed"), other(0, "seed");
  one.Push(3, 1, "a");
  one.Push(2, 2, "b");
  other.Push(3, 7, "a");
  EXPECT_EQ(one.HashAt(3), other.hash()) << "the same was read, whatever its records are";
  other.Push(2, 8, "c");
  EXPECT_NE(one.hash(), other.hash());
  other.Truncate(3);
  other.Push(2, 9, "b");
  EXPECT_EQ(one.hash(), other.hash());
}

TEST(InputPathTest, PathsPartWhereWhatTheyReadDoes) {
  InputPath path(4, "base");
  path.Push(3, 1, "a");
  path.Push(2, 2, "b");
  InputPath other = path;
  EXPECT_EQ(path.CommonWith(other), 9u);
  other.Truncate(7);
  EXPECT_EQ(other.position(), 7u);
  EXPECT_EQ(path.CommonWith(other), 7u);
  other.Push(2, 5, "b");
  EXPECT_EQ(path.CommonWith(other), 9u) << "read twice, the same";
  other.Truncate(7);
  other.Push(2, 6, "c");
  EXPECT_EQ(path.CommonWith(other), 7u);
  other.Truncate(4);
  EXPECT_EQ(path.CommonWith(other), 4u);
}

TEST(InputPathTest, PathsWithOtherBeginningsHaveInCommonWhatBothCanTell) {
  InputPath path(4, "base");
  path.Push(3, 1, "a");
  path.Push(2, 2, "b");
  InputPath later(7, path.HashAt(7));
  EXPECT_EQ(path.CommonWith(later), 7u);
  EXPECT_EQ(later.CommonWith(path), 7u);
  later.Push(2, 9, "b");
  EXPECT_EQ(path.CommonWith(later), 9u);
  EXPECT_EQ(later.CommonWith(path), 9u);
  EXPECT_EQ(path.CommonWith(InputPath(7, "another")), 0u);
  EXPECT_EQ(InputPath(9, path.hash()).CommonWith(path), 9u);
  EXPECT_EQ(InputPath(3, "before").CommonWith(path), 0u);
}

}  // namespace
}  // namespace attnd
