// attnd-schema: every operator of this build as JSON, from which the Python methods and the
// catalogue's pages are generated: {"operators": [attnd.v1.OperatorDescription, ...]}; or the table
// of operators that a Markdown page holds between two comments.
#include <google/protobuf/util/json_util.h>

#include <exception>
#include <fstream>
#include <iostream>
#include <iterator>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "kernels/core/registry.h"
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

// Nothing in it hangs on what this build was made with.
std::string Table() {
  Registry registry;
  RegisterAllOperators(registry);
  std::string table =
      "| operator | what it is | core | state | source |\n| --- | --- | --- | --- | --- |\n";
  for (const Operator* op : registry.operators()) {
    const SchemaText& text = op->spec.text();
    absl::StrAppend(&table, "| `", text.id, "` | ", text.summary, " | ", text.core, " | ",
                    op->spec.has_state() ? "yes" : "", " | ", text.paper, " |\n");
  }
  return table;
}

absl::StatusOr<std::string> WithTable(const std::string& page) {
  const size_t begin = page.find(kBegin), end = page.find(kEnd);
  if (begin == std::string::npos || end == std::string::npos || end < begin) {
    return absl::InvalidArgumentError("the page lacks the comments that bound the table");
  }
  return absl::StrCat(page.substr(0, begin + sizeof(kBegin) - 1), Table(), page.substr(end));
}

absl::StatusOr<std::string> ReadFile(const std::string& path) {
  std::ifstream file(path);
  std::string text((std::istreambuf_iterator<char>(file)), {});
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path));
  return text;
}

absl::Status WriteFile(const std::string& path, const std::string& text) {
  std::ofstream file(path);
  file << text;
  file.close();
  if (!file) return absl::UnavailableError(absl::StrCat("cannot write ", path));
  return absl::OkStatus();
}

absl::Status UpdatePage(const std::string& path, bool check) {
  const absl::StatusOr<std::string> page = ReadFile(path);
  if (!page.ok()) return page.status();
  const absl::StatusOr<std::string> updated = WithTable(*page);
  if (!updated.ok()) return updated.status();
  if (*updated == *page) return absl::OkStatus();
  if (!check) return WriteFile(path, *updated);
  return absl::FailedPreconditionError(
      absl::StrCat(path, ": its table of operators is not the registry's: run ./dev docs"));
}

absl::Status WriteCatalogue(const std::string& output) {
  const absl::StatusOr<std::string> text = Catalogue();
  if (!text.ok()) return text.status();
  if (!output.empty()) return WriteFile(output, *text);
  std::cout << *text;
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app("Writes the schemas of all operators as JSON, or their table into a page.");
  std::string output, page;
  bool check = false;
  app.add_option("--output", output, "file to write; none: standard output");
  CLI::Option* const table =
      app.add_option("--page", page, "Markdown page whose table of operators to write instead");
  app.add_flag("--check", check, "only say whether the page is current")->needs(table);
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = page.empty() ? WriteCatalogue(output) : UpdatePage(page, check);
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
