#include "models/checkpoint.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <memory>
#include <set>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/safetensors.h"
#include "models/files.h"
#include "models/sha256.h"
#include "nlohmann/json.hpp"

namespace attnd::models {
namespace {

// A whole file in memory, read as it is needed.
class MappedFile {
 public:
  static absl::StatusOr<std::shared_ptr<const MappedFile>> Open(const std::string& path) {
    const int file = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    const auto failed = [&] {
      return absl::NotFoundError(absl::StrCat(std::filesystem::path(path).filename().string(), ": ",
                                              std::strerror(errno)));
    };
    if (file < 0) return failed();
    struct stat status = {};
    if (fstat(file, &status) != 0 || status.st_size == 0) {
      close(file);
      return absl::InvalidArgumentError(
          absl::StrCat(std::filesystem::path(path).filename().string(), ": given an empty file"));
    }
    const auto size = static_cast<size_t>(status.st_size);
    void* data = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file, 0);
    close(file);
    if (data == MAP_FAILED) return failed();
    return std::shared_ptr<const MappedFile>(new MappedFile(static_cast<char*>(data), size));
  }
  ~MappedFile() { munmap(data_, size_); }
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  absl::string_view bytes() const { return {data_, size_}; }
  char* data() const { return data_; }

 private:
  MappedFile(char* data, size_t size) : data_(data), size_(size) {}
  char* data_;
  size_t size_;
};

std::string Hash(const std::map<std::string, Tensor>& tensors) {
  Sha256Stream digest;
  for (const auto& [name, tensor] : tensors) {
    digest.Add(absl::StrCat(name, " ", tensor.DebugString(), "\n"));
    digest.Add({static_cast<const char*>(tensor.raw()), static_cast<size_t>(tensor.byte_size())});
  }
  return absl::BytesToHexString(digest.Finish());
}

}  // namespace

absl::Status Checkpoint::AddFile(const std::string& path) {
  const std::string file = std::filesystem::path(path).filename().string();
  absl::StatusOr<std::shared_ptr<const MappedFile>> mapped = MappedFile::Open(path);
  if (!mapped.ok()) return mapped.status();
  const absl::StatusOr<SafetensorsHeader> header = ParseSafetensors((*mapped)->bytes());
  if (!header.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(file, ": ", header.status().message()));
  }
  for (const SafetensorsEntry& entry : header->entries) {
    Tensor tensor((*mapped)->data() + entry.begin, entry.dtype, entry.shape, Device::kCpu, *mapped);
    if (entry.begin % SizeOf(entry.dtype) != 0) {  // The format does not promise alignment.
      absl::StatusOr<Tensor> copy = AllocateHost(entry.dtype, entry.shape);
      if (!copy.ok()) return copy.status();
      std::memcpy(copy->raw(), tensor.raw(), entry.size);
      tensor = *std::move(copy);
    }
    if (!tensors_.emplace(entry.name, std::move(tensor)).second) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, ": ", entry.name, ": given twice, expected once"));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<Checkpoint> Checkpoint::Open(const std::string& folder) {
  Checkpoint checkpoint;
  const std::string index = folder + "/model.safetensors.index.json";
  std::set<std::string> files = {"model.safetensors"};
  if (std::filesystem::exists(index)) {
    absl::StatusOr<std::string> text = ReadTextFile(index);
    if (!text.ok()) return text.status();
    const auto json = nlohmann::json::parse(*text, nullptr, /*allow_exceptions=*/false);
    const auto bad = [](absl::string_view what) {
      return absl::InvalidArgumentError(absl::StrCat("model.safetensors.index.json: ", what));
    };
    if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object()) {
      return bad("given no weight_map");
    }
    files.clear();
    for (const auto& [name, file] : json["weight_map"].items()) {
      if (!file.is_string()) return bad(absl::StrCat(name, ": given no file name"));
      // A shard is a file of this folder, whatever the index says.
      const auto shard = file.get<std::string>();
      if (shard.empty() || absl::StrContains(shard, '/') || shard[0] == '.') {
        return bad(absl::StrCat(name, ": given \"", shard, "\", expected a file of the folder"));
      }
      files.insert(shard);
    }
  }
  for (const std::string& file : files) {
    if (absl::Status s = checkpoint.AddFile(absl::StrCat(folder, "/", file)); !s.ok()) return s;
  }
  checkpoint.hash_ = Hash(checkpoint.tensors_);
  return checkpoint;
}

absl::StatusOr<Tensor> Checkpoint::Take(absl::string_view name, absl::Span<const int64_t> shape) {
  const auto found = tensors_.find(std::string(name));
  const std::string expected = ToString(shape);
  if (found == tensors_.end()) {
    return absl::InvalidArgumentError(
        absl::StrCat("weights: ", name, ": given nothing, expected ", expected));
  }
  const Tensor tensor = found->second;
  if (absl::MakeConstSpan(tensor.shape()) != shape || !IsFloating(tensor.dtype()) ||
      tensor.dtype() == DType::kFloat64) {
    return absl::InvalidArgumentError(
        absl::StrCat("weights: ", name, ": given ", tensor.DebugString(),
                     ", expected float32, float16 or bfloat16 ", expected));
  }
  tensors_.erase(found);
  return tensor;
}

absl::Status Checkpoint::CheckAllTaken() const {
  if (tensors_.empty()) return absl::OkStatus();
  const auto& [name, tensor] = *tensors_.begin();
  return absl::InvalidArgumentError(
      absl::StrCat("weights: ", name, ": given ", tensor.DebugString(),
                   ", expected no tensor of that name (", tensors_.size(), " are unknown)"));
}

}  // namespace attnd::models
