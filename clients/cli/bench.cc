// bench: closed loop, every worker sends its next call when the last one is answered.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <iostream>
#include <memory>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "clients/cli/call_options.h"
#include "clients/cli/commands.h"
#include "clients/cli/output.h"
#include "nlohmann/json.hpp"

namespace attnd::cli {
namespace {

using Json = nlohmann::ordered_json;

// Sizes of a call where the user names none: a few heads of a short prompt.
std::map<std::string, int64_t> UsualSizes() {
  return {{"B", 1}, {"T", 512}, {"S", 512}, {"H", 4}, {"HK", 4}, {"HV", 4}, {"K", 64}, {"V", 64}};
}

struct Tally {
  std::vector<double> seconds;  // One for each answered call.
  int64_t failed = 0;
  absl::Status first_error;
  double queue = 0, compute = 0, batch = 0;
  int64_t bytes_out = 0;
  std::string kernel, device;

  void Merge(Tally other) {
    seconds.insert(seconds.end(), other.seconds.begin(), other.seconds.end());
    failed += other.failed;
    if (first_error.ok()) first_error = other.first_error;
    queue += other.queue;
    compute += other.compute;
    batch += other.batch;
    bytes_out += other.bytes_out;
    if (kernel.empty()) std::swap(kernel, other.kernel);
    if (device.empty()) std::swap(device, other.device);
  }
};

Tally Loop(const client::Client& client, const client::Call& call, absl::Time end,
           std::atomic<int64_t>& answered) {
  Tally tally;
  while (absl::Now() < end) {
    client::Call copy = call;
    const absl::Time begin = absl::Now();
    const auto result = client.Evaluate(std::move(copy));
    const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
    if (!result.ok()) {
      if (tally.failed++ == 0) tally.first_error = result.status();
      continue;
    }
    ++answered;
    tally.seconds.push_back(seconds);
    tally.queue += absl::ToDoubleSeconds(result->queue);
    tally.compute += absl::ToDoubleSeconds(result->compute);
    tally.batch += result->batch_size;
    for (const auto& [name, tensor] : result->outputs) {
      tally.bytes_out += static_cast<int64_t>(tensor.bytes.size());
    }
    tally.kernel = result->kernel;
    tally.device = result->device;
  }
  return tally;
}

// Of sorted samples: the smallest that at least the share `p` of them do not exceed.
double Percentile(const std::vector<double>& sorted, double p) {
  const auto rank = static_cast<size_t>(std::ceil(p * static_cast<double>(sorted.size())));
  return sorted[std::clamp<size_t>(rank, 1, sorted.size()) - 1];
}

struct Measurement {
  Tally tally;
  double seconds = 0;
  int64_t bytes_in_each = 0;
  int concurrency = 0;
};

Json MeasurementJson(const std::string& op, const Measurement& m) {
  const auto& samples = m.tally.seconds;
  const double count = static_cast<double>(samples.size());
  return {{"op", op},
          {"kernel", m.tally.kernel},
          {"device", m.tally.device},
          {"concurrency", m.concurrency},
          {"seconds", m.seconds},
          {"calls", samples.size()},
          {"failed", m.tally.failed},
          {"calls_per_second", count / m.seconds},
          {"input_bytes_per_second", static_cast<double>(m.bytes_in_each) * count / m.seconds},
          {"output_bytes_per_second", static_cast<double>(m.tally.bytes_out) / m.seconds},
          {"mean_batch_size", m.tally.batch / count},
          {"mean_queue_us", m.tally.queue / count * 1e6},
          {"mean_compute_us", m.tally.compute / count * 1e6},
          {"latency_us",
           {{"p50", Percentile(samples, 0.5) * 1e6},
            {"p90", Percentile(samples, 0.9) * 1e6},
            {"p99", Percentile(samples, 0.99) * 1e6},
            {"p999", Percentile(samples, 0.999) * 1e6},
            {"max", samples.back() * 1e6}}}};
}

void PrintMeasurement(const std::string& op, const Measurement& m) {
  const auto& samples = m.tally.seconds;
  const double count = static_cast<double>(samples.size());
  std::cout << op << ": " << m.tally.kernel << " on " << m.tally.device << ", " << m.concurrency
            << " at a time for " << Duration(m.seconds) << "\n"
            << absl::StrFormat("%d calls, %d failed: %.1f calls/s, %.1f MB/s in, %.1f MB/s out\n",
                               static_cast<int64_t>(samples.size()), m.tally.failed,
                               count / m.seconds,
                               static_cast<double>(m.bytes_in_each) * count / m.seconds * 1e-6,
                               static_cast<double>(m.tally.bytes_out) / m.seconds * 1e-6);
  Table table({"P50", "P90", "P99", "P99.9", "MAX", "QUEUE", "COMPUTE", "BATCH"});
  table.Add({Duration(Percentile(samples, 0.5)), Duration(Percentile(samples, 0.9)),
             Duration(Percentile(samples, 0.99)), Duration(Percentile(samples, 0.999)),
             Duration(samples.back()), Duration(m.tally.queue / count),
             Duration(m.tally.compute / count), absl::StrFormat("%.2f", m.tally.batch / count)});
  std::cout << table.ToString();
}

Measurement Measure(const client::Client& client, const client::Call& call, int concurrency,
                    double seconds) {
  std::atomic<int64_t> answered = 0;
  std::vector<Tally> tallies(concurrency);
  Measurement m;
  m.concurrency = concurrency;
  for (const auto& [name, tensor] : call.inputs) {
    m.bytes_in_each += static_cast<int64_t>(tensor.bytes.size());
  }
  const absl::Time begin = absl::Now();
  const absl::Time end = begin + absl::Seconds(seconds);
  {
    const Progress progress([&] {
      const double passed = absl::ToDoubleSeconds(absl::Now() - begin);
      return absl::StrFormat("%.1f of %.1f s, %.1f calls/s", passed, seconds,
                             static_cast<double>(answered) / passed);
    });
    std::vector<std::jthread> workers;
    workers.reserve(tallies.size());
    for (Tally& tally : tallies) {
      workers.emplace_back([&] { tally = Loop(client, call, end, answered); });
    }
  }
  m.seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  for (Tally& tally : tallies) m.tally.Merge(std::move(tally));
  std::sort(m.tally.seconds.begin(), m.tally.seconds.end());
  return m;
}

}  // namespace

void AddBench(CLI::App& app, Session& session) {
  struct Options {
    CallOptions call;
    int concurrency = 1;
    double seconds = 5;
  };
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand(
      "bench", "Calls per second and latency, with random inputs unless files are given");
  options->call.AddTo(*command);
  command->add_option("--concurrency", options->concurrency, "Calls under way at a time")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  command->add_option("--seconds", options->seconds, "How long")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  command->callback([options, &session] {
    session.Run([&](const client::Client& client) -> absl::StatusOr<int> {
      const bool random = options->call.random() || !options->call.has_files();
      const auto call = options->call.Build(client, random, UsualSizes());
      if (!call.ok()) return call.status();
      // The first call shows whether calls go through at all, and warms up what there is.
      const auto first = client.Evaluate(*call);
      if (!first.ok()) return first.status();
      const Measurement m = Measure(client, *call, options->concurrency, options->seconds);
      if (m.tally.seconds.empty()) return m.tally.first_error;
      if (session.json) {
        std::cout << MeasurementJson(call->op, m).dump(2) << "\n";
      } else {
        PrintMeasurement(call->op, m);
      }
      if (m.tally.failed > 0) return m.tally.first_error;
      return 0;
    });
  });
}

}  // namespace attnd::cli
