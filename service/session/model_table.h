// The language models of a process: folders of one directory, loaded when asked for.
#ifndef ATTND_SERVICE_SESSION_MODEL_TABLE_H_
#define ATTND_SERVICE_SESSION_MODEL_TABLE_H_

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "models/language_model.h"
#include "models/tokenizer.h"
#include "service/session/model_runner.h"

namespace attnd {

// A loaded model. Whoever holds a pointer may read it, also after it was unloaded from the table;
// its runner takes nothing any more then.
struct LoadedModel {
  std::string name;
  std::string card;  // README.md of its folder.
  std::unique_ptr<const models::LanguageModel> model;
  std::unique_ptr<const models::Tokenizer> tokenizer;
  std::unique_ptr<ModelRunner> runner;
};

// Safe from many threads.
class ModelTable {
 public:
  // `folder` holds one folder a model; empty: there are no models. They run on `device`, which is
  // called `device_name`; null: the CPU.
  ModelTable(std::string folder, const RunnerOptions& options,
             std::shared_ptr<Backend> device = nullptr, std::string device_name = "cpu")
      : folder_(std::move(folder)),
        options_(options),
        device_(std::move(device)),
        device_name_(std::move(device_name)) {}

  ~ModelTable() { Stop(); }

  // Names of folders that hold a config.json, in order.
  std::vector<std::string> names() const;
  const std::string& device_name() const { return device_name_; }
  // The model of that name if it is loaded, else null.
  std::shared_ptr<const LoadedModel> Find(absl::string_view name) const;
  // Loads it where it is not; blocks for as long as that takes. NOT_FOUND with the names that there
  // are; INVALID_ARGUMENT for a name that is no plain one, or a checkpoint that is wrong.
  absl::StatusOr<std::shared_ptr<const LoadedModel>> Load(absl::string_view name);
  // Of all that are loaded: sequences that wait or run, and how many may.
  struct Slots {
    size_t busy = 0, all = 0;
  };
  Slots slots() const;
  // NOT_FOUND with the names that there are, INVALID_ARGUMENT for a name that is no plain one.
  absl::Status CheckKnown(absl::string_view name) const;
  // Whether it was there. What runs on it ends with UNAVAILABLE.
  bool Unload(absl::string_view name);
  // Unloads all of them; Load is UNAVAILABLE from then on.
  void Stop();

 private:
  const std::string folder_;
  const RunnerOptions options_;
  const std::shared_ptr<Backend> device_;
  const std::string device_name_;
  mutable absl::Mutex mu_;
  std::map<std::string, std::shared_ptr<const LoadedModel>, std::less<>> loaded_
      ABSL_GUARDED_BY(mu_);
  bool stopped_ ABSL_GUARDED_BY(mu_) = false;
  absl::Mutex loading_;  // Held while a checkpoint is read: one at a time.
};

}  // namespace attnd

#endif  // ATTND_SERVICE_SESSION_MODEL_TABLE_H_
