// Every key of flash-linear-attention's config classes (testing/config_keys.json): what changes the
// function is honoured or refused by name, what is absent has the library's default, and the rest
// changes nothing. testing/test_config_keys.py holds the list against the library.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "models/files.h"
#include "models/language_model.h"

namespace attnd::models {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::json;
namespace fs = std::filesystem;

Json ReadJson(const fs::path& path) { return Json::parse(ReadTextFile(path.string()).value()); }

// {class: {key: [effect, default, another value, what else to set]}}. Effects: "function",
// "refused", "nothing"; "required" is the same in every config; "file" says what a file holds.
Json Keys() {
  return ReadJson(fs::path(ATTND_MODEL_DATA).parent_path() / "testing/config_keys.json");
}

std::vector<std::string> Classes() {
  std::vector<std::string> names;
  const Json keys = Keys();
  for (const auto& [name, unused] : keys.items()) names.push_back(name);
  return names;
}

class ConfigKeysTest : public ::testing::TestWithParam<std::string> {
 protected:
  ConfigKeysTest() : config_(ReadJson(data_ / "config.json")) {
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    fs::copy_file(data_ / "model.safetensors", folder_ / "model.safetensors");
  }
  ~ConfigKeysTest() override { fs::remove_all(folder_); }

  // The logits of some tokens, as text, or the error of loading.
  std::string Outcome(const Json& config) {
    std::ofstream(folder_ / "config.json") << config;
    const auto model = LanguageModel::Load(folder_.string());
    if (!model.ok()) return std::string(model.status().message());
    std::vector<int32_t> tokens(40);
    for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i * i % 96);
    std::vector<float> logits(tokens.size() * static_cast<size_t>((*model)->config().vocab_size));
    SequenceState state = (*model)->NewState().value();
    const Feed feed{&state, tokens, logits.data(), true};
    EXPECT_TRUE((*model)->Run({&feed, 1}).ok());
    std::string text = "logits";
    for (const float logit : logits) absl::StrAppend(&text, " ", logit);
    return text;
  }

  static fs::path Data() {
    const fs::path pure = fs::path(ATTND_MODEL_DATA) / GetParam();
    return fs::exists(pure) ? pure : fs::path(pure.string() + "_hybrid");
  }

  const fs::path data_ = Data();
  const fs::path folder_ = fs::path(::testing::TempDir()) /
                           ("attnd_config_keys_test_" + std::to_string(std::random_device()()));
  const Json config_;
};

TEST_P(ConfigKeysTest, AreHonouredOrRefusedByName) {
  EXPECT_THAT(Outcome(config_), ::testing::StartsWith("logits"));
  const Json keys = Keys()[GetParam()];
  for (const auto& [key, entry] : keys.items()) {
    const std::string effect = entry[0];
    Json base = config_;
    if (entry.size() > 3) base.update(entry[3]);
    Json absent = base, standard = base;
    absent.erase(key);
    standard[key] = entry[1];
    if (effect == "required") {
      EXPECT_THAT(Outcome(absent), HasSubstr(key + ": given nothing"));
      continue;
    }
    // An error tells the two apart.
    const std::string given = absl::StrReplaceAll(
        Outcome(standard),
        {{absl::StrCat(key, ": given ", entry[1].dump()), key + ": given nothing"}});
    EXPECT_EQ(Outcome(absent), given) << key << " is absent";
    if (effect == "file") continue;
    Json other = base;
    other[key] = entry[2];
    const std::string outcome = Outcome(other);
    if (effect == "refused") {
      EXPECT_THAT(outcome, HasSubstr(key + ": given " + entry[2].dump()));
    } else if (effect == "function") {
      EXPECT_NE(outcome, Outcome(base)) << key;
      if (!entry[1].is_boolean()) continue;
      other[key] = "yes";
      EXPECT_THAT(Outcome(other), HasSubstr(key + ": given \"yes\", expected true or false"));
    } else {
      EXPECT_EQ(effect, "nothing") << key;
      EXPECT_EQ(outcome, Outcome(base)) << key;
    }
  }
}

TEST(ModelConfigTest, TakesPythonsNumbersForTexts) {
  const auto config = ParseModelConfig(
      R"({"model_type": "mamba2", "hidden_size": 64, "num_hidden_layers": 1,)"
      R"( "dt_limit": [-Infinity, Infinity, NaN], "a": "\"Infinity NaN \\", "b": NaN})");
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->json["dt_limit"].dump(), R"(["-Infinity","Infinity","NaN"])");
  EXPECT_EQ(config->json["a"], R"("Infinity NaN \)");
  EXPECT_EQ(config->json["b"], "NaN");
  EXPECT_THAT(std::string(ParseModelConfig(R"({"model_type": "gla", "hidden_size": 64,)"
                                           R"( "num_hidden_layers": 1, "norm_eps": Infinity})")
                              .status()
                              .message()),
              HasSubstr("norm_eps: given \"Infinity\", expected a finite number"));
}

INSTANTIATE_TEST_SUITE_P(Classes, ConfigKeysTest, ::testing::ValuesIn(Classes()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace attnd::models
