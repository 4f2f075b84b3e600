#include "clients/cli/tensor_files.h"

#include <zip.h>

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "clients/cli/files.h"
#include "clients/cli/npy.h"
#include "clients/cli/safetensors.h"

namespace attnd::cli {
namespace {

absl::Status InFile(const std::string& path, const absl::Status& status) {
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(path, ": ", status.message()));
}

using ZipArchive = std::unique_ptr<zip_t, decltype(&zip_discard)>;

absl::StatusOr<ZipArchive> OpenZip(const std::string& path, int flags) {
  int code = 0;
  ZipArchive archive(zip_open(path.c_str(), flags, &code), &zip_discard);
  if (archive != nullptr) return archive;
  zip_error_t error;
  zip_error_init_with_code(&error, code);
  const std::string text = zip_error_strerror(&error);
  zip_error_fini(&error);
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", text));
}

absl::Status ZipError(zip_t* archive) { return absl::InvalidArgumentError(zip_strerror(archive)); }

absl::StatusOr<client::Tensor> ReadZipEntry(zip_t* archive, zip_uint64_t index) {
  zip_stat_t stat;
  if (zip_stat_index(archive, index, 0, &stat) != 0 || (stat.valid & ZIP_STAT_SIZE) == 0) {
    return ZipError(archive);
  }
  const std::unique_ptr<zip_file_t, decltype(&zip_fclose)> file(zip_fopen_index(archive, index, 0),
                                                                &zip_fclose);
  if (file == nullptr) return ZipError(archive);
  // Grows with what is really there: a header may claim any size.
  std::string bytes;
  std::string block(size_t{1} << 20, '\0');
  for (;;) {
    const zip_int64_t count = zip_fread(file.get(), block.data(), block.size());
    if (count < 0) return absl::InvalidArgumentError(zip_file_strerror(file.get()));
    if (count == 0) break;
    bytes.append(block, 0, static_cast<size_t>(count));
  }
  return ParseNpy(bytes);
}

absl::StatusOr<Tensors> ReadNpz(const std::string& path) {
  auto archive = OpenZip(path, ZIP_RDONLY);
  if (!archive.ok()) return archive.status();
  Tensors tensors;
  const zip_int64_t count = zip_get_num_entries(archive->get(), 0);
  for (zip_int64_t i = 0; i < count; ++i) {
    const char* entry = zip_get_name(archive->get(), i, 0);
    absl::string_view name = entry == nullptr ? "" : entry;
    if (!absl::ConsumeSuffix(&name, ".npy")) continue;
    auto tensor = ReadZipEntry(archive->get(), i);
    if (!tensor.ok()) return InFile(absl::StrCat(path, ": ", name), tensor.status());
    tensors[std::string(name)] = *std::move(tensor);
  }
  return tensors;
}

absl::Status WriteNpz(const std::string& path, const Tensors& tensors) {
  auto archive = OpenZip(path, ZIP_CREATE | ZIP_TRUNCATE);
  if (!archive.ok()) return archive.status();
  // libzip reads the bytes when the archive is closed.
  std::map<std::string, std::string> files;
  for (const auto& [name, tensor] : tensors) files[name + ".npy"] = FormatNpy(tensor);
  for (const auto& [name, bytes] : files) {
    zip_source_t* source =
        zip_source_buffer(archive->get(), bytes.data(), bytes.size(), /*freep=*/0);
    if (source == nullptr) return ZipError(archive->get());
    const zip_int64_t index = zip_file_add(archive->get(), name.c_str(), source, ZIP_FL_ENC_UTF_8);
    if (index < 0) {
      zip_source_free(source);
      return ZipError(archive->get());
    }
    zip_set_file_compression(archive->get(), index, ZIP_CM_STORE, 0);  // As numpy.savez does.
  }
  if (zip_close(archive->get()) != 0) return InFile(path, ZipError(archive->get()));
  static_cast<void>(archive->release());  // Closing has freed it.
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<client::Tensor> ReadTensor(const std::string& path) {
  if (!absl::EndsWith(path, ".npy")) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected a .npy file"));
  }
  auto file = ReadFile(path);
  if (!file.ok()) return file.status();
  auto tensor = ParseNpy(*file);
  if (!tensor.ok()) return InFile(path, tensor.status());
  return tensor;
}

absl::StatusOr<Tensors> ReadTensors(const std::string& path) {
  if (absl::EndsWith(path, ".npz")) return ReadNpz(path);
  if (!absl::EndsWith(path, ".safetensors")) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected a .npz or .safetensors file"));
  }
  auto file = ReadFile(path);
  if (!file.ok()) return file.status();
  auto tensors = ParseSafetensors(*file);
  if (!tensors.ok()) return InFile(path, tensors.status());
  return tensors;
}

absl::Status WriteTensors(const std::string& path, const Tensors& tensors) {
  if (absl::EndsWith(path, ".npz")) return WriteNpz(path, tensors);
  if (absl::EndsWith(path, ".safetensors")) return WriteFile(path, FormatSafetensors(tensors));
  if (!absl::EndsWith(path, ".npy")) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": expected a .npy, .npz or .safetensors file"));
  }
  if (tensors.size() != 1) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": a .npy file holds one tensor, given ",
                                                   tensors.size(), "; choose one by --select"));
  }
  return WriteFile(path, FormatNpy(tensors.begin()->second));
}

}  // namespace attnd::cli
