// What is counted of a store's calls.
#include "service/session/measured_store.h"

#include <gtest/gtest.h>

#include <map>
#include <memory>
#include <string>

#include "prometheus/registry.h"
#include "service/session/memory_store.h"

namespace attnd {
namespace {

class MeasuredStoreTest : public ::testing::Test {
 protected:
  double ErrorsOf(const std::string& op, const std::string& code) {
    for (const prometheus::MetricFamily& family : registry_.Collect()) {
      if (family.name != "attnd_store_errors_total") continue;
      for (const prometheus::ClientMetric& metric : family.metric) {
        std::map<std::string, std::string> labels;
        for (const auto& label : metric.label) labels[label.name] = label.value;
        if (labels["op"] == op && labels["code"] == code) return metric.counter.value;
      }
    }
    return 0;
  }
  uint64_t Syncs() { return metrics_.sync.Collect().histogram.sample_count; }

  prometheus::Registry registry_;
  SessionMetrics metrics_{registry_};
  MeasuredStore store_{std::make_unique<MemoryStore>(), metrics_};
};

TEST_F(MeasuredStoreTest, CountsBytesAndSyncs) {
  const uint64_t epoch = store_.Acquire("s").value();
  ASSERT_TRUE(store_.Append("s", epoch, {0, "12345"}, Durability::kAsync).ok());
  EXPECT_EQ(Syncs(), 0u);
  const SessionStore::Entry entry{"s", epoch, {1, "678"}};
  ASSERT_TRUE(store_.AppendAll({&entry, 1}, Durability::kSync).ok());
  EXPECT_EQ(Syncs(), 1u);
  EXPECT_EQ(metrics_.log_bytes.Value(), 8);
  const absl::string_view parts[] = {"ab", "cde"};
  ASSERT_TRUE(store_.PutState("s", epoch, {2, 0, ""}, parts, Durability::kAsync).ok());
  EXPECT_EQ(metrics_.state_bytes.Value(), 5);
}

TEST_F(MeasuredStoreTest, CountsFailuresButNotWhatIsNotThere) {
  const uint64_t old = store_.Acquire("s").value();
  ASSERT_TRUE(store_.Acquire("s").ok());
  EXPECT_TRUE(absl::IsAborted(store_.Append("s", old, {0, "x"}, Durability::kAsync)));
  EXPECT_EQ(metrics_.fenced.Value(), 1);
  EXPECT_EQ(ErrorsOf("append", "ABORTED"), 1);
  EXPECT_EQ(metrics_.log_bytes.Value(), 0);
  EXPECT_TRUE(absl::IsNotFound(store_.ReadLog("nobody", 0, SessionStore::kAll).status()));
  EXPECT_EQ(ErrorsOf("read_log", "NOT_FOUND"), 0);
  metrics_.RecordStoreCall("get_state", absl::DataLossError("damaged"));
  EXPECT_EQ(metrics_.corruptions.Value(), 1);
  EXPECT_EQ(ErrorsOf("get_state", "DATA_LOSS"), 1);
}

}  // namespace
}  // namespace attnd
