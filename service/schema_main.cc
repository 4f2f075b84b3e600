// attnd-schema: every operator of this build as JSON, from which the Python methods and the
// catalogue's pages are generated: {"operators": [attnd.v1.OperatorDescription, ...]}; or what a
// checkout's pages say of them.
#include <google/protobuf/util/json_util.h>

#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <set>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/registry.h"
#include "service/operator_pages.h"
#include "service/rpc/describe.h"

namespace attnd {
namespace {

absl::StatusOr<std::string> Catalogue() {
  Registry registry;
  RegisterAllOperators(registry);
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string text = "{\"operators\": [";
  bool first = true;
  for (const Operator* op : registry.operators()) {
    std::vector<Engine::KernelName> kernels;
    for (const Kernel& kernel : op->kernels) {
      kernels.push_back({kernel.name, std::string(Name(kernel.device))});
    }
    std::string json;
    const auto status =
        google::protobuf::util::MessageToJsonString(Describe(op->spec, kernels), &json, options);
    if (!status.ok()) return absl::InternalError(status.ToString());
    text += first ? "\n" : ",\n";
    text += json;
    first = false;
  }
  return text + "]}\n";
}

constexpr char kBegin[] = "<!-- operators: begin, by ./dev docs -->\n";
constexpr char kEnd[] = "<!-- operators: end -->\n";

absl::StatusOr<std::string> WithTable(const std::string& page, const Registry& registry) {
  const size_t begin = page.find(kBegin), end = page.find(kEnd);
  if (begin == std::string::npos || end == std::string::npos || end < begin) {
    return absl::InvalidArgumentError("the page lacks the comments that bound the table");
  }
  return absl::StrCat(page.substr(0, begin + sizeof(kBegin) - 1),
                      OperatorTable(registry, "docs/operators"), page.substr(end));
}

absl::StatusOr<std::string> ReadFile(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::string text((std::istreambuf_iterator<char>(file)), {});
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path.string()));
  return text;
}

absl::Status WriteFile(const std::filesystem::path& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  file.close();
  if (!file) return absl::UnavailableError(absl::StrCat("cannot write ", path.string()));
  return absl::OkStatus();
}

// Writes `text` unless the file holds it, or with `check` says that it does not.
absl::Status Keep(const std::filesystem::path& path, const std::string& text, bool check) {
  const absl::StatusOr<std::string> present = ReadFile(path);
  if (present.ok() && *present == text) return absl::OkStatus();
  if (!check) return WriteFile(path, text);
  return absl::FailedPreconditionError(
      absl::StrCat(path.string(), ": not what the registry says: run ./dev docs"));
}

// Of a checkout, all that follows from the registry: the table in README.md, docs/catalogue.md, and
// a page for each operator and for nothing else in docs/operators/.
absl::Status UpdateDocs(const std::filesystem::path& root, bool check) {
  Registry registry;
  RegisterAllOperators(registry);
  const absl::StatusOr<std::string> readme = ReadFile(root / "README.md");
  if (!readme.ok()) return readme.status();
  const absl::StatusOr<std::string> updated = WithTable(*readme, registry);
  if (!updated.ok()) return updated.status();
  absl::Status status = Keep(root / "README.md", *updated, check);
  status.Update(Keep(root / "docs/catalogue.md", CataloguePage(registry, "operators"), check));
  const std::filesystem::path folder = root / "docs/operators";
  std::filesystem::create_directories(folder);
  std::set<std::filesystem::path> pages;
  for (const Operator* op : registry.operators()) {
    const std::filesystem::path page = folder / absl::StrCat(op->spec.id(), ".md");
    if (op->spec.text().definition.empty()) {
      status.Update(absl::FailedPreconditionError(
          absl::StrCat(op->spec.id(), ": its schema has no definition, which its page needs")));
    }
    status.Update(Keep(page, OperatorPage(*op), check));
    pages.insert(page);
  }
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    if (pages.contains(entry.path())) continue;
    if (!check) {
      std::filesystem::remove(entry.path());
    } else {
      status.Update(absl::FailedPreconditionError(
          absl::StrCat(entry.path().string(), ": no such operator: run ./dev docs")));
    }
  }
  return status;
}

absl::Status WriteCatalogue(const std::string& output) {
  const absl::StatusOr<std::string> text = Catalogue();
  if (!text.ok()) return text.status();
  if (!output.empty()) return WriteFile(output, *text);
  std::cout << *text;
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app("Writes the schemas of all operators as JSON, or a checkout's pages about them.");
  std::string output, docs;
  bool check = false;
  app.add_option("--output", output, "file to write; none: standard output");
  CLI::Option* const pages = app.add_option(
      "--docs", docs, "checkout whose README.md, docs/catalogue.md and docs/operators to write");
  app.add_flag("--check", check, "only say whether they are current")->needs(pages);
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = docs.empty() ? WriteCatalogue(output) : UpdateDocs(docs, check);
  if (status.ok()) return 0;
  std::cerr << "attnd-schema: " << status.message() << "\n";
  return 1;
}

}  // namespace
}  // namespace attnd

int main(int argc, char** argv) {
  try {
    return attnd::Main(argc, argv);
  } catch (const std::exception& e) {
    std::cerr << "attnd-schema: " << e.what() << "\n";
    return 1;
  }
}
