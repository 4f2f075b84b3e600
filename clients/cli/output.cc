#include "clients/cli/output.h"

#include <google/protobuf/util/json_util.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <iostream>
#include <mutex>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"

namespace attnd::cli {
namespace {

bool LooksLikeNumber(const std::string& cell) {
  return !cell.empty() &&
         (cell[0] == '-' || (cell[0] >= '0' && cell[0] <= '9') || cell == "nan" || cell == "inf");
}

}  // namespace

std::string Table::ToString() const {
  std::vector<size_t> widths;
  std::vector<bool> numeric;
  for (size_t row = 0; row < rows_.size(); ++row) {
    widths.resize(std::max(widths.size(), rows_[row].size()), 0);
    numeric.resize(widths.size(), true);
    for (size_t column = 0; column < rows_[row].size(); ++column) {
      const std::string& cell = rows_[row][column];
      widths[column] = std::max(widths[column], cell.size());
      if (row > 0 && !cell.empty() && !LooksLikeNumber(cell)) numeric[column] = false;
    }
  }
  std::string text;
  for (const auto& row : rows_) {
    std::string line;
    for (size_t column = 0; column < row.size(); ++column) {
      const std::string padding(widths[column] - row[column].size(), ' ');
      if (column > 0) line += "  ";
      line += numeric[column] && rows_.size() > 1 ? padding + row[column] : row[column] + padding;
    }
    text += std::string(absl::StripTrailingAsciiWhitespace(line)) + "\n";
  }
  return text;
}

absl::Status PrintJson(const google::protobuf::Message& message) {
  google::protobuf::util::JsonPrintOptions options;
  options.add_whitespace = true;
  options.preserve_proto_field_names = true;
  options.always_print_primitive_fields = true;
  std::string json;
  const auto status = google::protobuf::util::MessageToJsonString(message, &json, options);
  if (!status.ok()) return absl::InternalError(status.ToString());
  std::cout << json;
  return absl::OkStatus();
}

std::string Number(double value) { return absl::StrFormat("%.4g", value); }

std::string Duration(double seconds) {
  if (seconds < 1e-3) return absl::StrFormat("%.1f us", seconds * 1e6);
  if (seconds < 1) return absl::StrFormat("%.2f ms", seconds * 1e3);
  return absl::StrFormat("%.2f s", seconds);
}

Progress::Progress(std::function<std::string()> line) {
  if (isatty(STDERR_FILENO) == 0) return;
  thread_ = std::jthread([line = std::move(line)](std::stop_token stop) {
    std::mutex mutex;
    std::condition_variable_any wake;
    std::unique_lock lock(mutex);
    constexpr absl::string_view kClear = "\r\033[K";
    bool shown = false;
    while (!wake.wait_for(lock, stop, std::chrono::milliseconds(500),
                          [&] { return stop.stop_requested(); })) {
      std::cerr << kClear << line() << std::flush;
      shown = true;
    }
    if (shown) std::cerr << kClear << std::flush;
  });
}

Progress::~Progress() = default;

int Report(const absl::Status& status) {
  std::cerr << "attndctl: " << absl::StatusCodeToString(status.code()) << ": " << status.message()
            << "\n";
  return 1;
}

}  // namespace attnd::cli
