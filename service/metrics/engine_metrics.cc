#include "service/metrics/engine_metrics.h"

#include <utility>

#include "service/metrics/buckets.h"

namespace attnd {

using prometheus::BuildCounter;
using prometheus::BuildHistogram;

absl::string_view CodeName(absl::StatusCode code) {
  static constexpr std::array<absl::string_view, 17> kNames = {"OK",
                                                               "CANCELLED",
                                                               "UNKNOWN",
                                                               "INVALID_ARGUMENT",
                                                               "DEADLINE_EXCEEDED",
                                                               "NOT_FOUND",
                                                               "ALREADY_EXISTS",
                                                               "PERMISSION_DENIED",
                                                               "RESOURCE_EXHAUSTED",
                                                               "FAILED_PRECONDITION",
                                                               "ABORTED",
                                                               "OUT_OF_RANGE",
                                                               "UNIMPLEMENTED",
                                                               "INTERNAL",
                                                               "UNAVAILABLE",
                                                               "DATA_LOSS",
                                                               "UNAUTHENTICATED"};
  const auto index = static_cast<size_t>(code);
  return index < kNames.size() ? kNames[index] : "UNKNOWN";
}

OpMetrics::OpMetrics(const Families& families, std::string op)
    : families_(families),
      op_(std::move(op)),
      batch_size_(families.batch_size.Add({{"op", op_}}, BatchBuckets())) {}

OpMetrics::Kernel& OpMetrics::Of(absl::string_view kernel) {
  for (const auto& known : kernels_) {
    if (known->name == kernel) return *known;
  }
  auto made = std::make_unique<Kernel>();
  made->name = std::string(kernel);
  kernels_.push_back(std::move(made));
  return *kernels_.back();
}

void OpMetrics::RecordLaunch(absl::string_view kernel, DType dtype, absl::StatusCode code,
                             size_t calls, absl::Duration compute) {
  absl::MutexLock lock(&mu_);
  Kernel& of = Of(kernel);
  auto& counter = of.evaluations[static_cast<size_t>(dtype)][static_cast<size_t>(code) % 17];
  if (counter == nullptr) {
    counter = &families_.evaluations.Add({{"op", op_},
                                          {"kernel", of.name},
                                          {"dtype", std::string(Name(dtype))},
                                          {"code", std::string(CodeName(code))}});
  }
  counter->Increment(static_cast<double>(calls));
  if (code != absl::StatusCode::kOk) return;
  if (of.compute_seconds == nullptr) {
    of.compute_seconds =
        &families_.compute_seconds.Add({{"op", op_}, {"kernel", of.name}}, ComputeBuckets());
  }
  of.compute_seconds->Observe(absl::ToDoubleSeconds(compute));
  batch_size_.Observe(static_cast<double>(calls));
}

void OpMetrics::RecordError(absl::string_view kernel, double relative) {
  absl::MutexLock lock(&mu_);
  Kernel& of = Of(kernel);
  if (of.relative_error == nullptr) {
    of.relative_error =
        &families_.relative_error.Add({{"op", op_}, {"kernel", of.name}}, ErrorBuckets());
  }
  of.relative_error->Observe(relative);
}

EngineMetrics::EngineMetrics(prometheus::Registry& registry, const Registry& operators)
    : rejected_family_(BuildCounter()
                           .Name("attnd_rpc_rejected_total")
                           .Help("Calls refused before they were queued, by cause.")
                           .Register(registry)),
      cancelled_family_(BuildCounter()
                            .Name("attnd_rpc_cancelled_total")
                            .Help("Calls dropped because their client left, by stage.")
                            .Register(registry)),
      late_family_(BuildCounter()
                       .Name("attnd_deadline_exceeded_total")
                       .Help("Calls dropped because their deadline passed, by stage.")
                       .Register(registry)),
      rejected_invalid(rejected_family_.Add({{"cause", "invalid"}})),
      rejected_too_large(rejected_family_.Add({{"cause", "too_large"}})),
      rejected_queue_full(rejected_family_.Add({{"cause", "queue_full"}})),
      rejected_draining(rejected_family_.Add({{"cause", "draining"}})),
      rejected_no_worker(rejected_family_.Add({{"cause", "no_worker"}})),
      cancelled_queued(cancelled_family_.Add({{"stage", "queued"}})),
      late_queued(late_family_.Add({{"stage", "queued"}})),
      queue_wait(BuildHistogram()
                     .Name("attnd_queue_wait_seconds")
                     .Help("From admission of a call to the start of its launch.")
                     .Register(registry)
                     .Add({}, ComputeBuckets())) {
  const OpMetrics::Families families = {
      .evaluations = BuildCounter()
                         .Name("attnd_op_evaluations_total")
                         .Help("Calls that reached a worker, by operator, kernel, type and code.")
                         .Register(registry),
      .compute_seconds = BuildHistogram()
                             .Name("attnd_op_compute_seconds")
                             .Help("Time of a launch on the device.")
                             .Register(registry),
      .batch_size = BuildHistogram()
                        .Name("attnd_batch_size")
                        .Help("Calls that shared a launch.")
                        .Register(registry),
      .relative_error = BuildHistogram()
                            .Name("attnd_op_relative_error")
                            .Help("Worst relative error of an output against float64, from "
                                  "numerics reports that clients asked for.")
                            .Register(registry),
  };
  for (const Operator* op : operators.operators()) {
    ops_.emplace(op->spec.id(), std::make_unique<OpMetrics>(families, op->spec.id()));
  }
}

}  // namespace attnd
