#include "service/session/model_table.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "models/files.h"

namespace attnd {

namespace fs = std::filesystem;

std::vector<std::string> ModelTable::names() const {
  std::vector<std::string> names;
  std::error_code error;
  if (folder_.empty()) return names;
  for (const auto& entry : fs::directory_iterator(folder_, error)) {
    if (fs::exists(entry.path() / "config.json", error)) names.push_back(entry.path().filename());
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::shared_ptr<const LoadedModel> ModelTable::Find(absl::string_view name) const {
  absl::MutexLock lock(&mu_);
  const auto found = loaded_.find(name);
  return found == loaded_.end() ? nullptr : found->second;
}

ModelTable::Slots ModelTable::slots() const {
  Slots slots;
  absl::MutexLock lock(&mu_);
  for (const auto& [name, loaded] : loaded_) {
    slots.busy += loaded->runner->usage().tasks;
    slots.all += options_.max_tasks;
  }
  return slots;
}

absl::Status ModelTable::CheckKnown(absl::string_view name) const {
  // A name is a key, never a path.
  const auto plain = [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.';
  };
  if (name.empty() || name.size() > 128 || name[0] == '.' ||
      !std::all_of(name.begin(), name.end(), plain)) {
    return absl::InvalidArgumentError(
        absl::StrCat("model: given \"", name, "\", expected 1 to 128 of [A-Za-z0-9_.-]"));
  }
  if (folder_.empty() || !fs::exists(absl::StrCat(folder_, "/", name, "/config.json"))) {
    const std::vector<std::string> known = names();
    return absl::NotFoundError(absl::StrCat(
        "model: given \"", name, "\", known are: ",
        known.empty() ? "none (--models names their directory)" : absl::StrJoin(known, ", ")));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::shared_ptr<const LoadedModel>> ModelTable::Load(absl::string_view name) {
  if (auto found = Find(name)) return found;
  if (absl::Status s = CheckKnown(name); !s.ok()) return s;
  absl::MutexLock loading(&loading_);
  if (auto found = Find(name)) return found;
  const std::string path = absl::StrCat(folder_, "/", name);
  auto loaded = std::make_shared<LoadedModel>();
  loaded->name = std::string(name);
  absl::StatusOr<std::unique_ptr<const models::LanguageModel>> model =
      models::LanguageModel::Load(path, device_);
  if (!model.ok()) {
    return absl::Status(model.status().code(),
                        absl::StrCat("model ", name, ": ", model.status().message()));
  }
  loaded->model = *std::move(model);
  loaded->tokenizer = models::MakeByteTokenizer();
  if (absl::StatusOr<std::string> card = models::ReadTextFile(path + "/README.md"); card.ok()) {
    loaded->card = *std::move(card);
  }
  loaded->runner = std::make_unique<ModelRunner>(*loaded->model, options_);
  absl::MutexLock lock(&mu_);
  if (stopped_) {
    loaded->runner->Stop();
    return absl::UnavailableError("the server is stopping: repeat the call");
  }
  loaded_.emplace(name, loaded);
  return std::shared_ptr<const LoadedModel>(std::move(loaded));
}

bool ModelTable::Unload(absl::string_view name) {
  std::shared_ptr<const LoadedModel> gone;
  {
    absl::MutexLock lock(&mu_);
    const auto found = loaded_.find(name);
    if (found == loaded_.end()) return false;
    gone = std::move(found->second);
    loaded_.erase(found);
  }
  gone->runner->Stop();
  return true;
}

void ModelTable::Stop() {
  std::map<std::string, std::shared_ptr<const LoadedModel>, std::less<>> gone;
  {
    absl::MutexLock lock(&mu_);
    stopped_ = true;
    gone.swap(loaded_);
  }
  for (const auto& [name, loaded] : gone) loaded->runner->Stop();
}

}  // namespace attnd
