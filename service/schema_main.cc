// attnd-schema: every operator of this build as JSON, from which the Python methods and the
// catalogue's pages are generated: {"operators": [attnd.v1.OperatorDescription, ...]}.
#include <google/protobuf/util/json_util.h>

#include <fstream>
#include <iostream>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
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

}  // namespace
}  // namespace attnd

int main(int argc, char** argv) {
  CLI::App app("Writes the schemas of all operators as JSON.");
  std::string output;
  app.add_option("--output", output, "file to write; none: standard output");
  CLI11_PARSE(app, argc, argv);
  const auto text = attnd::Catalogue();
  if (!text.ok()) {
    std::cerr << "attnd-schema: " << text.status() << "\n";
    return 1;
  }
  if (output.empty()) {
    std::cout << *text;
    return 0;
  }
  std::ofstream file(output);
  file << *text;
  file.close();
  if (!file) {
    std::cerr << "attnd-schema: cannot write " << output << "\n";
    return 1;
  }
  return 0;
}
