// What the program prints: tables for people, progress on a terminal, errors.
#ifndef ATTND_CLIENTS_CLI_OUTPUT_H_
#define ATTND_CLIENTS_CLI_OUTPUT_H_

#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace google::protobuf {
class Message;
}  // namespace google::protobuf

namespace attnd::cli {

// Columns as wide as they need to be, two spaces apart; numbers to the right.
class Table {
 public:
  explicit Table(std::vector<std::string> header) { rows_.push_back(std::move(header)); }
  void Add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  std::string ToString() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

// The message as JSON on standard output, fields by their names, absent ones too.
absl::Status PrintJson(const google::protobuf::Message& message);

// "0.000123" as people read it: four significant digits.
std::string Number(double value);

// "12.3 ms".
std::string Duration(double seconds);

// While it lives, shows `line()` on standard error twice a second, beginning after half a second.
// Nothing where standard error is no terminal.
class Progress {
 public:
  explicit Progress(std::function<std::string()> line);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

 private:
  std::jthread thread_;
};

// "attndctl: INVALID_ARGUMENT: ..." on standard error. Returns the program's exit status.
int Report(const absl::Status& status);

}  // namespace attnd::cli

#endif  // ATTND_CLIENTS_CLI_OUTPUT_H_
