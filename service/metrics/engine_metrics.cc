#include "service/metrics/engine_metrics.h"

#include <algorithm>
#include <utility>

#include "service/metrics/buckets.h"

namespace attnd {

using prometheus::BuildCounter;
using prometheus::BuildHistogram;

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

void OpMetrics::RecordError(const NumericsReport& report) {
  double relative = 0;
  double max_abs = 0;
  int64_t nonfinite = 0;
  for (const ErrorReport& output : report.outputs) {
    relative = std::max(relative, output.relative);
    max_abs = std::max(max_abs, output.max_abs);
    nonfinite += output.nonfinite_mismatch;
  }
  absl::MutexLock lock(&mu_);
  Kernel& of = Of(report.kernel);
  if (of.relative_error == nullptr) {
    const prometheus::Labels labels = {{"op", op_}, {"kernel", of.name}};
    of.relative_error = &families_.relative_error.Add(labels, ErrorBuckets());
    of.max_abs_error = &families_.max_abs_error.Add(labels, ErrorBuckets());
    of.nonfinite = &families_.nonfinite.Add(labels);
  }
  of.relative_error->Observe(relative);
  of.max_abs_error->Observe(max_abs);
  of.nonfinite->Increment(static_cast<double>(nonfinite));
}

void OpMetrics::RecordFallback(absl::string_view from, size_t calls) {
  absl::MutexLock lock(&mu_);
  Kernel& of = Of(from);
  if (of.fallbacks == nullptr) {
    of.fallbacks = &families_.fallbacks.Add({{"op", op_},
                                             {"from", of.name},
                                             {"to", "composed"},
                                             {"cause", from.empty() ? "no_kernel" : "declined"}});
  }
  of.fallbacks->Increment(static_cast<double>(calls));
}

EngineMetrics::EngineMetrics(prometheus::Registry& registry, const Registry& operators)
    : rejected_family_(BuildCounter()
                           .Name("attnd_rpc_rejected_total")
                           .Help("Calls refused before they were queued, by cause.")
                           .Register(registry)),
      cancelled_family_(BuildCounter()
                            .Name("attnd_rpc_cancelled_total")
                            .Help("Calls whose client left before the answer, by stage.")
                            .Register(registry)),
      late_family_(BuildCounter()
                       .Name("attnd_deadline_exceeded_total")
                       .Help("Calls whose deadline passed before the answer, by stage.")
                       .Register(registry)),
      fire_family_(BuildCounter()
                       .Name("attnd_batch_fire_total")
                       .Help("Launches, by what ended their batch: no further call that fits "
                             "(no_more), --max-batch-calls, --max-batch-bytes.")
                       .Register(registry)),
      rejected_invalid(rejected_family_.Add({{"cause", "invalid"}})),
      rejected_too_large(rejected_family_.Add({{"cause", "too_large"}})),
      rejected_queue_full(rejected_family_.Add({{"cause", "queue_full"}})),
      rejected_draining(rejected_family_.Add({{"cause", "draining"}})),
      rejected_no_worker(rejected_family_.Add({{"cause", "no_worker"}})),
      rejected_buffer_full(rejected_family_.Add({{"cause", "buffer_full"}})),
      rejected_memory_full(rejected_family_.Add({{"cause", "memory_full"}})),
      cancelled_receiving(cancelled_family_.Add({{"stage", "receiving"}})),
      cancelled_queued(cancelled_family_.Add({{"stage", "queued"}})),
      cancelled_running(cancelled_family_.Add({{"stage", "running"}})),
      late_receiving(late_family_.Add({{"stage", "receiving"}})),
      late_queued(late_family_.Add({{"stage", "queued"}})),
      late_running(late_family_.Add({{"stage", "running"}})),
      fired_no_more(fire_family_.Add({{"reason", "no_more"}})),
      fired_max_calls(fire_family_.Add({{"reason", "max_calls"}})),
      fired_max_bytes(fire_family_.Add({{"reason", "max_bytes"}})),
      launches_ended_early(BuildCounter()
                               .Name("attnd_launches_ended_early_total")
                               .Help("Launches that a worker ended early, or never began, because "
                                     "nobody waited for them any more.")
                               .Register(registry)
                               .Add({})),
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
      .max_abs_error = BuildHistogram()
                           .Name("attnd_op_max_abs_error")
                           .Help("Largest absolute error of an output against float64, from "
                                 "numerics reports that clients asked for.")
                           .Register(registry),
      .nonfinite = BuildCounter()
                       .Name("attnd_op_nonfinite_total")
                       .Help("Elements that are NaN or infinite where float64's are not, or the "
                             "other way round, in numerics reports that clients asked for.")
                       .Register(registry),
      .fallbacks = BuildCounter()
                       .Name("attnd_kernel_fallback_total")
                       .Help("Calls that ran as the composed definition although none asked for "
                             "it: the device's kernels declined them, or there is none.")
                       .Register(registry),
  };
  for (const Operator* op : operators.operators()) {
    ops_.emplace(op->spec.id(), std::make_unique<OpMetrics>(families, op->spec.id()));
  }
}

}  // namespace attnd
