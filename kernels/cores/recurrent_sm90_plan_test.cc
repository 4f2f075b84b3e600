// How sequences are cut for the Hopper kernels.
#include "kernels/cores/recurrent_sm90_plan.h"

#include <iostream>
#include <random>

#include "gtest/gtest.h"

namespace attnd::cuda {
namespace {

std::vector<Sequence> RandomSequences(std::mt19937& random) {
  std::vector<Sequence> sequences;
  int64_t begin = 0;
  const auto count = static_cast<int64_t>(random() % 6 + 1);
  for (int64_t i = 0; i < count; ++i) {
    const auto length = static_cast<int64_t>(random() % 4 == 0 ? random() % 3 : random() % 20000);
    sequences.push_back({0, begin, length, i});
    begin += length;
  }
  return sequences;
}

TEST(Sm90PlanTest, SpansCoverEverySequenceInWholeUnits) {
  const auto seed = std::random_device()();
  std::cout << "seed " << seed << std::endl;
  std::mt19937 random(seed);
  for (int round = 0; round < 200; ++round) {
    const std::vector<Sequence> sequences = RandomSequences(random);
    const auto columns = static_cast<int64_t>(random() % 40 + 1);
    const Sm90Plan plan = PlanSm90(sequences, columns, static_cast<int>(random() % 200 + 1));
    size_t at = 0, summed = 0, chains = 0;
    int slots = 0;
    for (const Sequence& sequence : sequences) {
      const size_t first = at;
      int64_t token = sequence.begin;
      for (bool last = false; !last; ++at) {
        ASSERT_LT(at, plan.spans.size());
        const Sm90Span& span = plan.spans[at];
        EXPECT_EQ(span.state, sequence.state);
        EXPECT_EQ(span.begin, token);
        EXPECT_EQ(span.first, at == first);
        EXPECT_EQ(span.unit, Sm90UnitChunks(sequence.length, columns));
        token += span.tokens;
        last = span.last;
        if (last) continue;
        EXPECT_EQ(span.tokens % (span.unit * kSm90Chunk), 0);
        ASSERT_LT(summed, plan.summed.size());
        EXPECT_EQ(plan.summed[summed++], static_cast<int>(at));
      }
      EXPECT_EQ(token, sequence.begin + sequence.length);
      if (at - first == 1) continue;
      // The states before all spans but the first come from the units before them.
      ASSERT_LT(chains, plan.chains.size());
      const Sm90Chain& chain = plan.chains[chains++];
      EXPECT_EQ(chain.slot, slots);
      for (size_t i = first; i < at; ++i) {
        const Sm90Span& span = plan.spans[i];
        EXPECT_EQ(span.chain, slots);
        EXPECT_EQ((span.slot - slots) * span.unit * kSm90Chunk, span.begin - sequence.begin);
        EXPECT_LE(span.slot, chain.slot + chain.units);
      }
      EXPECT_LE(chain.units, plan.longest_chain);
      slots += chain.units + 1;
    }
    EXPECT_EQ(at, plan.spans.size());
    EXPECT_EQ(summed, plan.summed.size());
    EXPECT_EQ(chains, plan.chains.size());
    EXPECT_EQ(slots, plan.slots);
  }
}

TEST(Sm90PlanTest, FewHeadsAreSplitAndManyAreNot) {
  const std::vector<Sequence> one = {{0, 0, 8192, 0}};
  EXPECT_EQ(PlanSm90(one, 16, 132).spans.size(), 8u);
  EXPECT_EQ(PlanSm90(one, 128, 132).spans.size(), 1u);
  std::vector<Sequence> eight;
  for (int64_t i = 0; i < 8; ++i) eight.push_back({i, 0, 8192, i});
  EXPECT_EQ(PlanSm90(eight, 16, 132).spans.size(), 8u);
}

TEST(Sm90PlanTest, AUnitDependsOnItsSequenceAlone) {
  const std::vector<Sequence> alone = {{0, 0, 5000, 0}};
  const std::vector<Sequence> among = {{0, 0, 100000, 0}, {0, 100000, 5000, 1}};
  EXPECT_EQ(PlanSm90(alone, 8, 132).spans.back().unit, PlanSm90(among, 8, 66).spans.back().unit);
}

}  // namespace
}  // namespace attnd::cuda
