#include "service/metrics/process_metrics.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <memory>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "service/version.h"

namespace attnd {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double OpenFiles() {
  const std::unique_ptr<DIR, int (*)(DIR*)> directory(opendir("/proc/self/fd"), closedir);
  if (directory == nullptr) return 0;
  double count = -3;  // ".", ".." and the directory itself.
  while (readdir(directory.get()) != nullptr) ++count;
  return count;
}

double MaxFiles() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<double>(limit.rlim_cur);
}

double Threads() {
  std::ifstream status("/proc/self/status");
  std::string key;
  while (status >> key) {
    double value = 0;
    if (key == "Threads:" && status >> value) return value;
  }
  return 0;
}

}  // namespace

MetricFamily SingleMetric(std::string name, std::string help, MetricType type, double value) {
  MetricFamily family{std::move(name), std::move(help), type, {}};
  ClientMetric sample;
  sample.counter.value = value;
  sample.gauge.value = value;
  family.metric.push_back(std::move(sample));
  return family;
}

ClientMetric GaugeSample(std::vector<ClientMetric::Label> labels, double value) {
  ClientMetric sample;
  sample.label = std::move(labels);
  sample.counter.value = value;
  sample.gauge.value = value;
  return sample;
}

ProcessMetrics::ProcessMetrics(std::string mode)
    : mode_(std::move(mode)),
      start_seconds_(absl::ToDoubleSeconds(absl::Now() - absl::UnixEpoch())) {}

std::vector<MetricFamily> ProcessMetrics::Collect() const {
  double virtual_pages = 0;
  double resident_pages = 0;
  std::ifstream("/proc/self/statm") >> virtual_pages >> resident_pages;
  const auto page = static_cast<double>(sysconf(_SC_PAGESIZE));
  MetricFamily build{
      "attnd_build_info", "Always 1; the facts are in the labels.", MetricType::Gauge, {}};
  build.metric.push_back(GaugeSample({{"version", std::string(kVersion)}, {"mode", mode_}}, 1));
  return {
      std::move(build),
      SingleMetric("process_cpu_seconds_total", "User and system time.", MetricType::Counter,
                   CpuSeconds()),
      SingleMetric("process_resident_memory_bytes", "Resident memory.", MetricType::Gauge,
                   resident_pages * page),
      SingleMetric("process_virtual_memory_bytes", "Virtual memory.", MetricType::Gauge,
                   virtual_pages * page),
      SingleMetric("process_open_fds", "Open file descriptors.", MetricType::Gauge, OpenFiles()),
      SingleMetric("process_max_fds", "Limit of open file descriptors.", MetricType::Gauge,
                   MaxFiles()),
      SingleMetric("process_threads", "Threads.", MetricType::Gauge, Threads()),
      SingleMetric("process_start_time_seconds", "Start, in Unix time.", MetricType::Gauge,
                   start_seconds_),
  };
}

}  // namespace attnd
