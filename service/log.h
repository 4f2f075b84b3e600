// Structured logs on stderr: one line per event, as JSON or as text.
#ifndef ATTND_SERVICE_LOG_H_
#define ATTND_SERVICE_LOG_H_

#include <concepts>
#include <initializer_list>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"

namespace attnd {

enum class LogLevel : uint8_t { kDebug, kInfo, kWarn, kError };
enum class LogFormat : uint8_t { kJson, kText };

// A named value of a log line. Numbers and booleans are written bare, all else as a string.
struct LogField {
  LogField(absl::string_view k, absl::string_view v) : key(k), value(v), quoted(true) {}
  LogField(absl::string_view k, const char* v) : LogField(k, absl::string_view(v)) {}
  LogField(absl::string_view k, const std::string& v) : LogField(k, absl::string_view(v)) {}
  LogField(absl::string_view k, bool v) : key(k), value(v ? "true" : "false"), quoted(false) {}
  template <typename Number>
  requires(std::integral<Number> || std::floating_point<Number>)
      LogField(absl::string_view k, Number v)
      : key(k), value(absl::StrCat(v)), quoted(false) {}

  absl::string_view key;
  std::string value;
  bool quoted;
};

// Before the first thread starts.
void ConfigureLog(LogLevel level, LogFormat format);

bool LogEnabled(LogLevel level);

// Thread-safe. {"time":"2026-01-31T12:00:00.000Z","level":"info","message":"worker
// state","worker":"local"}
void Log(LogLevel level, absl::string_view message, std::initializer_list<LogField> fields = {});

// One line in either format, without its line break. For tests.
std::string FormatLogLine(LogFormat format, absl::string_view time, LogLevel level,
                          absl::string_view message, std::initializer_list<LogField> fields);

}  // namespace attnd

#endif  // ATTND_SERVICE_LOG_H_
