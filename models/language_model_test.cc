// Models of every class, as flash-linear-attention saved and computed them (testdata/, written by
// testing/make_goldens.py), and what sessions rely on: bits that neither cutting nor company
// changes.
#include "models/language_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>

#include "absl/strings/str_cat.h"
#include "kernels/core/registry.h"
#include "kernels/core/safetensors.h"
#include "kernels/primitives/cuda_module.h"
#include "models/files.h"
#include "models/step.h"

namespace attnd::models {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
namespace fs = std::filesystem;

constexpr char kData[] = ATTND_MODEL_DATA;

std::string ReadFile(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

struct Golden {
  std::vector<int32_t> tokens;
  std::vector<float> logits_float32, logits_bfloat16;
};

Golden ReadGolden(const fs::path& folder) {
  const std::string file = ReadFile(folder / "golden.safetensors");
  Golden golden;
  const SafetensorsHeader header = ParseSafetensors(file).value();
  for (const SafetensorsEntry& entry : header.entries) {
    const auto copy = [&](auto& to) {
      to.resize(entry.size / sizeof(to[0]));
      std::memcpy(to.data(), file.data() + entry.begin, entry.size);
    };
    if (entry.name == "tokens") copy(golden.tokens);
    if (entry.name == "logits_float32") copy(golden.logits_float32);
    if (entry.name == "logits_bfloat16") copy(golden.logits_bfloat16);
  }
  return golden;
}

double RelativeError(const std::vector<float>& got, const std::vector<float>& expected) {
  double error = 0, norm = 0;
  for (size_t i = 0; i < expected.size(); ++i) {
    error += std::pow(double{got[i]} - expected[i], 2);
    norm += std::pow(double{expected[i]}, 2);
  }
  return std::sqrt(error / norm);
}

std::vector<std::string> Cases() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kData)) {
    if (fs::exists(entry.path() / "golden.safetensors")) names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

// A device of the kind; null with the reason if it is not there.
std::shared_ptr<Backend> OpenDevice(Device kind, std::string& why) {
  if (kind == Device::kCpu) return nullptr;
  static Registry registry;
  if (registry.operators().empty()) RegisterAllOperators(registry);
  static const absl::StatusOr<std::shared_ptr<Backend>> device = CreateCudaBackend({}, registry);
  if (!device.ok()) why = std::string(device.status().message());
  return device.ok() ? *device : nullptr;
}

class LanguageModelTest : public ::testing::TestWithParam<std::tuple<std::string, Device>> {
 protected:
  LanguageModelTest() : random_(seed_) { std::printf("seed %u\n", seed_); }

  void SetUp() override {
    std::string why;
    const std::shared_ptr<Backend> device = OpenDevice(std::get<Device>(GetParam()), why);
    if (!why.empty()) GTEST_SKIP() << "NOT TESTED: " << why;
    absl::StatusOr<std::unique_ptr<const LanguageModel>> model =
        LanguageModel::Load(folder_, device);
    if (absl::IsUnimplemented(model.status())) GTEST_SKIP() << "NOT TESTED: " << model.status();
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
    vocab_ = model_->config().vocab_size;
  }

  // Feeds `tokens` in pieces of at most `most` tokens; their logits.
  std::vector<float> Logits(absl::Span<const int32_t> tokens, size_t most, SequenceState& state) {
    std::vector<float> logits(tokens.size() * static_cast<size_t>(vocab_));
    for (size_t at = 0; at < tokens.size();) {
      const size_t count = std::min(tokens.size() - at, 1 + random_() % most);
      const Feed feed{&state, tokens.subspan(at, count),
                      logits.data() + at * static_cast<size_t>(vocab_), true};
      EXPECT_TRUE(model_->Run({&feed, 1}).ok());
      at += count;
    }
    return logits;
  }

  std::vector<int32_t> RandomTokens(size_t count) {
    std::vector<int32_t> tokens(count);
    for (int32_t& token : tokens)
      token = static_cast<int32_t>(random_() % static_cast<size_t>(vocab_));
    return tokens;
  }

  const unsigned seed_ = std::random_device()();
  std::mt19937 random_;
  const fs::path folder_ = fs::path(kData) / std::get<std::string>(GetParam());
  std::unique_ptr<const LanguageModel> model_;
  int64_t vocab_ = 0;
};

TEST_P(LanguageModelTest, ComputesWhatTheLibraryComputes) {
  const Golden golden = ReadGolden(folder_);
  SequenceState state = model_->NewState().value();
  const std::vector<float> logits = Logits(golden.tokens, golden.tokens.size(), state);
  EXPECT_LT(RelativeError(logits, golden.logits_float32), 1e-4);
  // The library rounds every activation to bfloat16, and its error is its own: what it loses
  // against its float32 bounds what may lie between.
  const double theirs = RelativeError(golden.logits_bfloat16, golden.logits_float32);
  EXPECT_LT(RelativeError(logits, golden.logits_bfloat16), std::max(2e-2, 1.01 * theirs));
}

TEST_P(LanguageModelTest, NeitherCuttingNorCompanyChangesABit) {
  const std::vector<int32_t> tokens = RandomTokens(230);
  SequenceState whole = model_->NewState().value();
  const Feed feed_all{&whole, tokens, nullptr, false};
  std::vector<float> expected(tokens.size() * static_cast<size_t>(vocab_));
  Feed asked = feed_all;
  asked.logits = expected.data();
  asked.all_logits = true;
  ASSERT_TRUE(model_->Run({&asked, 1}).ok());

  SequenceState single = model_->NewState().value();
  EXPECT_EQ(Logits(tokens, 1, single), expected);
  SequenceState cut = model_->NewState().value();
  EXPECT_EQ(Logits(tokens, 100, cut), expected);

  // Beside sequences that join and leave.
  SequenceState among = model_->NewState().value();
  std::vector<float> logits(expected.size());
  std::vector<std::vector<int32_t>> others;
  for (size_t at = 0; at < tokens.size();) {
    const size_t count = std::min<size_t>(tokens.size() - at, 1 + random_() % 40);
    std::vector<SequenceState> company;
    others.clear();
    for (size_t i = random_() % 5; i > 0; --i) {
      company.push_back(model_->NewState().value());
      others.push_back(RandomTokens(1 + random_() % 70));
    }
    std::vector<Feed> feeds;
    for (size_t i = 0; i < company.size(); ++i) {
      feeds.push_back({&company[i], others[i], nullptr, false});
    }
    const Feed own{&among, absl::MakeConstSpan(tokens).subspan(at, count),
                   logits.data() + at * static_cast<size_t>(vocab_), true};
    feeds.insert(feeds.begin() + static_cast<int64_t>(random_() % (feeds.size() + 1)), own);
    ASSERT_TRUE(model_->Run(feeds).ok());
    at += count;
  }
  EXPECT_EQ(logits, expected);
}

// As many sequences of a token each as are shared out between threads whole.
TEST_P(LanguageModelTest, ManyInABatchHaveTheBitsOfEachAlone) {
  constexpr size_t kSequences = 37, kTokens = 20;
  const auto vocab = static_cast<size_t>(vocab_);
  std::vector<std::vector<int32_t>> tokens;
  std::vector<std::vector<float>> alone;
  std::vector<SequenceState> states;
  for (size_t i = 0; i < kSequences; ++i) {
    tokens.push_back(RandomTokens(kTokens));
    SequenceState own = model_->NewState().value();
    alone.push_back(Logits(tokens.back(), kTokens, own));
    states.push_back(model_->NewState().value());
  }
  std::vector<std::vector<float>> logits(kSequences, std::vector<float>(kTokens * vocab));
  for (size_t t = 0; t < kTokens; ++t) {
    std::vector<Feed> feeds;
    for (size_t i = 0; i < kSequences; ++i) {
      feeds.push_back({&states[i], absl::MakeConstSpan(tokens[i]).subspan(t, 1),
                       logits[i].data() + t * vocab, false});
    }
    ASSERT_TRUE(model_->Run(feeds).ok());
  }
  for (size_t i = 0; i < kSequences; ++i) EXPECT_EQ(logits[i], alone[i]) << i;
}

TEST(SplitTest, CutsBetweenSequencesWhereShareIsNearlyEqual) {
  const auto split = [](const std::vector<int64_t>& counts, int64_t most) {
    std::vector<Segment> segments;
    Step step;
    for (const int64_t count : counts) {
      segments.push_back({nullptr, step.rows, count});
      step.rows += count;
    }
    step.segments = segments;
    std::vector<int64_t> rows;
    size_t next = 0;
    for (const StepGroup& group : Split(step, most)) {
      EXPECT_EQ(group.first, next);
      next += group.segments.size();
      int64_t row = 0;
      for (const Segment& segment : group.segments) {
        EXPECT_EQ(segment.row, row);
        row += segment.count;
      }
      EXPECT_EQ(row, group.rows);
      rows.push_back(group.rows);
    }
    EXPECT_EQ(next, counts.size());
    return rows;
  };
  EXPECT_THAT(split(std::vector<int64_t>(32, 1), 2), ElementsAre(16, 16));
  EXPECT_THAT(split(std::vector<int64_t>(33, 1), 4), ElementsAre(8, 8, 9, 8));
  EXPECT_THAT(split({1, 1, 1, 20, 1, 21}, 2), ElementsAre(23, 22));
  // One sequence's rows are never two groups', and few rows are one group.
  EXPECT_THAT(split({1, 1, 100, 1}, 2), ElementsAre(103));
  EXPECT_THAT(split({15}, 2), ElementsAre(15));
  EXPECT_THAT(split(std::vector<int64_t>(15, 1), 2), ElementsAre(15));
  EXPECT_THAT(split({}, 2), ElementsAre());
}

TEST_P(LanguageModelTest, ACopyGoesItsOwnWay) {
  const std::vector<int32_t> start = RandomTokens(1 + random_() % 200), left = RandomTokens(100),
                             right = RandomTokens(100);
  SequenceState state = model_->NewState().value();
  Logits(start, 64, state);
  SequenceState copy = state.Copy().value();
  EXPECT_EQ(copy.position(), static_cast<int64_t>(start.size()));
  const std::vector<float> a = Logits(left, 7, state), b = Logits(right, 9, copy);

  const auto straight = [&](const std::vector<int32_t>& rest) {
    SequenceState fresh = model_->NewState().value();
    Logits(start, 64, fresh);
    return Logits(rest, 50, fresh);
  };
  EXPECT_EQ(a, straight(left));
  EXPECT_EQ(b, straight(right));
}

TEST_P(LanguageModelTest, AnImageGoesOnAsTheStateDoes) {
  const std::vector<int32_t> start = RandomTokens(1 + random_() % 200), rest = RandomTokens(100);
  SequenceState state = model_->NewState().value();
  Logits(start, 64, state);
  SequenceState::Image image;
  ASSERT_TRUE(state.Save(image).ok());
  std::string bytes;
  for (const absl::string_view part : image.parts) bytes.append(part.data(), part.size());
  absl::StatusOr<SequenceState> back = model_->LoadState(bytes);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(Logits(rest, 11, *back), Logits(rest, 13, state));

  for (const size_t size : {size_t{0}, size_t{20}, bytes.size() - 1}) {
    EXPECT_FALSE(model_->LoadState(bytes.substr(0, size)).ok()) << size;
  }
  EXPECT_FALSE(model_->LoadState(bytes + "x").ok());
  EXPECT_EQ(model_->LoadState("x" + bytes).status().code(), absl::StatusCode::kDataLoss);
  std::string foreign = bytes;
  foreign.replace(0, 8, model_->device() == Device::kCpu ? "ucstate1" : "tnstate1");
  EXPECT_EQ(model_->LoadState(foreign).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_FALSE(SequenceState::Load(model_->layouts().subspan(1), bytes).ok());
}

TEST_P(LanguageModelTest, RefusesTokensOutsideOfTheVocabulary) {
  SequenceState state = model_->NewState().value();
  const std::vector<int32_t> tokens = {1, static_cast<int32_t>(vocab_)};
  const Feed feed{&state, tokens, nullptr, false};
  const absl::Status status = model_->Run({&feed, 1});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("tokens: given 96, expected [0, 96)"));
  EXPECT_EQ(state.position(), 0);
}

INSTANTIATE_TEST_SUITE_P(Classes, LanguageModelTest,
                         ::testing::Combine(::testing::ValuesIn(Cases()),
                                            ::testing::Values(Device::kCpu, Device::kCuda)),
                         [](const auto& info) {
                           return absl::StrCat(std::get<std::string>(info.param), "_",
                                               Name(std::get<Device>(info.param)));
                         });

TEST(LatentAttentionTest, KeepsLatentsAndOneRotatedKey) {
  const auto model = LanguageModel::Load(fs::path(kData) / "mla").value();
  const nlohmann::json& config = model->config().json;
  const int64_t a_token =
      config["kv_lora_rank"].get<int64_t>() + config["qk_rope_head_dim"].get<int64_t>();
  for (const LayerLayout& layout : model->layouts()) {
    EXPECT_EQ(layout.fixed, 0);
    EXPECT_EQ(layout.page, kPagePositions * a_token);
  }
}

// A folder of one's own, to spoil.
class CheckpointTest : public ::testing::Test {
 protected:
  CheckpointTest() {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    config_ = ReadFile(fs::path(kData) / "gated_deltanet" / "config.json");
    weights_ = ReadFile(fs::path(kData) / "gated_deltanet" / "model.safetensors");
    header_ = ParseSafetensors(weights_).value();
    Write("config.json", config_);
  }
  ~CheckpointTest() override { fs::remove_all(folder_); }

  void Write(const std::string& name, const std::string& bytes) {
    std::ofstream(folder_ / name, std::ios::binary) << bytes;
  }

  // The tensors for which keep says so, under the names that it gives.
  void WriteWeights(const std::string& file, const std::function<bool(SafetensorsEntry&)>& keep) {
    SafetensorsHeader header;
    std::string data;
    for (SafetensorsEntry entry : header_.entries) {
      const absl::string_view bytes(weights_.data() + entry.begin, entry.size);
      if (!keep(entry)) continue;
      header.entries.push_back(entry);
      data.append(bytes.data(), bytes.size());
    }
    Write(file, FormatSafetensorsHeader(header) + data);
  }

  std::string Error() {
    const absl::StatusOr<std::unique_ptr<const LanguageModel>> model = LanguageModel::Load(folder_);
    return model.ok() ? "loaded" : std::string(model.status().message());
  }

  std::string ErrorOfConfig(const std::string& from, const std::string& to) {
    WriteWeights("model.safetensors", [](SafetensorsEntry&) { return true; });
    std::string config = config_;
    const size_t at = config.find(from);
    EXPECT_NE(at, std::string::npos) << from;
    config.replace(at, from.size(), to);
    Write("config.json", config);
    return Error();
  }

  const fs::path folder_ = fs::path(::testing::TempDir()) /
                           ("attnd_checkpoint_test_" + std::to_string(std::random_device()()));
  std::string config_, weights_;
  SafetensorsHeader header_;
};

TEST_F(CheckpointTest, NamesWhatIsMissingUnknownOrMisshapen) {
  const std::string name = "model.layers.1.attn.k_proj.weight";
  WriteWeights("model.safetensors", [&](SafetensorsEntry& e) { return e.name != name; });
  EXPECT_THAT(Error(), HasSubstr("weights: " + name + ": given nothing, expected [64,64]"));
  WriteWeights("model.safetensors", [&](SafetensorsEntry& e) {
    if (e.name == name) e.shape = {32, 128};
    return true;
  });
  EXPECT_THAT(Error(), HasSubstr(name + ": given bfloat16[32,128]"));
  WriteWeights("model.safetensors", [&](SafetensorsEntry& e) {
    if (e.name == name) e.name = "model.layers.1.attn.key.weight";
    return true;
  });
  EXPECT_THAT(Error(), HasSubstr(name + ": given nothing"));
  Write("model.safetensors", weights_.substr(0, weights_.size() - 1));
  EXPECT_THAT(Error(), HasSubstr("given bytes"));
  fs::remove(folder_ / "model.safetensors");
  EXPECT_THAT(Error(), HasSubstr("model.safetensors"));
}

TEST_F(CheckpointTest, RefusesTensorsThatNobodyReads) {
  const std::string extra = "model.layers.0.attn.D";
  SafetensorsHeader header = header_;
  std::string data;
  for (const SafetensorsEntry& entry : header_.entries) {
    data.append(weights_, entry.begin, entry.size);
  }
  header.entries.push_back({extra, DType::kFloat32, {2}});
  Write("model.safetensors", FormatSafetensorsHeader(header) + data + std::string(8, '\0'));
  EXPECT_THAT(Error(), HasSubstr("weights: " + extra + ": given float32[2], expected no tensor"));
}

TEST_F(CheckpointTest, ReadsShards) {
  WriteWeights("model.safetensors", [](SafetensorsEntry&) { return true; });
  const auto whole = LanguageModel::Load(folder_).value();
  fs::remove(folder_ / "model.safetensors");
  std::string map;
  int i = 0;
  for (const char* file : {"a.safetensors", "b.safetensors"}) {
    const int own = i++;
    int n = 0;
    WriteWeights(file, [&](SafetensorsEntry& e) {
      if (n++ % 2 != own) return false;
      map += (map.empty() ? "\"" : ",\"") + e.name + "\":\"" + file + "\"";
      return true;
    });
  }
  Write("model.safetensors.index.json", "{\"weight_map\":{" + map + "}}");
  const auto sharded = LanguageModel::Load(folder_);
  ASSERT_TRUE(sharded.ok()) << sharded.status();
  EXPECT_EQ((*sharded)->weights_hash(), whole->weights_hash());
  Write("model.safetensors.index.json", "{\"weight_map\":{\"x\":\"../a.safetensors\"}}");
  EXPECT_THAT(Error(), HasSubstr("expected a file of the folder"));
}

TEST_F(CheckpointTest, NamesTheKeyThatIsWrong) {
  EXPECT_THAT(ErrorOfConfig("\"gated_deltanet\"", "\"mamba\""),
              HasSubstr("model_type: given \"mamba\", expected one of based, delta_net"));
  EXPECT_THAT(ErrorOfConfig("\"hidden_size\": 64", "\"hidden_size\": \"big\""),
              HasSubstr("hidden_size: given \"big\", expected an integer"));
  EXPECT_THAT(ErrorOfConfig("\"hidden_act\": \"swish\"", "\"hidden_act\": \"gelu\""),
              HasSubstr("hidden_act: given \"gelu\", expected \"swish\""));
  const auto attention = [&](const std::string& spec) {
    return ErrorOfConfig("\"attn\": null", "\"attn\": " + spec);
  };
  EXPECT_THAT(attention(R"({"layers":[3],"num_heads":2})"),
              HasSubstr("expected indices in [0, 3)"));
  EXPECT_THAT(attention(R"({"layers":[1,1],"num_heads":2})"), HasSubstr("1 comes twice"));
  EXPECT_THAT(attention(R"({"layers":[1],"num_heads":2,"window_size":0})"),
              HasSubstr("window_size: given 0"));
  EXPECT_THAT(attention(R"([{"layers":[1],"num_heads":3}])"), HasSubstr("attn[0]: num_heads"));
}

}  // namespace
}  // namespace attnd::models
