// eval and compare.
#include <iostream>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "clients/cli/call_options.h"
#include "clients/cli/commands.h"
#include "clients/cli/output.h"
#include "clients/cli/outputs.h"
#include "clients/cli/tensor_files.h"
#include "nlohmann/json.hpp"

namespace attnd::cli {
namespace {

using Json = nlohmann::ordered_json;

void PrintResult(const client::Result& result) {
  PrintOutputs(result);
  std::cout << "kernel " << result.kernel << " on " << result.device << ", queue "
            << Duration(absl::ToDoubleSeconds(result.queue)) << ", compute "
            << Duration(absl::ToDoubleSeconds(result.compute)) << ", batch of " << result.batch_size
            << "\n";
}

Json ResultJson(const client::Result& result) {
  return {{"outputs", OutputsJson(result)},
          {"kernel", result.kernel},
          {"device", result.device},
          {"batch_size", result.batch_size},
          {"queue_us", absl::ToInt64Microseconds(result.queue)},
          {"compute_us", absl::ToInt64Microseconds(result.compute)},
          {"total_us", absl::ToInt64Microseconds(result.total)}};
}

std::string Index(const v1::ErrorReport& report) {
  return absl::StrCat("[", absl::StrJoin(report.worst_index(), ","), "]");
}

void PrintComparison(const std::string& op, const v1::CompareResponse& report) {
  std::cout << op << ": " << report.kernel() << " on " << report.device() << " against "
            << report.reference() << "\n";
  Table table({"OUTPUT", "RELATIVE", "MAX ABS", "MAX REL", "RMSE", "COSINE", "ULP P50", "P99",
               "MAX", "NAN", "INF", "WORST AT"});
  for (const v1::ErrorReport& output : report.outputs()) {
    table.Add({output.output(), Number(output.relative()), Number(output.max_abs()),
               Number(output.max_rel()), Number(output.rmse()), Number(output.cosine()),
               absl::StrCat(output.ulp_p50()), absl::StrCat(output.ulp_p99()),
               absl::StrCat(output.ulp_max()), absl::StrCat(output.nan_count()),
               absl::StrCat(output.inf_count()), Index(output)});
  }
  std::cout << table.ToString() << (report.within_tolerance() ? "within" : "OUTSIDE")
            << " the tolerance of " << Number(report.tolerance()) << "; "
            << (report.bitwise_repeatable() ? "the same bits" : "OTHER BITS") << " when repeated; "
            << Duration(report.compute_us() * 1e-6) << ", definition "
            << Duration(report.reference_us() * 1e-6) << "\n";
}

Json ComparisonJson(const v1::CompareResponse& report) {
  Json outputs = Json::object();
  for (const v1::ErrorReport& output : report.outputs()) {
    outputs[output.output()] = {{"relative", output.relative()},
                                {"max_abs", output.max_abs()},
                                {"max_rel", output.max_rel()},
                                {"rmse", output.rmse()},
                                {"cosine", output.cosine()},
                                {"ulp_p50", output.ulp_p50()},
                                {"ulp_p99", output.ulp_p99()},
                                {"ulp_max", output.ulp_max()},
                                {"nan", output.nan_count()},
                                {"inf", output.inf_count()},
                                {"nonfinite_mismatch", output.nonfinite_mismatch()},
                                {"worst_index", std::vector<int64_t>(output.worst_index().begin(),
                                                                     output.worst_index().end())}};
  }
  return {{"outputs", outputs},
          {"kernel", report.kernel()},
          {"device", report.device()},
          {"reference", report.reference()},
          {"tolerance", report.tolerance()},
          {"within_tolerance", report.within_tolerance()},
          {"bitwise_repeatable", report.bitwise_repeatable()},
          {"compute_us", report.compute_us()},
          {"reference_us", report.reference_us()}};
}

// "evaluating gla ... 3 s" while something takes long.
Progress Waiting(const std::string& what) {
  return Progress([what, begin = absl::Now()] {
    return absl::StrCat(what, " ... ", absl::ToInt64Seconds(absl::Now() - begin), " s");
  });
}

}  // namespace

void AddEvaluate(CLI::App& app, Session& session) {
  struct Options {
    CallOptions call;
    std::string save_inputs;
    std::string output;
    std::vector<std::string> select;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("eval", "Evaluate an operator");
  options->call.AddTo(*command);
  command->add_option("--save-inputs", options->save_inputs,
                      "Write the inputs to a .npz or .safetensors file, for `compare --inputs`");
  command->add_option("--output", options->output,
                      "Write outputs to a .npz, .safetensors or .npy file");
  command->add_option("--select", options->select, "Outputs wanted (repeat); none: all");
  command->callback([options, &session] {
    session.Run([&](const client::Client& client) -> absl::StatusOr<int> {
      auto call = options->call.Build(client, options->call.random(), {});
      if (!call.ok()) return call.status();
      if (!options->save_inputs.empty()) {
        const absl::Status written = WriteTensors(options->save_inputs, call->inputs);
        if (!written.ok()) return written;
      }
      call->outputs = options->select;
      absl::StatusOr<client::Result> result;
      {
        const Progress progress = Waiting("evaluating " + call->op);
        result = client.Evaluate(*std::move(call));
      }
      if (!result.ok()) return result.status();
      if (!options->output.empty()) {
        const absl::Status written = WriteTensors(options->output, result->outputs);
        if (!written.ok()) return written;
      }
      if (session.json) {
        std::cout << ResultJson(*result).dump(2) << "\n";
      } else {
        PrintResult(*result);
      }
      return 0;
    });
  });
}

void AddCompare(CLI::App& app, Session& session) {
  auto options = std::make_shared<CallOptions>();
  CLI::App* command = app.add_subcommand(
      "compare",
      "A kernel against the float64 definition, on files or on random inputs that the "
      "server draws; exit status 1 if outside the tolerance");
  options->AddTo(*command);
  command->callback([options, &session] {
    session.Run([&](const client::Client& client) -> absl::StatusOr<int> {
      absl::StatusOr<v1::CompareResponse> report;
      if (options->has_files()) {
        auto call = options->Build(client, options->random(), {});
        if (!call.ok()) return call.status();
        const Progress progress = Waiting("comparing " + options->op());
        report = client.Compare(*std::move(call));
      } else {
        const auto random = options->RandomRequest();
        if (!random.ok()) return random.status();
        auto call = options->WithoutInputs(client);
        if (!call.ok()) return call.status();
        const Progress progress = Waiting("comparing " + options->op());
        report = client.Compare(*std::move(call), &*random);
      }
      if (!report.ok()) return report.status();
      if (session.json) {
        std::cout << ComparisonJson(*report).dump(2) << "\n";
      } else {
        PrintComparison(options->op(), *report);
      }
      return report->within_tolerance() ? 0 : 1;
    });
  });
}

}  // namespace attnd::cli
