// list, describe, health.
#include <iostream>
#include <map>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "clients/cli/commands.h"
#include "clients/cli/output.h"

namespace attnd::cli {
namespace {

template <typename Kernels>
std::string KernelList(const Kernels& kernels) {
  return absl::StrJoin(kernels, " ", [](std::string* out, const v1::KernelDescription& kernel) {
    absl::StrAppend(out, kernel.name());
  });
}

void PrintList(const v1::ListResponse& response) {
  Table table({"OPERATOR", "CORE", "STATE", "PACKED", "KERNELS", "SUMMARY"});
  for (const v1::OperatorSummary& op : response.operators()) {
    const std::string kernels = KernelList(op.kernels());
    table.Add({op.id(), op.core(), op.stateful() ? "yes" : "", op.packs_sequences() ? "yes" : "",
               kernels.empty() ? "composed" : kernels, op.summary()});
  }
  std::cout << table.ToString();
}

// The same by paper: its title, and what is served of it.
void PrintPapers(const v1::ListResponse& response) {
  std::multimap<std::string, const v1::OperatorSummary*> papers;
  for (const v1::OperatorSummary& op : response.operators()) papers.emplace(op.paper(), &op);
  Table table({"PAPER", "OPERATOR", "CORE", "KERNELS"});
  for (const auto& [paper, op] : papers) {
    const std::string kernels = KernelList(op->kernels());
    table.Add({paper, op->id(), op->core(), kernels.empty() ? "composed" : kernels});
  }
  std::cout << table.ToString();
}

void PrintDescription(const v1::OperatorDescription& op) {
  std::cout << op.id() << ": " << op.summary() << "\n" << op.paper() << "\n\n";
  std::cout << op.definition() << "\n";
  const auto ports = [](const char* title, const auto& list) {
    std::cout << "\n" << title << "\n";
    for (const v1::PortDescription& port : list) {
      std::cout << "  " << port.text();
      if (!port.doc().empty() && port.text().find('#') == std::string::npos) {
        std::cout << "  # " << port.doc();
      }
      std::cout << "\n";
    }
  };
  ports("Inputs", op.inputs());
  if (!op.attributes().empty()) std::cout << "\nAttributes\n";
  for (const v1::AttributeDescription& attribute : op.attributes()) {
    std::cout << "  " << attribute.text();
    if (!attribute.doc().empty() && attribute.text().find('#') == std::string::npos) {
      std::cout << "  # " << attribute.doc();
    }
    std::cout << "\n";
  }
  ports("Outputs", op.outputs());
  if (!op.derived().empty()) std::cout << "\nSizes\n";
  for (const std::string& size : op.derived()) std::cout << "  " << size << "\n";
  if (!op.rules().empty()) std::cout << "\nRules\n";
  for (const std::string& rule : op.rules()) std::cout << "  " << rule << "\n";
  std::cout << "\nKernels\n";
  Table kernels({"  NAME", "DEVICE"});
  for (const v1::KernelDescription& kernel : op.kernels()) {
    kernels.Add({absl::StrCat("  ", kernel.name()), kernel.device()});
  }
  kernels.Add({"  composed", "any"});
  std::cout << kernels.ToString() << "\nTolerances on ‖out - ref‖ / ‖ref‖\n";
  for (const v1::ToleranceDescription& tolerance : op.tolerances()) {
    std::cout << "  " << client::Name(tolerance.dtype()) << " "
              << Number(tolerance.relative_error()) << "\n";
  }
}

}  // namespace

void AddList(CLI::App& app, Session& session) {
  auto filter = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand("list", "The operators of the server");
  command->add_option("filter", *filter, "Only ids that contain this text");
  auto papers = std::make_shared<bool>(false);
  command->add_flag("--papers", *papers, "In order of the papers that they are from");
  command->callback([filter, papers, &session] {
    session.Run([&](const client::Client& client) -> absl::StatusOr<int> {
      const auto response = client.List(*filter);
      if (!response.ok()) return response.status();
      if (session.json) {
        const absl::Status printed = PrintJson(*response);
        if (!printed.ok()) return printed;
      } else if (*papers) {
        PrintPapers(*response);
      } else {
        PrintList(*response);
      }
      return 0;
    });
  });
}

void AddDescribe(CLI::App& app, Session& session) {
  auto op = std::make_shared<std::string>();
  CLI::App* command =
      app.add_subcommand("describe", "An operator's inputs, attributes, outputs, rules, kernels");
  command->add_option("op", *op, "Operator's id")->required();
  command->callback([op, &session] {
    session.Run([&](const client::Client& client) -> absl::StatusOr<int> {
      const auto response = client.Describe(*op);
      if (!response.ok()) return response.status();
      if (session.json) {
        const absl::Status printed = PrintJson(*response);
        if (!printed.ok()) return printed;
      } else {
        PrintDescription(*response);
      }
      return 0;
    });
  });
}

void AddHealth(CLI::App& app, Session& session) {
  app.add_subcommand("health", "Whether the server takes calls; exit status 0 if it does")
      ->callback([&session] {
        session.Run([&](const client::Client& client) -> absl::StatusOr<int> {
          const absl::Status health = client.Health();
          if (!health.ok()) return health;
          std::cout << (session.json ? "{\"status\": \"SERVING\"}\n" : "serving\n");
          return 0;
        });
      });
}

}  // namespace attnd::cli
