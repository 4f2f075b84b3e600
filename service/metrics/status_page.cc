#include "service/metrics/status_page.h"

#include <prometheus/text_serializer.h>

#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "service/clock.h"
#include "service/version.h"

namespace attnd {
namespace {

std::string Escape(absl::string_view text) {
  return absl::StrReplaceAll(text,
                             {{"&", "&amp;"}, {"<", "&lt;"}, {">", "&gt;"}, {"\"", "&quot;"}});
}

constexpr absl::string_view kHead =
    "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>attnd</title><style>"
    "body{font:15px/1.4 "
    "sans-serif;margin:2em;max-width:70em}table{border-collapse:collapse;margin:.5em 0 "
    "1.5em}th,td{text-align:left;padding:.2em 1em .2em 0;border-bottom:1px solid "
    "#ddd}td.n{text-align:"
    "right}</style></head><body>";

void AppendRow(std::string& html, std::initializer_list<std::string> cells) {
  html += "<tr>";
  for (const std::string& cell : cells) absl::StrAppend(&html, "<td>", cell, "</td>");
  html += "</tr>\n";
}

double Milliseconds(uint64_t ns, uint64_t count) {
  return count == 0 ? 0 : 1e-6 * static_cast<double>(ns) / static_cast<double>(count);
}

std::string MakePage(const RouterEngine& engine, const std::string& mode, absl::Duration uptime) {
  const RouterEngine::Snapshot now = engine.snapshot();
  std::string html(kHead);
  absl::StrAppend(&html, "<h1>attnd ", kVersion, "</h1>\n<table>\n");
  AppendRow(html, {"Mode", Escape(mode)});
  AppendRow(html, {"State", now.draining ? "draining" : engine.ready() ? "ready" : "no worker"});
  AppendRow(html, {"Up for", absl::FormatDuration(absl::Trunc(uptime, absl::Seconds(1)))});
  size_t waiting = 0;
  for (const size_t calls : now.waiting) waiting += calls;
  AppendRow(html, {"Calls running", absl::StrCat(now.running)});
  AppendRow(html, {"Calls waiting", absl::StrCat(waiting, " (", now.waiting_bytes, " bytes)")});
  html +=
      "</table>\n<p><a href=\"/metrics\">metrics</a> <a href=\"/readyz\">readyz</a></p>\n"
      "<h2>Workers</h2>\n<table><tr><th>Name</th><th>State</th><th>Device</th><th>Launches</th>"
      "<th>Restarts</th></tr>\n";
  for (const auto& worker : now.workers) {
    AppendRow(html, {Escape(worker.name), std::string(Name(worker.state)), Escape(worker.device),
                     absl::StrCat(worker.running), absl::StrCat(worker.restarts)});
  }
  html +=
      "</table>\n<h2>Operators</h2>\n<table><tr><th>Operator</th><th>Kernels</th><th>Calls</th>"
      "<th>Failed</th><th>Launches</th><th>Mean time</th><th>Mean wait</th></tr>\n";
  for (const Operator* op : engine.registry().operators()) {
    const std::string& id = op->spec.id();
    const Engine::OpStatistics s = engine.Statistics(id);
    std::string kernels;
    for (const auto& kernel : engine.KernelsOf(id)) absl::StrAppend(&kernels, kernel.name, " ");
    AppendRow(html, {absl::StrCat("<span title=\"", Escape(op->spec.text().summary), "\">",
                                  Escape(id), "</span>"),
                     Escape(kernels), absl::StrCat(s.success_count), absl::StrCat(s.fail_count),
                     absl::StrCat(s.execution_count),
                     absl::StrFormat("%.3f ms", Milliseconds(s.success_ns, s.success_count)),
                     absl::StrFormat("%.3f ms", Milliseconds(s.queue_ns, s.success_count))});
  }
  html += "</table></body></html>\n";
  return html;
}

}  // namespace

HttpPages MakeStatusPages(const RouterEngine& engine, std::string mode,
                          std::vector<std::shared_ptr<prometheus::Collectable>> metrics) {
  HttpPages pages;
  pages["/metrics"] = [metrics = std::move(metrics)] {
    std::vector<prometheus::MetricFamily> families;
    for (const auto& source : metrics) {
      std::vector<prometheus::MetricFamily> some = source->Collect();
      families.insert(families.end(), std::make_move_iterator(some.begin()),
                      std::make_move_iterator(some.end()));
    }
    return HttpPage{.content_type = "text/plain; version=0.0.4; charset=utf-8",
                    .body = prometheus::TextSerializer().Serialize(families)};
  };
  pages["/healthz"] = [] { return HttpPage{.body = "ok\n"}; };
  pages["/readyz"] = [&engine] {
    return engine.ready() ? HttpPage{.body = "ready\n"}
                          : HttpPage{.status = 503, .body = "not ready\n"};
  };
  pages["/"] = [&engine, mode = std::move(mode), start = MonotonicNow()] {
    return HttpPage{.content_type = "text/html; charset=utf-8",
                    .body = MakePage(engine, mode, MonotonicNow() - start)};
  };
  return pages;
}

}  // namespace attnd
