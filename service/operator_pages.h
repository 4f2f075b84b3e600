// Pages of documentation that follow from the schemas of operators.
#ifndef ATTND_SERVICE_OPERATOR_PAGES_H_
#define ATTND_SERVICE_OPERATOR_PAGES_H_

#include <string>

#include "kernels/core/registry.h"

namespace attnd {

// What a user of one operator must know, in Markdown: source, definition, inputs, attributes,
// outputs, rules and tolerances. Nothing in it hangs on what this build was made with.
std::string OperatorPage(const Operator& op);

// A table of all operators, in Markdown: what each is, its core, whether it has a state, and its
// source. Ids link to `folder`, relative to the page that holds the table; empty: no links.
std::string OperatorTable(const Registry& registry, const std::string& folder);

// The papers in order of title, each with its operators, their cores, kernels of the CPU and
// tolerances; for a page beside the folder `folder` of operators' pages.
std::string CataloguePage(const Registry& registry, const std::string& folder);

}  // namespace attnd

#endif  // ATTND_SERVICE_OPERATOR_PAGES_H_
