#include "service/operator_pages.h"

#include <map>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "service/rpc/describe.h"

namespace attnd {
namespace {

// Text within a table.
std::string Cell(absl::string_view text) { return absl::StrReplaceAll(text, {{"|", "\\|"}}); }

std::string Code(absl::string_view text) {
  return text.empty() ? "" : absl::StrCat("`", Cell(text), "`");
}

// Of "q: float[B,T,H,K]? if x" what follows the name.
absl::string_view AfterName(absl::string_view text) {
  const size_t colon = text.find(": ");
  return colon == absl::string_view::npos ? text : text.substr(colon + 2);
}

std::string PortTable(absl::string_view title, const std::vector<Port>& ports) {
  if (ports.empty()) return "";
  std::string table = absl::StrCat(
      "\n## ", title, "\n\n| name | type and shape | meaning |\n| --- | --- | --- |\n");
  for (const Port& port : ports) {
    absl::StrAppend(&table, "| `", port.name, "` | ", Code(AfterName(port.text)), " | ",
                    Cell(port.doc), " |\n");
  }
  return table;
}

std::string AttributeTable(const OpSpec& spec) {
  if (spec.attributes().empty()) return "";
  std::string table =
      "\n## Attributes\n\n| name | type | default | meaning |\n| --- | --- | --- | --- |\n";
  for (const AttrSpec& attribute : spec.attributes()) {
    const std::string type = attribute.choices.empty() ? std::string(Name(attribute.type))
                                                       : absl::StrJoin(attribute.choices, ", ");
    const std::string usual = attribute.required() ? "required"
                              : attribute.optional ? ""
                                                   : Code(DefaultText(attribute));
    absl::StrAppend(&table, "| `", attribute.name, "` | ", Cell(type), " | ", usual, " | ",
                    Cell(attribute.doc), " |\n");
  }
  return table;
}

std::string Rules(const OpSpec& spec) {
  if (spec.rules().empty() && spec.derived().empty()) return "";
  std::string text = "\n## Rules\n\n";
  for (const Derived& derived : spec.derived()) {
    absl::StrAppend(&text, "- `", derived.symbol, " = ", derived.value.text(), "`\n");
  }
  for (const Rule& rule : spec.rules()) {
    absl::StrAppend(&text, "- ", rule.sentence, rule.sentence.empty() ? "" : ": ", "`",
                    rule.condition.text(), "`\n");
  }
  return text;
}

std::string Tolerances(const OpSpec& spec) {
  std::vector<std::string> parts;
  for (const DType dtype : {DType::kFloat64, DType::kFloat32, DType::kFloat16, DType::kBFloat16}) {
    parts.push_back(absl::StrFormat("%s %g", Name(dtype), Tolerance(spec, dtype)));
  }
  return absl::StrJoin(parts, ", ");
}

// Prose as it is, indented lines as blocks of text.
std::string DefinitionSection(absl::string_view definition) {
  std::string page;
  bool in_block = false;
  for (const absl::string_view line : absl::StrSplit(definition, '\n')) {
    const bool indented = absl::StartsWith(line, "  ");
    if (indented != in_block) absl::StrAppend(&page, in_block ? "```\n\n" : "\n```text\n");
    in_block = indented;
    absl::StrAppend(&page, line, "\n");
  }
  return absl::StrCat(page, in_block ? "```\n" : "");
}

std::string Link(const std::string& id, const std::string& folder) {
  return folder.empty() ? absl::StrCat("`", id, "`")
                        : absl::StrCat("[`", id, "`](", folder, "/", id, ".md)");
}

}  // namespace

std::string OperatorPage(const Operator& op) {
  const SchemaText& text = op.spec.text();
  std::string page = absl::StrCat("# ", text.id, "\n\n", text.summary, ".\n\nFrom: ", text.paper,
                                  ". Core: ", text.core, ".");
  if (op.spec.has_state()) absl::StrAppend(&page, " Keeps a state from call to call.");
  if (op.spec.packs()) absl::StrAppend(&page, " Takes packed sequences.");
  absl::StrAppend(&page, "\n\n## Definition\n\n", DefinitionSection(text.definition),
                  PortTable("Inputs", op.spec.inputs()), AttributeTable(op.spec),
                  PortTable("Outputs", op.spec.outputs()), Rules(op.spec),
                  "\n## Exactness\n\nRelative error against the float64 definition, at most: ",
                  Tolerances(op.spec), ".\n");
  return page;
}

std::string OperatorTable(const Registry& registry, const std::string& folder) {
  std::string table =
      "| operator | what it is | core | state | source |\n| --- | --- | --- | --- | --- |\n";
  for (const Operator* op : registry.operators()) {
    const SchemaText& text = op->spec.text();
    absl::StrAppend(&table, "| ", Link(text.id, folder), " | ", Cell(text.summary), " | ",
                    text.core, " | ", op->spec.has_state() ? "yes" : "", " | ", Cell(text.paper),
                    " |\n");
  }
  return table;
}

std::string CataloguePage(const Registry& registry, const std::string& folder) {
  std::map<std::string, std::vector<const Operator*>> papers;
  for (const Operator* op : registry.operators()) papers[op->spec.text().paper].push_back(op);
  std::string page = absl::StrCat(
      "# The catalogue, by paper\n\nWritten by `./dev docs` from the registry. Kernels of GPUs: "
      "`attndctl list` on a server that has one.\n\n"
      "| paper | operator | core | kernels on the CPU | float32 within |\n"
      "| --- | --- | --- | --- | --- |\n");
  for (const auto& [paper, operators] : papers) {
    for (const Operator* op : operators) {
      std::vector<std::string> kernels;
      for (const Kernel& kernel : op->kernels) {
        if (kernel.device == Device::kCpu) kernels.push_back(kernel.name);
      }
      kernels.emplace_back("composed");
      absl::StrAppend(&page, "| ", Cell(paper), " | ", Link(op->spec.id(), folder), " | ",
                      op->spec.text().core, " | ", absl::StrJoin(kernels, ", "), " | ",
                      absl::StrFormat("%g", Tolerance(op->spec, DType::kFloat32)), " |\n");
    }
  }
  return page;
}

}  // namespace attnd
