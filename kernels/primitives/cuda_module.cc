#include "kernels/primitives/cuda_module.h"

#include <dlfcn.h>

#include <filesystem>
#include <system_error>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace attnd {
namespace {

constexpr char kLibrary[] = "libattnd_cuda.so";

struct LoadedModule {
  const CudaModule* module = nullptr;
  std::string error;
};

// Beside the program, in ../lib, and wherever the loader looks.
std::vector<std::string> Candidates() {
  std::vector<std::string> paths;
  std::error_code ec;
  const std::filesystem::path program = std::filesystem::read_symlink("/proc/self/exe", ec);
  if (!ec) {
    const std::filesystem::path folder = program.parent_path();
    paths.push_back((folder / kLibrary).string());
    paths.push_back((folder / ".." / "lib" / kLibrary).string());
  }
  paths.push_back(kLibrary);
  return paths;
}

LoadedModule Load() {
  LoadedModule loaded;
  std::vector<std::string> reasons;
  for (const std::string& path : Candidates()) {
    std::error_code ec;
    if (path.find('/') != std::string::npos && !std::filesystem::exists(path, ec)) continue;
    void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (handle == nullptr) {
      reasons.push_back(dlerror());
      continue;
    }
    using Entry = const CudaModule* (*)();
    const auto entry = reinterpret_cast<Entry>(dlsym(handle, "AttndCudaModule"));
    if (entry == nullptr || entry()->version != kCudaModuleVersion) {
      reasons.push_back(absl::StrCat(path, " is of another build"));
      dlclose(handle);
      continue;
    }
    // Never closed: kernels registered from it live as long as the process.
    loaded.module = entry();
    return loaded;
  }
  loaded.error = absl::StrCat(kLibrary, ": ", absl::StrJoin(reasons, "; "));
  return loaded;
}

const LoadedModule& Module() {
  static const LoadedModule module = Load();
  return module;
}

}  // namespace

const CudaModule* LoadCudaModule(std::string* why) {
  const LoadedModule& loaded = Module();
  if (loaded.module == nullptr && why != nullptr) *why = loaded.error;
  return loaded.module;
}

int CudaDeviceCount(std::string* why) {
  const CudaModule* module = LoadCudaModule(why);
  if (module == nullptr) return 0;
  std::string reason;
  const int count = module->device_count(&reason);
  if (why != nullptr) *why = reason;
  return count;
}

absl::StatusOr<std::unique_ptr<Backend>> CreateCudaBackend(const CudaOptions& options,
                                                           Registry& registry) {
  std::string why;
  const int count = CudaDeviceCount(&why);
  if (count == 0) return absl::UnavailableError(absl::StrCat("no CUDA device: ", why));
  if (options.ordinal < 0 || options.ordinal >= count) {
    return absl::InvalidArgumentError(
        absl::StrCat("CUDA device: given ", options.ordinal, ", expected 0 to ", count - 1));
  }
  absl::StatusOr<std::unique_ptr<Backend>> backend = Module().module->create(options);
  if (!backend.ok()) return backend;
  bool registered = false;
  for (const Operator* op : registry.operators()) {
    for (const Kernel& kernel : op->kernels) registered |= kernel.device == Device::kCuda;
  }
  if (!registered) Module().module->register_kernels(registry);
  return backend;
}

}  // namespace attnd
